"""Data sets: the classes of a set and its splits, and loading a set by name.

Shapes is made here (`shapes`, `scenes`, `render`). Image folders and archives are loaded by
`folders` (and `streaming`), torchvision's files by `torchvision_sets`; `locate` finds both, and
`listing` and `digests` say which images there are and identify them by their bytes. All end in one
cache of memory-mapped arrays (`cache`), or are decoded as they are read (`streaming`, `cuts`). What
training does to images is in `augmentation` and `crop`. Add a data set as a function here and a
line in `locbench.plugins.registry`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from locbench.errors import UserError
from locbench.plugins.registry import DATASETS

if TYPE_CHECKING:  # `locbench.data.fingerprint` is read by commands that must not import torch
    import numpy as np
    import torch
    from torch import Tensor

    from locbench.data.cuts import Cut

HELD_OUT = 1  # the seed by which validation images are drawn; those of `subset` have others

# Called with the work, how many are done and of how many: ("decoding train", 512, 4800).
Progress = Callable[[str, int, int], None]


class Images(Protocol):
    """The protocol of a split that training and probes use: `Split` and `StreamingSplit`.

    cuts: whether `start` gives images from which the cut has been taken, or whole ones.
    """

    targets: Tensor
    cuts: bool

    def __len__(self) -> int: ...

    def select(self, indices: Tensor) -> Images:
        """The split of these images alone (int64 [N])."""
        ...

    def start(self, indices: Tensor, make_cut: Callable[[], Cut]) -> Callable[[], Tensor]:
        """What gives the images at `indices` (int64 [B]), uint8 [..., 3, H, W], when called.

        Where they are decoded, that begins at once, and `make_cut()` says what of them is wanted.
        """
        ...


@dataclass(frozen=True)
class Split:
    """Images of one size, in memory or memory-mapped: uint8 [N, 3, H, W], and their targets."""

    images: Tensor | np.ndarray
    targets: Tensor  # int64 [N]
    cuts: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] of the images at `indices` (int64 [B]), on the images' device."""
        import torch

        if isinstance(self.images, torch.Tensor):
            return self.images[indices.to(self.images.device)]
        return torch.from_numpy(self.images[indices.cpu().numpy()])

    def start(self, indices: Tensor, make_cut: Callable[[], Cut]) -> Callable[[], Tensor]:
        """`batch` of the same indices, when it is called: whole images, of which none is cut."""
        return partial(self.batch, indices)

    def select(self, indices: Tensor) -> Split:
        """The split of these images alone, copied in memory, on their device."""
        return Split(self.batch(indices), self.targets[indices])

    def to(self, device: torch.device | str) -> Split:
        """The same split with its images in the memory of `device`; targets stay on the CPU."""
        import torch

        images = self.images
        if not isinstance(images, torch.Tensor):
            images = torch.from_numpy(images.copy())
        return Split(images.to(device), self.targets)


def _ranks(targets: Tensor, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images in an order drawn by a seed; and of each the rank among its class in that order."""
    import numpy as np

    # A stream of numpy's, because it does not change between versions, and neither may the order.
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed])))
    order = np.argsort(rng.random(len(targets)), kind="stable")
    classes = targets.numpy()[order]
    rank = np.empty(len(targets), dtype=np.int64)
    for name in np.unique(classes):
        members = np.flatnonzero(classes == name)
        rank[members] = np.arange(len(members))
    return order, rank


def subset(split: Images, count: int, seed: int) -> Images:
    """`count` images drawn by a seed, balanced over the classes, in their original order.

    A larger subset holds every smaller one of its seed. UserError where there are too few images.
    """
    import numpy as np
    import torch

    if not 0 < count <= len(split):
        raise UserError(f"data.train_images = {count}: set it to 1 ... {len(split)}, all there are")
    order, rank = _ranks(split.targets, seed)
    return split.select(torch.from_numpy(np.sort(order[np.argsort(rank, kind="stable")[:count]])))


def held_out(split: Images, count: int) -> tuple[Images, Images]:
    """The split without `count` images, and those: the same share of every class, always the same.

    UserError where a class would be left without an image on either side.
    """
    import numpy as np
    import torch

    order, rank = _ranks(split.targets, HELD_OUT)
    targets = split.targets.numpy()
    sizes = np.bincount(targets)
    share = (rank + 0.5) / sizes[targets[order]]
    mask = np.zeros(len(split), dtype=bool)
    mask[order[np.argsort(share, kind="stable")[:count]]] = True
    for part in (mask, ~mask):
        if np.bincount(targets[part], minlength=len(sizes))[sizes > 0].min() == 0:
            raise UserError(
                f"data.validation = {count} of {len(split)} training images leaves a class without "
                f"an image to {'validate on' if part is mask else 'train on'}: set "
                f"{'more' if part is mask else 'fewer'}, or 0 to test on the test images"
            )
    kept, held = (torch.from_numpy(np.flatnonzero(part)) for part in (~mask, mask))
    return split.select(kept), split.select(held)


def memory_mapped(arrays: dict[str, np.ndarray], split: str) -> Split:
    """The split "train" or "test" of a cache entry's arrays."""
    import torch

    return Split(arrays[f"{split}_images"], torch.tensor(arrays[f"{split}_targets"]))


@dataclass(frozen=True)
class ImageData:
    """A data set: its training images, and those to test on."""

    name: str
    version: int
    checksum: str
    classes: tuple[str, ...]
    train: Images
    test: Images


def reduced(data: ImageData, train_images: int, validation: int = 0) -> ImageData:
    """The data set with so many training images, the same in every run; 0 for all of them.

    Before that, `validation` of the training images take the place of the test images (0: none).
    """
    if validation:
        train, held = held_out(data.train, validation)
        data = replace(data, train=train, test=held)
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
