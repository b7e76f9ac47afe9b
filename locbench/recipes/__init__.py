"""Training protocols: recipes/PAPER/NAME.toml read into frozen dataclasses, every value checked.

A new setting is a field of a section in `schema`. `reading` checks values against types, also those
of tables and records. Knows no table and no run.
"""
