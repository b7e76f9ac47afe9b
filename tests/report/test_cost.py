"""`locbench cost`: what it counts, traces, measures, draws and refuses."""

import json
import os

import pytest
from PIL import Image

from locbench.cli import app as cli
from locbench.errors import RunFailed, UserError
from locbench.evaluation.cost.measured import Case, in_a_process, least_that, measure
from locbench.plugins.registry import RULES
from locbench.recipes.load import load_recipe


def shown(capsys, *words: str) -> str:
    cli.app(["cost", *words], standalone_mode=False)
    return capsys.readouterr().out


def of(capsys, *words: str) -> list[dict]:
    return json.loads(shown(capsys, *words, "--json"))


@pytest.mark.full
def test_what_auglocal_adds_to_backpropagation(capsys):
    bp, auglocal = of(capsys, "resnet32", "--rule=bp", "--rule=auglocal", "--depth=2")
    assert bp["recipe"] == "auglocal/cifar10" and (bp["batch"], bp["resolution"]) == (1024, 32)
    assert bp["parameters"] == auglocal["parameters"] == 466_906
    assert bp["auxiliary_parameters"] == 0 < auglocal["auxiliary_parameters"]
    # The facts' independent count, in G.
    assert bp["multiply_adds"]["all"] / 1e9 == pytest.approx(0.0698, abs=5e-5)
    assert auglocal["auxiliary_multiply_adds"]["all"] / 1e9 == pytest.approx(0.1058, abs=5e-5)
    assert auglocal["step"]["saved_bytes"] < bp["step"]["saved_bytes"] < bp["step"]["peak_bytes"]
    for bill in (bp, auglocal):
        parts = bill["by_stage"]
        assert [part["name"] for part in parts] == ["stage 1", "stage 2", "stage 3", "classifier"]
        for key in ("parameters", "auxiliary_parameters"):
            assert sum(part[key] for part in parts) == bill[key]
        for key in ("multiply_adds", "auxiliary_multiply_adds"):
            assert sum(part[key]["all"] for part in parts) == bill[key]["all"]
    [block] = of(capsys, "resnet32", "--rule=auglocal:depth=3", "--each=block")
    assert len(block["by_block"]) == 17 and block["settings"]["depth"] == 3


def test_the_printed_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    rules = ["--rule=bp", "--rule=bp:checkpoint=true"]
    text = shown(capsys, "resnet32", *rules, "--batch=8", "--set=network.blocks=3")
    assert max(map(len, text.splitlines())) <= 100
    assert "a step: 8 images of 32 pixels" in text and "bp, bp checkpoint=true: by stage" in text
    line = next(line for line in text.splitlines() if line.startswith("bp checkpoint=true  "))
    assert float(line.split()[-1].rstrip("x")) > 3


@pytest.mark.full
def test_the_recipe_is_that_of_the_tables(capsys):
    [row] = of(capsys, "resnet101", "--rule=bp")
    assert (row["recipe"], row["batch"]) == ("auglocal/imagenet", 512)
    [row] = of(capsys, "resnet50", "--rule=gim", "--scale=smoke")
    assert (row["recipe"], row["scale"]) == ("loco/imagenet", "smoke")
    [row] = of(capsys, "resnet32", "--rule=gim", "--batch=2")
    assert row["recipe"] == "loco/imagenet"  # no table has it


@pytest.mark.full
def test_all_rules_and_their_rival_have_one_batch(capsys):
    rows = of(capsys, "vgg13", "--rule=bp", "--rule=predsim", "--scale=paper")
    assert [row["batch"] for row in rows] == [256, 256]
    first, both = (
        next(row for row in shown(capsys, "vgg13", *words).splitlines() if row.startswith("dgl "))
        for words in (["--rule=dgl"], ["--rule=dgl", "--rule=bp"])
    )
    assert first.split() == both.split() and first.endswith("x")


@pytest.mark.full
def test_a_rule_of_ones_own(capsys, tmp_path, monkeypatch):
    """Also one whose objective does not say which part of it makes outputs."""
    monkeypatch.setattr(RULES, "entries", dict(RULES.entries))
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    words = [f"--rule={path}", f"--rule={path}:width=32", "--batch=4", "--scale=smoke"]
    [plain, wide] = of(capsys, "resnet50", *words, "--measure")
    assert plain["auxiliary_parameters"] * 2 == wide["auxiliary_parameters"] > 0
    assert plain["auxiliary_multiply_adds"]["all"] == 0  # not counted: no `head`
    assert plain["step"]["saved_bytes"] > 0 and plain["measured"]["images_per_s"] > 0


OWN = """
from torch import nn
from locbench.rules import Unit

class Objective(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.project = nn.Linear(channels, width, bias=False)

    def forward(self, features, batch):
        return self.project(features.mean(dim=(2, 3))).square().mean(), {}

def mine(network, *, width=16):
    "All blocks at once."
    last = len(network.blocks)
    return [Unit(0, last, Objective(network.blocks[-1].out_channels, width))]
"""


def test_the_picture(capsys, tmp_path):
    path = tmp_path / "steps.png"
    words = ["resnet32", "--rule=bp", "--rule=auglocal", "--batch=4", f"--plot={path}"]
    words += ["--set=network.blocks=1"]
    assert str(path) in "".join(shown(capsys, *words).split("\n"))
    picture = Image.open(path).convert("RGB")
    assert picture.width > 800 and len(picture.getcolors(1 << 20)) > 50


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet32", "--rule=bq"], "did you mean 'bp'?"),
        (["resnet33", "--rule=bp"], "unknown network 'resnet33'"),
        (["resnet32", "--rule=bp:depth=2"], "rule 'bp' has no setting 'depth'"),
        (["resnet32", "--rule=bp", "--set=rule.dpeth=3"], "no setting 'rule.dpeth'"),
        (["resnet50", "--rule=bp", "--recipe=loco/imagenet"], "gives two views"),
        (["resnet32", "--rule=bp", "--device=cpu"], "is for --measure"),
        (["resnet32", "--rule=bp", "--rule=loco"], "ask for them apart"),
        (["resnet32", "--rule=bp", "--each=layer"], "--each layer; known: stage, block"),
        (["resnet32", "--rule=bp", "--plot=a.gif"], "ends in .png"),
        (["resnet32", "--rule=bp", "--plot=/nowhere/a.png"], "there is no folder"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(words, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        cli.app(["cost", *words], standalone_mode=False)


def small(rule: str, **sets: object) -> Case:
    sizes = {"training.batch": 16, "network.blocks": 1}
    recipe = load_recipe("auglocal/cifar10", "paper", {**sizes, **sets})
    return Case(recipe.for_run(rule, "resnet32"), rule, "resnet32", 10)


def test_measured_steps():
    figures = measure(small("auglocal", **{"rule.depth": 2}), small("bp"), "cpu")
    assert figures["allocated_share"] == pytest.approx(100, abs=10)
    assert figures["images_per_s"] > 0
    assert figures["resident_gigabytes"] > figures["allocated_gigabytes"]
    low, middle, high = (figures[f"wall_clock_overhead{end}"] for end in ("_low", "", "_high"))
    assert low <= middle <= high


def test_what_goes_wrong_in_the_other_process_is_said_here():
    with pytest.raises(UserError, match="--device cuda"):
        in_a_process(_refuse, "--device cuda: none")
    with pytest.raises(RunFailed, match="ended with code -9"):
        in_a_process(_die)


def _refuse(text: str) -> None:
    raise UserError(text)


def _die() -> None:
    os.kill(os.getpid(), 9)


def test_the_least_that_works_is_found():
    tried = []

    def works(share: float) -> bool:
        tried.append(share)
        return share >= 0.3

    assert 0.3 <= least_that(works, 0.0, 0.8) <= 0.3 * 1.02
    assert len(tried) < 12
