"""Filled tables on their way out: verdicts, comparison with the reference, and every format.

Reads records, never trains. A new output format is one writer in `formats`.
"""
