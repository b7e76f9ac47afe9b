"""Images per second of training by one process and by all of them, with the same batch a step.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 tests/benchmarks/processes.py [--rounds 9]

The two take turns, so that a change in the machine's load meets both; the median over the rounds
counts, and that of the rounds' ratios. While the first process trains alone the others wait, and
use no processor. By the clock it is what one gets; by the processor's time that the first process
takes it is what one would get where each process had a core of its own and never waited.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from locbench.data import load_data
from locbench.distributed import group as processes
from locbench.recipes.load import load_recipe
from locbench.training.loop import Trainer

CLOCKS = {"clock": time.perf_counter, "processor": time.process_time}


def seconds(work: Callable[[], None]) -> list[float]:
    """How long it takes, by both clocks."""
    before = [clock() for clock in CLOCKS.values()]
    work()
    return [clock() - start for clock, start in zip(CLOCKS.values(), before, strict=True)]


def measure(options: argparse.Namespace, trainer: Callable[[], Trainer]) -> list[list[list[float]]]:
    """[one process or all][round][clock]: seconds of the first process."""

    def steps(trained: Trainer) -> None:
        for _ in range(options.steps):
            trained.train_step()
        trained.read()

    one = trainer()
    with processes.together():
        whole = trainer()
    found = [[], []]
    for round_ in range(options.rounds + 1):
        taken = [] if processes.launch_rank() else seconds(lambda: steps(one))
        processes.share(taken)  # all are here now
        with processes.together():
            shared = seconds(lambda: steps(whole))
        processes.share(None if processes.launch_rank() else shared)
        if round_:  # the first warms up
            found[0].append(taken)
            found[1].append(shared)
    return found


def show(options: argparse.Namespace, trained: Trainer, found: list[list[list[float]]]) -> None:
    """Medians, ranges and ratios."""
    images = options.steps * trained.feed.size
    threads = torch.get_num_threads()
    print(f"{options.rule} on {options.network}, smoke, {trained.feed.size} images a step")
    print(f"{trained.arithmetic}, threads a process: {threads}, {options.rounds} rounds")
    for k, clock in enumerate(CLOCKS):
        times = [[round_[k] for round_ in rounds] for rounds in found]
        print(f"by the {clock}: images/s")
        for count, taken in zip((1, processes.launched()), times, strict=True):
            rate, spread = images / statistics.median(taken), (max(taken), min(taken))
            low, high = (images / seconds for seconds in spread)
            print(f"  processes: {count}{rate:9.1f} ({low:.1f} to {high:.1f})")
        ratios = [a / b for a, b in zip(*times, strict=True)]
        print(f"  ratio{statistics.median(ratios):15.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="loco/imagenet")
    parser.add_argument("--rule", default="loco")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--batch", type=int, default=0, help="images a step (0: the recipe's)")
    parser.add_argument("--steps", type=int, default=4, help="in a round")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    sets = {"training.batch": options.batch} if options.batch else {}
    recipe = load_recipe(options.recipe, "smoke", sets)
    data = load_data("shapes", recipe.data.resolution)

    def trainer() -> Trainer:
        return Trainer(recipe, options.rule, options.network, 0, data, "cpu")

    with processes.joined("cpu") as group:
        found = measure(options, trainer)
        if group.leads:
            show(options, trainer(), found)
        else:
            list(group.works())


if __name__ == "__main__":
    main()
