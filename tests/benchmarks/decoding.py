"""Images per second of one core that decodes JPEGs and crops them at random, beside torchvision.

    python tests/benchmarks/decoding.py FOLDER [--rounds 9] [--side 224]

FOLDER holds JPEGs, anywhere below it. The two take turns on the same images; of the ratio there is
one number a round. Seconds are those of the processor, whatever else the machine does. Crop, flip
and conversion are torchvision's in the AugLocal code's data loader. Of two views, as SimCLR has
them, both decode the image once.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms as transforms
from PIL import Image

from locbench.data import files, streaming
from locbench.data.augmentation import ResizedCropAugmentation, Share, SimCLRAugmentation
from locbench.data.streaming import StreamingSplit
from locbench.recipes.schema import Augmentation, ResizedCrop


def ours(split: StreamingSplit, side: int, views: int) -> Callable[[int], None]:
    """All images of the split, cut while they are decoded."""
    kind = SimCLRAugmentation(Augmentation(interpolation="bilinear"), side)
    augment = kind if views == 2 else ResizedCropAugmentation(ResizedCrop(), side)
    share = Share(0, len(split), len(split))

    def run(seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        split.start(torch.arange(len(split)), lambda: augment.cut(draw, share))()

    return run


def torchvisions(paths: list[Path], side: int, views: int) -> Callable[[int], None]:
    """All images, opened as ImageFolder does."""
    steps = [transforms.RandomResizedCrop(side), transforms.RandomHorizontalFlip()]
    view = transforms.Compose([*steps, transforms.PILToTensor()])

    def run(seed: int) -> None:
        torch.manual_seed(seed)
        for path in paths:
            with path.open("rb") as file:
                picture = Image.open(file).convert("RGB")
            for _ in range(views):
                view(picture)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--side", type=int, default=224)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    streaming.threads = lambda: 1
    paths = sorted(arguments.folder.rglob("*.[jJ][pP]*[gG]"))
    names = [str(path.relative_to(arguments.folder)) for path in paths]
    stored = files.folder_files(arguments.folder, names)
    split = StreamingSplit(stored, torch.zeros(len(paths), dtype=torch.int64))
    sizes = np.array([Image.open(path).size for path in paths])
    print(f"{len(paths)} JPEGs, {np.median(sizes[:, 0]):.0f} x {np.median(sizes[:, 1]):.0f} median")
    for views in (1, 2):
        contenders = [
            make(images, arguments.side, views)
            for make, images in ((ours, split), (torchvisions, paths))
        ]
        speeds: list[list[float]] = [[], []]
        for number in range(arguments.rounds + 1):  # the first is not counted
            for run, results in zip(contenders, speeds, strict=True):
                began = time.process_time()
                run(number)
                results.append(len(paths) / (time.process_time() - began))
        pairs = [mine / theirs for mine, theirs in zip(*(s[1:] for s in speeds), strict=True)]
        mine, theirs = (statistics.median(results[1:]) for results in speeds)
        spread = f"{min(pairs):.2f} ... {max(pairs):.2f}, n={len(pairs)}"
        print(f"{views} view(s): {mine:.0f} images/s, torchvision {theirs:.0f};", end=" ")
        print(f"ratio {statistics.median(pairs):.2f} ({spread})")


if __name__ == "__main__":
    main()
