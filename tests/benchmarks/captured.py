"""Training steps on a GPU one by one and as a CUDA graph: images per second, in turns.

    python tests/benchmarks/captured.py [--rules bp,dgl,auglocal,auglocal:depth=6] [--batch 1024]
        [--network resnet32] [--steps 20] [--rounds 5] [--benchmark]

The whole step of training counts: batch and augmentation, all units, the optimizer. Noise images of
32 pixels at full width. The two trainers take turns, so that a change in the machine's load meets
both; medians over the rounds. --benchmark lets cuDNN try its algorithms first.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from locbench.data import ImageData, Split
from locbench.recipes.load import load_recipe
from locbench.recipes.recipe import Recipe
from locbench.training.captured import PLAIN
from locbench.training.loop import Trainer

IMAGES = 50_000


def noise(side: int) -> ImageData:
    """As many images as CIFAR-10 has for training, in ten classes."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, side, side), generator=draw, dtype=torch.uint8)
    split = Split(images, torch.arange(IMAGES) % 10)
    return ImageData("noise", 1, "noise", tuple("abcdefghij"), split, split)


def steps(trainer: Trainer, count: int) -> float:
    """Seconds that so many steps take, to the end of the last."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        trainer.train_step()
    trainer.read()
    return time.perf_counter() - began


def trainers(recipe: Recipe, rule: str, network: str, data: ImageData) -> list[Trainer]:
    """One that takes its steps plainly, and one that captures them."""
    found = [Trainer(recipe, rule, network, 0, data, "cuda") for _ in range(2)]
    found[0].stepping = found[0].engine
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", default="bp,dgl,auglocal:depth=2,auglocal:depth=6")
    parser.add_argument("--network", default="resnet32")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--benchmark", action="store_true")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = options.benchmark
    data, batch = noise(32), options.batch
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(f"{options.network}, {batch} images a step, medians of {options.rounds} rounds, images/s")
    for word in options.rules.split(","):
        rule, _, setting = word.partition(":")
        sets = {"training.batch": batch}
        if setting:
            key, value = setting.split("=")
            sets[f"rule.{key}"] = int(value)
        recipe = load_recipe("auglocal/cifar10", "paper", sets).for_run(rule, options.network)
        pair = trainers(recipe, rule, options.network, data)
        for trainer in pair:
            steps(trainer, PLAIN + 2)
        taken = [[steps(one, options.steps) for one in pair] for _ in range(options.rounds)]
        plain, captured = (statistics.median(times) for times in zip(*taken, strict=True))
        ratios = [one / other for one, other in taken]
        rates = [options.steps * batch / seconds for seconds in (plain, captured)]
        print(
            f"{word:20}{pair[0].arithmetic}  plain {rates[0]:9,.0f}  captured {rates[1]:9,.0f}"
            f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
