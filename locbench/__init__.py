"""locbench: published tables of local learning, measured again, cell by cell."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "table"]


def __getattr__(name: str) -> Any:
    # `locbench.table` on first use: importing the package stays free of pandas and torch.
    if name == "table":
        from locbench.reproduce import table

        return table
    raise AttributeError(f"module 'locbench' has no attribute '{name}'")
