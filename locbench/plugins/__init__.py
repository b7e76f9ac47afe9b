"""Registries of rules, networks, data sets and kinds of run; and what comes from outside.

A new component is a line in `registry`. Rules from outside are files (`rule_files`) or entry points
of packages (`entry_points`). No torch: a component is imported when it is used, not when it is
listed.
"""
