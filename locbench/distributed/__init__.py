"""Several processes on one run: the group, its collectives, and batch norm over all of it.

With one process everything here does nothing. All that is random or summed in a step is made for
the whole step, so that the number of processes changes no result but by rounding.
"""
