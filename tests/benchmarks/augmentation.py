"""Images per second of the batched SimCLR augmentation against torchvision's, sample by sample.

    python tests/benchmarks/augmentation.py [--rounds 7] [--sizes 32:32 224:64]

Contenders take turns, so that a change in the machine's load meets all of them; the median over
the rounds counts. An image is one image with both its views, normalised and in a batch. The first
contender runs in this process, the others in a DataLoader, as torchvision's transforms have to.
Where other work runs on the machine, set OMP_WAIT_POLICY=PASSIVE: else threads spin while they wait
for one that has lost its core, and the first contender is measured at a fraction of its speed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable

import torch
import torchvision.transforms.v2 as transforms
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import to_pil_image

from locbench.data.augmentation import SimCLRAugmentation, kernel_size
from locbench.recipes.schema import Augmentation

AUG = Augmentation()


def torchvision_view(side: int) -> transforms.Compose:
    """SimCLR's view of one image, a uint8 tensor or a PIL image, with torchvision's transforms."""
    jitter = transforms.ColorJitter(AUG.brightness, AUG.contrast, AUG.saturation, AUG.hue)
    blur = transforms.GaussianBlur(kernel_size(AUG.kernel, side), AUG.sigma)
    mode = InterpolationMode(AUG.interpolation)
    steps = [
        transforms.RandomResizedCrop(side, AUG.area, AUG.aspect, mode, antialias=True),
        transforms.RandomHorizontalFlip(AUG.flip),
        transforms.RandomApply([jitter], AUG.jitter),
        transforms.RandomGrayscale(AUG.grayscale),
        transforms.RandomApply([blur], AUG.blur),
        transforms.ToImage(),
        transforms.ToDtype(torch.float32, scale=True),
        transforms.Normalize(AUG.mean, AUG.std),
    ]
    return transforms.Compose(steps)


class PerSample(Dataset):
    """Two torchvision views of each image."""

    def __init__(self, images: list, side: int) -> None:
        self.images, self.view = images, torchvision_view(side)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.view(self.images[i]), self.view(self.images[i])


class Batched(Dataset):
    """Both views of each batch, by the batched augmentation."""

    def __init__(self, images: Tensor, side: int, batch: int) -> None:
        self.batches, self.augment = images.split(batch), SimCLRAugmentation(AUG, side)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> Tensor:
        if i >= len(self.batches):
            raise IndexError(i)
        return self.augment.views(self.batches[i], torch.Generator().manual_seed(i))


def contenders(source: int, side: int, options: argparse.Namespace) -> dict[str, Iterable]:
    """What is measured: each, iterated over, augments all images once."""
    images = torch.randint(0, 256, (options.images, 3, source, source), dtype=torch.uint8)
    batched = Batched(images, side, options.batch)
    pictures = [to_pil_image(image) for image in images]
    workers = {"num_workers": options.workers, "persistent_workers": True}
    samples = {"batch_size": options.batch, **workers}
    return {
        f"batched, {torch.get_num_threads()} threads": batched,
        f"batched, {options.workers} workers": DataLoader(batched, batch_size=None, **workers),
        "torchvision v2, tensors": DataLoader(PerSample(list(images), side), **samples),
        "torchvision v2, PIL": DataLoader(PerSample(pictures, side), **samples),
    }


def seconds(run: Iterable) -> float:
    """Time of one pass."""
    start = time.perf_counter()
    for _ in run:
        pass
    return time.perf_counter() - start


def measure(runs: dict[str, Iterable], rounds: int, show: Callable[[str], None]) -> None:
    """One pass each to warm up, then `rounds` interleaved; prints images/s and the ratio."""
    images = len(runs["torchvision v2, tensors"].dataset)
    times = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            taken = seconds(run)
            if round_ > 0:
                times[name].append(taken)
    rates = {name: images / statistics.median(taken) for name, taken in times.items()}
    for name, rate in rates.items():
        ratio = rate / rates["torchvision v2, tensors"]
        best = images / min(times[name])
        show(f"  {name:26}{rate:10.0f}{best:10.0f}{ratio:10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["32:32", "224:64"], metavar="SOURCE:TARGET")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of the batched augmentation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for size in options.sizes:
        source, side = map(int, size.split(":"))
        print(f"{source} -> {side} pixels     images/s:    median      best     ratio")
        measure(contenders(source, side, options), options.rounds, print)


if __name__ == "__main__":
    main()
