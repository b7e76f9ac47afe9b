"""Data sets: the classes of a set and its splits, and loading a set by name.

Shapes is made here (`shapes`, `scenes`, `render`). Image folders and archives are loaded by
`folders` (and `streaming`), torchvision's files by `torchvision_sets`; `locate` finds both, and
`listing` and `digests` say which images there are and identify them by their bytes. All end in one
cache of memory-mapped arrays (`cache`). What training does to images is in `augmentation` and
`crop`. Add a data set as a function here and a line in `locbench.plugins.registry`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from locbench.errors import UserError
from locbench.plugins.registry import DATASETS

if TYPE_CHECKING:  # `locbench.data.fingerprint` is read by commands that must not import torch
    import numpy as np
    import torch
    from torch import Tensor

# Called with the work, how many are done and of how many: ("decoding train", 512, 4800).
Progress = Callable[[str, int, int], None]


class Images(Protocol):
    """The protocol of a split that training and probes use: `Split` and `StreamingSplit`."""

    targets: Tensor

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] of the images at `indices` (int64 [B])."""
        ...


@dataclass(frozen=True)
class Split:
    """Images of one size, in memory or memory-mapped: uint8 [N, 3, H, W], and their targets."""

    images: Tensor | np.ndarray
    targets: Tensor  # int64 [N]

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] of the images at `indices` (int64 [B]), on the images' device."""
        import torch

        if isinstance(self.images, torch.Tensor):
            return self.images[indices.to(self.images.device)]
        return torch.from_numpy(self.images[indices.cpu().numpy()])

    def to(self, device: torch.device | str) -> Split:
        """The same split with its images in the memory of `device`; targets stay on the CPU."""
        import torch

        images = self.images
        if not isinstance(images, torch.Tensor):
            images = torch.from_numpy(images.copy())
        return Split(images.to(device), self.targets)


def subset(split: Images, count: int, seed: int) -> Split:
    """`count` images drawn by a seed, balanced over the classes, in their original order.

    A larger subset holds every smaller one of its seed. Images are copied in memory, on their
    device. UserError where there are too few images, or where they are decoded when they are read.
    """
    import numpy as np
    import torch

    if not isinstance(split, Split):
        raise UserError(
            "data.train_images takes a part of a set that was decoded beforehand, and this one is "
            "too large for that: set it to 0, or give a folder of fewer images"
        )
    if not 0 < count <= len(split):
        raise UserError(f"data.train_images = {count}: set it to 1 ... {len(split)}, all there are")
    # A stream of numpy's, because it does not change between versions, and neither may the subset.
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed])))
    order = np.argsort(rng.random(len(split)), kind="stable")
    classes = split.targets.numpy()[order]
    rank = np.empty(len(split), dtype=np.int64)  # among the images of its class, in that order
    for name in np.unique(classes):
        members = np.flatnonzero(classes == name)
        rank[members] = np.arange(len(members))
    chosen = torch.from_numpy(np.sort(order[np.argsort(rank, kind="stable")[:count]]))
    return Split(split.batch(chosen), split.targets[chosen])


def memory_mapped(arrays: dict[str, np.ndarray], split: str) -> Split:
    """The split "train" or "test" of a cache entry's arrays."""
    import torch

    return Split(arrays[f"{split}_images"], torch.tensor(arrays[f"{split}_targets"]))


@dataclass(frozen=True)
class ImageData:
    """A data set; with `streaming` its splits decode images when they are read."""

    name: str
    version: int
    checksum: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    streaming: bool = False


def reduced(data: ImageData, train_images: int) -> ImageData:
    """The data set with this many training images, the same in every run; 0 for all of them."""
    return replace(data, train=subset(data.train, train_images, 0)) if train_images else data


def load_data(
    name: str, resolution: int, root: Path | None = None, progress: Progress | None = None
) -> ImageData:
    """The data set `name`: generated, or decoded into the cache, on first use.

    `resolution` is the side in pixels at which Shapes is drawn; images from files keep theirs, and
    augmentation brings them to it. `root` defaults to $LOCBENCH_DATA, else ./data; Shapes needs
    none. The name is another where images lie in the place of torchvision's files (see
    `locate.find_source`). Raises UserError, one line, for an unknown name and for everything that
    can be wrong with the files: missing ones, empty or differing classes, damaged images and
    archives.
    """
    return DATASETS.get(name)(resolution, root, progress)
