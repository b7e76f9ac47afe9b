"""Several processes on one run: the group, its collectives, and batch norm over all of it.

With one process everything here does nothing.
"""
