"""The command line."""


def main() -> None:
    """Entry point."""
    from locbench.cli import app

    app.main()
