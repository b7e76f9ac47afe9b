"""locbench: published tables of local learning, measured again, cell by cell."""

import os
from typing import Any

# Before torch reads it: OpenMP threads that spin while they wait for each other take the cores from
# one another where those are busy (2 to 10 times as slow). The user's own setting stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__all__ = ["__version__", "table"]


def __getattr__(name: str) -> Any:
    # `locbench.table` on first use: importing the package stays free of pandas and torch.
    if name == "table":
        from locbench.reproduce import table

        return table
    raise AttributeError(f"module 'locbench' has no attribute '{name}'")
