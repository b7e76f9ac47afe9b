"""Write records of schema 1 anew in today's schema, with a digest; nothing else of them changes.

    python tests/tools/seal_records.py [FOLDER]

FOLDER is results/records unless given. A record that has a digest is left as it is, and one that
cannot be read ends the work.
"""

from __future__ import annotations

import sys
from pathlib import Path

from locbench.paths import results_dir, write_atomic
from locbench.runs.record import Record, as_written, read_values


def main(folder: Path) -> None:
    """Seal every record that has no digest."""
    sealed = 0
    for path in sorted(folder.glob("*/record.json")):
        text = path.read_bytes()
        if as_written(read_values(text, path)) is None:
            write_atomic(path, Record.from_json(text, path).to_json())
            sealed += 1
    print(f"{sealed} records sealed in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else results_dir() / "records")
