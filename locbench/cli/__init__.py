"""The command line: one file a command, or a group of them. Parses, calls, prints.

Nothing is computed here and no module imports torch at its top: `--help` answers in half a second.
"""


def main() -> None:
    """Entry point."""
    from locbench.cli import app

    app.main()
