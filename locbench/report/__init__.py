"""Filled tables on their way out: verdicts, comparison with the reference, and every format.

Reads records, never trains. `filled` fills a table, `layout` says what people see of it, `formats`
writes it: a new output format is one writer there. Whatever else is printed as a table goes
through `grid`.
"""
