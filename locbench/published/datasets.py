"""Published facts of data sets: how many images and classes, and the checksums of their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Official:
    """A published data set in torchvision's files: what they are called, and what is in them.

    files: their md5 as torchvision knows it, by path; names: the file of the class names, which
    torchvision does not check; download: the Python that fetches them into {folder}.
    """

    files: dict[str, str]
    download: str
    classes: int
    train: int
    test: int
    names: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """All files that have to be there."""
        return (*self.files, *([self.names] if self.names else []))

    def where(self, *folders: Path) -> Path | None:
        """The first of the folders that has any of the files."""
        held = (f for f in folders if any((f / path).is_file() for path in self.paths))
        return next(held, None)


OFFICIAL = {
    "cifar10": Official(
        files={
            "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
            "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
            "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
            "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
        download="torchvision.datasets.CIFAR10('{folder}', download=True)",
        classes=10,
        train=50_000,
        test=10_000,
    ),
    "svhn": Official(
        files={
            "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
            "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        },
        download="[torchvision.datasets.SVHN('{folder}', split, download=True) "
        "for split in ('train', 'test')]",
        classes=10,
        train=73_257,
        test=26_032,
    ),
    "stl10": Official(
        files={
            "stl10_binary/train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
            "stl10_binary/train_y.bin": "5a34089d4802c674881badbb80307741",
            "stl10_binary/test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
            "stl10_binary/test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
        },
        download="torchvision.datasets.STL10('{folder}', download=True)",
        classes=10,
        train=5_000,
        test=8_000,
        names="stl10_binary/class_names.txt",
    ),
}


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


def other_data(data: dict[str, Any], name: str) -> list[str]:
    """How this data differs from the published set of this name."""
    differences = [f"data set {data['name']}, not {name}"] if data["name"] != name else []
    for key, value in PUBLISHED_DATA.get(name, {}).items():
        if data[key] != value:
            differences.append(f"{PUBLISHED_COUNTS[key]} {data[key]:,}, not {value:,}")
    return differences
