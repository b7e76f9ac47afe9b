"""SimCLR, GIM and LoCo at full width: images a second and memory of some steps of real training.

    python tests/benchmarks/full_width.py [--steps 50] [--batch 64] [--data-root DIR]

ResNet-50 of the published width and depth at 64 pixels, as `locbench pretrain` trains it at scale
small, each rule in a process of its own: augmentation, losses, guard and optimizer included, in
bf16 where the processor has it. On Imagenette with --data-root, else on Shapes. Activation bytes
are what autograd has saved at the most within a step; resident is the most the process has held.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import locbench  # noqa: E402, F401 - before torch: it sets how OpenMP's threads wait
from locbench.data import load_data  # noqa: E402
from locbench.recipes.load import load_recipe  # noqa: E402
from locbench.training.loop import Trainer  # noqa: E402
from locbench.training.saved_bytes import SavedBytes  # noqa: E402

RULES = ("simclr", "gim", "loco")
SIDE = 64
HEAD = "rule     images/s  s/step (median)  activations   peak resident  (before training)"


def measure(rule: str, steps: int, batch: int, root: Path | None) -> dict[str, float]:
    """Seconds of a step (median, and of all), activation and peak resident bytes."""
    data = "imagenette" if root else "shapes"
    overrides = {"network.width": 1.0, "training.batch": batch, "data.name": data}
    recipe = load_recipe("loco/imagenet", "small", overrides)
    images = load_data(data, SIDE, root)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer = Trainer(recipe, rule, "resnet50", 1234, images, "cpu")
    with SavedBytes([trainer.network, trainer.objectives]) as saved:
        trainer.train_step()
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        trainer.train_step()
        trainer.read()
        times.append(time.perf_counter() - began)
    return {
        "median": statistics.median(times),
        "total": sum(times),
        "activations": saved.peak,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "before": before * 1024,
        "bf16": trainer.precision is not None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--rule", choices=RULES, help="measure this one here, as JSON")
    args = parser.parse_args()
    if args.rule:
        print(json.dumps(measure(args.rule, args.steps, args.batch, args.data_root)))
        return
    rest = [f"--steps={args.steps}", f"--batch={args.batch}"]
    rest += [f"--data-root={args.data_root}"] if args.data_root else []
    for rule in RULES:
        command = [sys.executable, __file__, "--rule", rule, *rest]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(answer.stdout.splitlines()[-1])
        if rule == RULES[0]:
            print(
                f"ResNet-50, full width, {SIDE} px, batch {args.batch}, {args.steps} steps after "
                f"one to warm up, {'bf16' if found['bf16'] else 'fp32'}\n{HEAD}"
            )
        rate = args.steps * args.batch / found["total"]
        print(
            f"{rule:8} {rate:8.1f}  {found['median']:15.2f}  {found['activations'] / 1e6:8.1f} MB"
            f"  {found['resident'] / 1e9:11.2f} GB  ({found['before'] / 1e9:.2f} GB)",
            flush=True,
        )


if __name__ == "__main__":
    main()
