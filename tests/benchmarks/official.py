"""The supervised rules beside AugLocal's official code: the same losses, and how fast.

    python tests/benchmarks/official.py speed CHECKOUT [--batch 256] [--rounds 5] [--threads 2]
    python tests/benchmarks/official.py epoch CHECKOUT [--batch 256] [--rounds 5] [--threads 2]
    python tests/benchmarks/official.py parity CHECKOUT > tests/rules/official_losses.json

CHECKOUT is a clone of github.com/ChenxiangMA/AugLocal. `parity` trains ResNet-32 for ten steps in
float64 with that code, from weights and on batches that `recipe_of_numbers` makes, and writes down
the loss of every unit; tests/rules/test_official.py holds that ours are the same. `speed` runs one
training step of both by turns, in processes of their own, and prints medians; ours with bf16 and
channels_last where the processor has it, and with fp32. `epoch` does the same with the images of a
short epoch, augmented as each does it: that code's transforms in a loader of two workers.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import locbench  # noqa: E402, F401 - before torch: it sets how OpenMP's threads wait

# isort: split
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import torch.utils.data  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402

CASES: dict[str, dict] = {
    "bp": {},
    "dgl": {},
    "predsim": {},
    "infopro": {},
    "auglocal d=2": {"depth": 2},
    "auglocal d=6": {"depth": 6},
}
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
LAYERS, STEPS, BATCH = 16, 10, 4
EPOCH = 20  # batches: enough that the start of the loader's workers counts little


def official(case: str, checkout: Path, batch: int) -> tuple[nn.Module, dict[str, float]]:
    """ResNet-32 of the official code with the rule of the case, and the weights of its losses."""
    sys.path.insert(0, str(checkout))
    torch.Tensor.cuda = lambda self, *_, **__: self  # InfoPro's constructor asks for a GPU
    from networks.resnet import resnet32

    rule = {"bp": "BP", "dgl": "DGL", "predsim": "PredSim", "infopro": "InfoPro"}.get(case)
    rule = rule or "AugLocal"
    hidden = CASES[case].get("depth", 1) - 1
    model = resnet32(
        local_module_num=1 if rule == "BP" else LAYERS - hidden,
        batch_size=batch,
        rule=rule,
        aux_net_config="unifSamp" if rule == "AugLocal" else rule,
        aux_net_config_aux_loss="2c",
        hidden_dim=512,
        aux_net_depth=hidden,
        is_pyramid=rule == "AugLocal",
        paramid_coeff=0.5,
    )
    weights = {"PredSim": (0.99, 0.01, 0.99, 0.01), "InfoPro": (5.0, 0.05, 0.2, 0.5)}
    names = ("ixx_1", "ixy_1", "ixx_2", "ixy_2")
    return model.train(), dict(zip(names, weights.get(rule, (0.0, 1.0, 0.0, 1.0)), strict=True))


def ours(case: str):
    """Our ResNet-32, its engine, and its parameters in the order of the official code's."""
    from locbench.networks import make_network
    from locbench.recipes.schema import Network
    from locbench.rules import build_units
    from locbench.training.engine import Engine

    network = make_network("resnet32", Network(), 10, 32).train()
    units = build_units(case.split()[0], network, CASES[case])
    modules = [*network.blocks, network.head]
    for unit in units[:-1]:
        further = unit.objective.further
        modules += [further] if further is not None else []
        modules.append(unit.objective.classifier)
    parameters = [p for module in modules for p in module.parameters()]
    return network, units, Engine, parameters


@torch.no_grad()
def fill(parameters: list[Tensor]) -> None:
    """Values that depend on a parameter's shape and place alone: matrices as He's, vectors about 1.

    Of vectors, those that follow one of their own size (a batch norm's shift) are about 0.
    """
    before: tuple[int, ...] = ()
    for place, parameter in enumerate(parameters):
        draw = torch.Generator().manual_seed(1000 + place)
        values = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        shape = tuple(parameter.shape)
        if parameter.ndim > 1:
            values *= (2 / (parameter[0].numel())) ** 0.5
        else:
            values = 0.1 * values + (0.0 if shape == before else 1.0)
        parameter.copy_(values)
        before = () if shape == before else shape


def batches(count: int, size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Images, targets and pixels in float64: blots of colour, a hue for every class, and noise."""
    draw = torch.Generator().manual_seed(7)
    hues = torch.rand(10, 3, 1, 1, generator=draw, dtype=torch.float64)
    found = []
    for _ in range(count):
        targets = torch.randint(10, (size,), generator=draw)
        noise = torch.rand(size, 3, 32, 32, generator=draw, dtype=torch.float64)
        pixels = 0.5 * hues[targets] + 0.5 * noise
        mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] / 255 for v in (MEAN, STD))
        found.append(((pixels - mean) / std, targets, pixels))
    return found


def optimizer_of(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-4)


def official_losses(case: str, checkout: Path) -> list[list[float]]:
    """The loss of every unit, in the order of the network, at each of ten steps."""
    # The code makes constants (one-hot labels, InfoPro's mean) in the default type.
    torch.set_default_dtype(torch.float64)
    model, weights = official(case, checkout, BATCH)
    fill(list(model.parameters()))
    optimizer = optimizer_of(model.parameters())
    seen: list[float] = []
    backward = torch.Tensor.backward

    def noting(loss: Tensor, *args, **kwargs) -> None:
        seen.append(loss.item())
        backward(loss, *args, **kwargs)

    torch.Tensor.backward = noting
    steps = []
    for images, targets, _ in batches(STEPS, BATCH):
        optimizer.zero_grad()
        seen.clear()
        model(images, targets, **weights)
        optimizer.step()
        steps.append(list(seen))
    torch.Tensor.backward = backward
    torch.set_default_dtype(torch.float32)
    return steps


def our_losses(case: str) -> list[list[float]]:
    """As `official_losses`, by our engine."""
    from locbench.units import Batch

    network, units, engine_type, parameters = ours(case)
    for module in (network, *(unit.objective for unit in units)):
        module.double()
    fill(parameters)
    engine, optimizer = engine_type(network.blocks, units), optimizer_of(parameters)
    steps = []
    for images, targets, pixels in batches(STEPS, BATCH):
        optimizer.zero_grad()
        losses, _ = engine.step(Batch(images, targets, pixels))
        optimizer.step()
        steps.append(losses.tolist())
    return steps


def parity(checkout: Path) -> None:
    found = {case: official_losses(case, checkout) for case in CASES}
    for case, steps in found.items():
        mine = our_losses(case)
        worst = max(
            abs(a - b) / abs(a)
            for one, other in zip(steps, mine, strict=True)
            for a, b in zip(one, other, strict=True)
        )
        print(
            f"{case}: {len(steps[0])} units, worst relative difference {worst:.1e}", file=sys.stderr
        )
    cases = []
    for case, steps in found.items():
        rows = ",\n".join(f"  [{', '.join(f'{x:.13g}' for x in step)}]" for step in steps)
        cases.append(f' "{case}": [\n{rows}\n ]')
    print("{\n" + ",\n".join(cases) + "\n}")


Step = Callable[[Tensor, Tensor], None]


def official_step(case: str, checkout: Path, batch: int) -> Step:
    """One step of that code on normalised images and their targets."""
    model, weights = official(case, checkout, batch)
    optimizer = optimizer_of(model.parameters())

    def step(images: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        model(images, targets, **weights)
        optimizer.step()

    return step


def official_loader(batch: int, batches: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Images as that code's training script sees CIFAR-10's: its transforms, two workers."""
    from torchvision import transforms

    augment = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Lambda(reflected),
            transforms.ToPILImage(),
            transforms.RandomCrop(32),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([m / 255 for m in MEAN], [s / 255 for s in STD]),
        ]
    )
    pixels = torch.randint(256, (batch * batches, 32, 32, 3), dtype=torch.uint8).numpy()
    data = [(Image.fromarray(image), k % 10) for k, image in enumerate(pixels)]
    return torch.utils.data.DataLoader(Augmented(data, augment), batch, shuffle=True, num_workers=2)


def reflected(image: Tensor) -> Tensor:
    return F.pad(image[None], (4, 4, 4, 4), mode="reflect")[0]


class Augmented(torch.utils.data.Dataset):
    """Images with a transform, as torchvision's data sets are."""

    def __init__(self, data: list, augment: Callable) -> None:
        self.data, self.augment = data, augment

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, target = self.data[index]
        return self.augment(image), target


def our_trainer(case: str, precision: str, batch: int, batches: int):
    """Our trainer on as many images: its step is augmentation, losses, guard and optimizer."""
    from locbench.data import ImageData, Split
    from locbench.recipes.load import load_recipe
    from locbench.training.loop import Trainer

    overrides = {"training.batch": batch, "training.precision": precision}
    overrides |= {f"rule.{key}": value for key, value in CASES[case].items()}
    recipe = load_recipe("auglocal/cifar10", "paper", overrides)
    count = batch * batches
    split = Split(
        torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8), torch.arange(count) % 10
    )
    data = ImageData("cifar10", 1, "", tuple("0123456789"), split, split)
    rule = case.split()[0]
    return Trainer(recipe.for_run(rule, "resnet32"), rule, "resnet32", 1, data, "cpu")


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step, and the process's peak resident bytes.

    mode "speed": the median of four steps after two; "epoch": of one pass, by its batches.
    """
    torch.set_num_threads(args.threads)
    which, batch, epoch = args.one, args.batch, args.mode == "epoch"
    batches = EPOCH if epoch else 6
    if which == "official":
        step = official_step(args.case, args.checkout, batch)
        # InfoPro's code takes the normalisation back, and asks for pixels from 0 to 1.
        mean, std = (torch.tensor(v)[:, None, None] / 255 for v in (MEAN, STD))
        images = (0.98 * torch.rand(batch, 3, 32, 32) + 0.01 - mean) / std
        fixed = [(images, torch.randint(10, (batch,)))] * batches
        calls = (partial(step, *x) for x in (official_loader(batch, batches) if epoch else fixed))
    else:
        trainer = our_trainer(args.case, which, batch, batches)
        calls = iter([trainer.train_step] * batches)
    times = []
    began = time.perf_counter()
    for call in calls:
        call()
        times.append(time.perf_counter() - began)
    steps = [b - a for a, b in pairwise([0.0, *times])]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": times[-1] / batches if epoch else statistics.median(steps[2:]), "peak": peak}


def compare(args: argparse.Namespace) -> None:
    """Both by turns, each in a process of its own; medians over the rounds."""
    what = f"epoch of {EPOCH} batches" if args.mode == "epoch" else "training step"
    print(f"ResNet-32, {what}, batch {args.batch}, {args.threads} threads, {args.rounds} rounds")
    print(f"{'':14}{'official':>18}{'ours fp32':>24}{'ours bf16':>24}")
    for case in args.cases.split(","):
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(args.rounds):
            for which in ("official", "fp32", "bf16"):
                asked = [sys.executable, __file__, args.mode, str(args.checkout)]
                asked += [f"--batch={args.batch}", f"--threads={args.threads}"]
                asked += [f"--one={which}", f"--case={case}"]
                answer = subprocess.run(asked, check=True, capture_output=True, text=True)
                found.setdefault(which, []).append(json.loads(answer.stdout.splitlines()[-1]))
        line, base = f"{case:14}", statistics.median(x["seconds"] for x in found["official"])
        for which, results in found.items():
            seconds = statistics.median(x["seconds"] for x in results)
            peak = statistics.median(x["peak"] for x in results) / 1e9
            ratio = "" if which == "official" else f" {base / seconds:.2f}x"
            text = f"{args.batch / seconds:8.0f}/s{ratio} {peak:.2f} GB"
            line += text.rjust(24 if ratio else 18)
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=("speed", "epoch", "parity"))
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--one", help="measure this alone, here: official, fp32 or bf16")
    parser.add_argument("--case", choices=CASES)
    args = parser.parse_args()
    args.checkout = args.checkout.resolve()
    if args.one:
        print(json.dumps(measure(args)))
    elif args.mode == "parity":
        parity(args.checkout)
    else:
        compare(args)


if __name__ == "__main__":
    main()
