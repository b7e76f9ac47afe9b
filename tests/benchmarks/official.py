"""The supervised rules beside AugLocal's official code: the same losses, and how fast.

    python tests/benchmarks/official.py speed CHECKOUT [--batch 256] [--rounds 5] [--threads 2]
    python tests/benchmarks/official.py epoch CHECKOUT [--batch 256] [--rounds 5] [--threads 2]
    python tests/benchmarks/official.py parity CHECKOUT > tests/rules/official_losses.json

CHECKOUT is a clone of github.com/ChenxiangMA/AugLocal. `parity` trains the networks of CASES for a
few steps in float64 with that code, from weights that `fill` and on batches that `batches` makes,
and writes down the loss of every unit; tests/rules/test_official.py holds that ours are the same.
`speed` runs one training step of both by turns, in processes of their own, and prints medians; ours
with bf16 and channels_last where the processor has it, and with fp32. `epoch` does the same with
the images of a short epoch, augmented as each does it: that code's transforms in a loader of two
workers. Both do so with ResNet-32.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
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

LAYERS = {"resnet32": 16, "resnet110": 55, "resnet34": 17, "vgg13": 10, "vgg19": 16}
ON_IMAGENET = ("resnet34", "vgg13", "vgg19")  # those that the code's `exp_imagenet` has


@dataclass(frozen=True)
class Case:
    """A rule on a network, images of `side` pixels, and how many steps are written down.

    `quick` of them are run by default, the others with `-m full`. On STL-10 (96 pixels) the code's
    classifier has 100 classes, and its pixels are normalised by a half.
    """

    rule: str
    network: str = "resnet32"
    settings: Mapping[str, object] = field(default_factory=dict)
    side: int = 32
    classes: int = 10
    steps: int = 10
    quick: int = 3

    @property
    def hidden(self) -> int:
        """The code's depth, without the classifier."""
        return self.settings.get("depth", 1) - 1


def _resnet110(rule: str, **settings) -> Case:
    return Case(rule, "resnet110", settings, steps=3, quick=0)


def _stl10(rule: str, **settings) -> Case:
    return Case(rule, "resnet32", settings, side=96, classes=100, steps=3, quick=0)


def _imagenet(rule: str, network: str, *, side: int, **settings) -> Case:
    return Case(rule, network, settings, side=side, classes=1000, steps=3, quick=0)


VGG = {"joint": False, "halving": "width", "classifier": "mlp"}
CASES = {
    "bp": Case("bp"),
    "dgl": Case("dgl"),
    "predsim": Case("predsim"),
    "infopro": Case("infopro"),
    "auglocal d=2": Case("auglocal", settings={"depth": 2}),
    "auglocal d=6": Case("auglocal", settings={"depth": 6}),
    "resnet110 dgl": _resnet110("dgl"),
    "resnet110 predsim": _resnet110("predsim"),
    "resnet110 infopro": _resnet110("infopro", x_first=5.0, y_first=0.0, x_last=0.5, y_last=1.0),
    "resnet110 auglocal d=4": _resnet110("auglocal", depth=4),
    "resnet110 auglocal d=9": _resnet110("auglocal", depth=9),
    "stl10 dgl": _stl10("dgl"),
    "stl10 predsim": _stl10("predsim"),
    "stl10 infopro": _stl10("infopro", x_first=20.0, y_first=0.5, x_last=10.0, y_last=0.1),
    "stl10 auglocal d=4": _stl10("auglocal", depth=4),
    "resnet34 auglocal d=5": _imagenet(
        "auglocal", "resnet34", side=64, depth=5, decay=0.0, joint=False
    ),
    "vgg13 dgl": _imagenet("dgl", "vgg13", side=32, by_width=True),
    "vgg13 auglocal d=6": _imagenet("auglocal", "vgg13", side=32, depth=6, decay=0.0, **VGG),
    "vgg19 auglocal d=3": _imagenet("auglocal", "vgg19", side=32, depth=3, **VGG),
}
SPEED = [name for name, case in CASES.items() if case.quick]
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
HALF = (127.5, 127.5, 127.5)  # mean and deviation of the code's STL-10
BATCH = 4
EPOCH = 20  # batches: enough that the start of the loader's workers counts little


def official(case: Case, checkout: Path, batch: int) -> tuple[nn.Module, dict[str, float]]:
    """The network of the official code with the rule of the case, and the weights of its losses."""
    if case.network in ON_IMAGENET:
        return official_on_imagenet(case, checkout).train(), {}
    torch.Tensor.cuda = lambda self, *_, **__: self  # InfoPro's constructor asks for a GPU
    make = getattr(code(checkout, "networks.resnet"), case.network)
    names = {"bp": "BP", "dgl": "DGL", "predsim": "PredSim", "infopro": "InfoPro"}
    rule = names.get(case.rule, "AugLocal")
    model = make(
        local_module_num=1 if rule == "BP" else LAYERS[case.network] - case.hidden,
        batch_size=batch,
        image_size=case.side,
        dataset="stl10" if case.side == 96 else "cifar10",
        class_num=case.classes,
        rule=rule,
        aux_net_config="unifSamp" if rule == "AugLocal" else rule,
        aux_net_config_aux_loss="2c",
        hidden_dim=512,
        aux_net_depth=case.hidden,
        is_pyramid=rule == "AugLocal",
        paramid_coeff=0.5,
    )
    parts = ("x_first", "y_first", "x_last", "y_last")
    usual = {"predsim": (0.99, 0.01, 0.99, 0.01), "infopro": (5.0, 0.05, 0.2, 0.5)}
    weights = usual.get(case.rule, (0.0, 1.0, 0.0, 1.0))
    weights = [case.settings.get(k, w) for k, w in zip(parts, weights, strict=True)]
    return model.train(), dict(zip(("ixx_1", "ixy_1", "ixx_2", "ixy_2"), weights, strict=True))


def official_on_imagenet(case: Case, checkout: Path) -> nn.Module:
    """That code's network for ImageNet, the head made small as ours is (see `small_head`)."""
    family = case.network.rstrip("0123456789")
    module = code(checkout / "exp_imagenet", f"networks.{family}")
    shape = {
        "local_module_num": LAYERS[case.network],
        "aux_net_config": "DGL" if case.rule == "dgl" else "unifSamp",
        "aux_net_depth": case.hidden,
        "is_pyramid": case.settings.get("decay", 0.5) > 0,
        "paramid_coeff": 0.5,
    }
    if family == "resnet":
        return getattr(module, case.network)(**shape)
    model = module.VGG(case.network, **shape)
    if case.network == "vgg19":  # for small images: how it ends is ours
        model.avgpool, model.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(512, case.classes)
    else:
        small_head(model.fc)
    return model


def code(folder: Path, name: str):
    """A module of the official code, which has two folders of the same names."""
    for loaded in [key for key in sys.modules if key.split(".")[0] in ("networks", "utils")]:
        del sys.modules[loaded]
    sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def small_head(fc: nn.Sequential) -> None:
    """64 hidden neurons in the place of VGG-13's 4096, and no dropout: of both codes alike."""
    for place, width in ((0, fc[0].in_features), (3, 64)):
        fc[place], fc[place + 2] = nn.Linear(width, 64), nn.Dropout(0.0)
    fc[6] = nn.Linear(64, fc[6].out_features)


def ours(case: Case):
    """Our network, its units and engine, and its parameters in the order of the official code's."""
    from locbench.networks import make_network
    from locbench.recipes.schema import Network
    from locbench.rules import build_units
    from locbench.training.engine import Engine

    side = 224 if case.network in ON_IMAGENET else case.side
    network = make_network(case.network, Network(), case.classes, side).train()
    if case.network == "vgg13":
        small_head(network.fc)
    units = build_units(case.rule, network, case.settings)
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


def batches(count: int, size: int, side: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Images, targets and pixels in float64: blots of colour, a hue for every class, and noise."""
    draw = torch.Generator().manual_seed(7)
    hues = torch.rand(10, 3, 1, 1, generator=draw, dtype=torch.float64)
    found = []
    scale = (HALF, HALF) if side == 96 else (MEAN, STD)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] / 255 for v in scale)
    for _ in range(count):
        targets = torch.randint(10, (size,), generator=draw)
        noise = torch.rand(size, 3, side, side, generator=draw, dtype=torch.float64)
        pixels = 0.5 * hues[targets] + 0.5 * noise
        found.append(((pixels - mean) / std, targets, pixels))
    return found


def optimizer_of(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-4)


def official_losses(case: Case, checkout: Path) -> list[list[float]]:
    """The loss of every unit, in the order of the network, at each step."""
    # The code makes constants (one-hot labels, InfoPro's mean) in the default type.
    torch.set_default_dtype(torch.float64)
    model, weights = official(case, checkout, BATCH)
    named = list(model.named_parameters())
    hung = [p for name, p in named if name.startswith(("aux_classifier", "decoder"))]
    beside = {id(p) for p in hung}
    fill([*(p for _, p in named if id(p) not in beside), *hung])
    optimizer = optimizer_of(model.parameters())
    seen: list[float] = []
    backward = torch.Tensor.backward

    def noting(loss: Tensor, *args, **kwargs) -> None:
        seen.append(loss.item())
        backward(loss, *args, **kwargs)

    steps = []
    for images, targets, _ in batches(case.steps, BATCH, case.side):
        optimizer.zero_grad()
        seen.clear()
        if case.network in ON_IMAGENET:
            seen += summed_step(model, images, targets)
        else:
            torch.Tensor.backward = noting
            model(images, targets, **weights)
            torch.Tensor.backward = backward
        optimizer.step()
        steps.append(list(seen))
    torch.set_default_dtype(torch.float32)
    return steps


def summed_step(model: nn.Module, images: Tensor, targets: Tensor) -> list[float]:
    """A step of that code on ImageNet, where one backward pass is of the sum: the losses."""
    losses: list[float] = []
    hung = [part for name, part in model.named_children() if name.startswith("aux_classifier")]
    hooks = [
        part.register_forward_hook(lambda _, __, out: losses.append(out[0].item())) for part in hung
    ]
    _, loss, _, last = model(images, targets, F.cross_entropy)
    loss.backward()
    for hook in hooks:
        hook.remove()
    return [*losses, last]


def our_losses(case: Case, steps: int) -> list[list[float]]:
    """As `official_losses`, by our engine."""
    from locbench.units import Batch

    network, units, engine_type, parameters = ours(case)
    for module in (network, *(unit.objective for unit in units)):
        module.double()
    fill(parameters)
    engine, optimizer = engine_type(network.blocks, units), optimizer_of(parameters)
    found = []
    for images, targets, pixels in batches(steps, BATCH, case.side):
        optimizer.zero_grad()
        losses, _ = engine.step(Batch(images, targets, pixels))
        optimizer.step()
        found.append(losses.tolist())
    return found


def parity(checkout: Path) -> None:
    found = {}
    for name, case in CASES.items():
        with redirect_stdout(sys.stderr):  # the code prints what it builds
            steps = found[name] = official_losses(case, checkout)
        mine = our_losses(case, case.steps)
        worst = max(
            abs(a - b) / abs(a)
            for one, other in zip(steps, mine, strict=True)
            for a, b in zip(one, other, strict=True)
        )
        print(
            f"{name}: {len(steps[0])} units, worst relative difference {worst:.1e}", file=sys.stderr
        )
    cases = []
    for case, steps in found.items():
        rows = ",\n".join(f"  [{', '.join(f'{x:.13g}' for x in step)}]" for step in steps)
        cases.append(f' "{case}": [\n{rows}\n ]')
    print("{\n" + ",\n".join(cases) + "\n}")


Step = Callable[[Tensor, Tensor], None]


def official_step(case: str, checkout: Path, batch: int) -> Step:
    """One step of that code on normalised images and their targets."""
    model, weights = official(CASES[case], checkout, batch)
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
    overrides |= {f"rule.{key}": value for key, value in CASES[case].settings.items()}
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
    parser.add_argument("--cases", default=",".join(SPEED))
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
