"""What the papers print: tables, cells, claims, and the facts of the data sets they used.

Reads tables/PAPER/NAME.toml. Knows no run and no record.
"""
