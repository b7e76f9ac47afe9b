"""locbench: published tables of local learning, measured again, cell by cell.

`locbench/README.md` shows the rooms on one page. Importing this needs no torch; `locbench.table`
gives a filled table as a data frame.
"""

import os
from typing import Any

# Before torch reads it: where cores are busy, OpenMP threads that spin while they wait for each
# other take them from one another, and a step takes many times as long. Where they are idle, a
# short spin is as good as a long one, and none at all (PASSIVE) makes steps of small operators half
# as fast. A user's setting stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # for OpenMP that is not GNU's

__version__ = "0.1.0"
__all__ = ["__version__", "table"]


def __getattr__(name: str) -> Any:
    # `locbench.table` on first use: importing the package stays free of pandas and torch.
    if name == "table":
        from locbench.report.frame import table

        return table
    raise AttributeError(f"module 'locbench' has no attribute '{name}'")
