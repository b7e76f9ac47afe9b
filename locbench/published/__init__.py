"""What the papers print: tables, cells, claims, and the facts of the data sets they used.

Reads tables/PAPER/NAME.toml, and refuses a table that asks for what locbench has not. Starts no run
and reads no record.
"""
