"""What the data sets of published protocols hold."""

from __future__ import annotations

from typing import Any

from locbench.data.sources import OFFICIAL

# Other data is no ground for a verdict; and a dry run can be made before these are here.
PUBLISHED_DATA = {
    "imagenet": {"classes": 1000, "train": 1_281_167, "test": 50_000},
    "coco": {"classes": 80, "train": 118_287, "test": 5_000},
    "cityscapes": {"classes": 8, "train": 2_975, "test": 500},
    "imagenette": {"classes": 10, "train": 9_469, "test": 3_925},
    **{
        name: {"classes": official.classes, "train": official.train, "test": official.test}
        for name, official in OFFICIAL.items()
    },
}
PUBLISHED_COUNTS = {"classes": "classes", "train": "training images", "test": "test images"}


def other_data(data: dict[str, Any], asked: str) -> list[str]:
    """How this data differs from the published set of the name asked for."""
    found = [f"data set {data['name']}, not {asked}"] if data["name"] != asked else []
    for key, value in PUBLISHED_DATA.get(asked, {}).items():
        if data[key] != value:
            found.append(f"{PUBLISHED_COUNTS[key]} {data[key]:,}, not {value:,}")
    return found
