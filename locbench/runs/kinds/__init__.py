"""Kinds of run, one file each: what a run of it measures, how it is told apart, built and run.

A new evaluation is a new file here and a line in `locbench.plugins.registry.KINDS`. Modules of this
package import torch only inside of the methods that build and run.
"""
