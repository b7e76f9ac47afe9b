"""Registries of rules, networks and data sets, and what comes from outside: files, entry points.

Needs no torch: a component is imported when it is used, not when it is listed.
"""
