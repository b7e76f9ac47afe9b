"""The rule that the README shows, as the file that it says to write."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def barlow(folder: Path) -> Path:
    """barlow.py in this folder."""
    (code,) = re.findall(
        r"as `barlow\.py`:\n\n```python\n(.*?)^```", README.read_text(), re.M | re.S
    )
    path = folder / "barlow.py"
    path.write_text(code)
    return path
