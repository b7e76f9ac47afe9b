"""Runs: what is to be run, in which order, and the record that each leaves in the store.

A spec says what a run is and what its id is made from; the executor carries it out. Planning and
reading records need no torch.
"""
