"""Image folders and archives for tests, and what is said of broken ones."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from locbench.data import load_data
from locbench.data.fingerprint import fingerprint
from locbench.errors import UserError


def pixels(seed: int, width: int = 12, height: int = 12) -> np.ndarray:
    """Noise, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of random numbers on the CPU."""
    return torch.Generator().manual_seed(seed)


def noise(n: int, height: int, width: int | None = None) -> torch.Tensor:
    """Noise, uint8 [n, 3, height, width]; squares without a width."""
    shape = (n, 3, height, width or height)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded())


def save(path: Path, image: Image.Image | np.ndarray) -> None:
    """Write an image, and the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path)


def make_folder(
    root: Path, *, train: int = 3, val: int = 2, classes: str = "ab", **size: int
) -> Path:
    """A folder of PNGs; image i of class k shows `pixels(10 k + i)`, in val 100 more."""
    for split, count, base in (("train", train, 0), ("val", val, 100)):
        for place, name in enumerate(classes):
            for i in range(count):
                save(root / split / name / f"{i}.png", pixels(base + 10 * place + i, **size))
    return root


def pack(root: Path, target: Path, *, suffix: str = ".tar", prefix: bool = True) -> Path:
    """Archives of the splits in `root`; members start with the split's name where `prefix`."""
    target.mkdir(parents=True, exist_ok=True)
    for split in root.iterdir():
        with tarfile.open(
            target / f"{split.name}{suffix}", "w" if suffix == ".tar" else "w:gz"
        ) as archive:
            # Not in sorted order: the order in the archive must not matter.
            for path in sorted(split.rglob("*.*"), reverse=True):
                archive.add(path, path.relative_to(root if prefix else split))
    return target


def complaint(root: Path | None, name: str = "folder") -> str:
    """The one line that is said when the data set is loaded."""
    with pytest.raises(UserError) as caught:
        load_data(name, 8, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def checksum(root: Path, name: str = "folder") -> str:
    """The checksum of the data set under `root`."""
    return fingerprint(name, 8, root)["checksum"]
