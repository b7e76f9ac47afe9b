"""The command line: one file a command or group of commands; parses, calls, prints."""


def main() -> None:
    """Entry point."""
    from locbench.cli import app

    app.main()
