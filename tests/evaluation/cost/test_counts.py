"""What is counted for the cost tables, and that a change of an architecture is found."""

from dataclasses import replace

import pytest
import torch

from locbench.cli import app as cli
from locbench.cli import check
from locbench.errors import CheckFailed
from locbench.evaluation.cost.counts import counts
from locbench.networks import make_network
from locbench.published.load import load_table
from locbench.recipes.load import load_recipe
from locbench.rules import build_units
from locbench.rules.auxiliary import Auxiliary


def figures(recipe: str, network: str, classes: int, rule: str = "", **settings) -> dict:
    loaded = load_recipe(recipe)
    with torch.device("meta"):
        built = make_network(network, loaded.network, classes, loaded.data.resolution)
        units = build_units(rule, built, settings) if rule else []
    return counts(built, units)


@pytest.mark.parametrize(
    ("rule", "settings", "every", "plain"),
    [
        # An independent count (facts, section C), in G.
        ("bp", {}, 0.2553, 0.2531),
        ("predsim", {}, 0.2556, 0.2534),
        ("dgl", {}, 0.2618, 0.2589),
        ("infopro", {}, 0.3404, 0.3373),
        pytest.param("auglocal", {"depth": 2}, 0.6290, 0.6239, marks=pytest.mark.full),
        ("auglocal", {"depth": 6}, 1.1268, 1.1193),
    ],
)
def test_multiply_adds_of_resnet_110(rule, settings, every, plain):
    cost = figures("auglocal/cifar10", "resnet110", 10, rule, **settings)
    assert cost["flops (all)"] == pytest.approx(every, abs=5e-5)
    assert cost["flops (conv+linear)"] == pytest.approx(plain, abs=5e-5)
    assert cost["encoder_flops (conv+linear)"] == pytest.approx(0.2531, abs=5e-5)


def test_shares_of_resnet_50():
    cost = figures("loco/imagenet", "resnet50", 1000)
    memory = [cost[f"memory_share of res{k}"] for k in range(2, 6)]
    assert memory == pytest.approx([43.6364, 29.0909, 21.8182, 5.4545], abs=1e-4)
    flops = [cost[f"flops_share (all) of res{k}"] for k in range(2, 6)]
    assert flops == pytest.approx([19.38, 25.16, 35.74, 19.72], abs=5e-3)
    assert cost["encoder_flops (all)"] == pytest.approx(4.1094, abs=5e-5)
    assert cost["encoder_parameters"] == 23_508_032 and cost["auxiliary_parameters"] == 0
    assert cost["flops (all)"] == cost["encoder_flops (all)"]


def test_shares_of_presnet_50():
    """An independent count (facts, B.8), and the memory column of print."""
    cost = figures("loco/imagenet", "presnet50", 1000)
    shares = [cost[f"flops_share (all) of res{k}"] for k in range(2, 8)]
    assert shares == pytest.approx([13.48, 14.64, 14.79, 16.63, 20.43, 20.04], abs=5e-3)
    assert cost["encoder_flops (all)"] == pytest.approx(4.162, abs=5e-4)
    cost = figures("loco/imagenet", "presnet50_res4_128", 1000)
    memory = [cost[f"memory_share of res{k}"] for k in range(2, 8)]
    assert memory == pytest.approx([15.46, 10.96, 19.48, 17.31, 19.48, 17.31], abs=5e-3)


@pytest.mark.full
def test_one_channel_more_in_one_auxiliary_block_fails_the_check(tmp_path, monkeypatch, capsys):
    build, width, more = Auxiliary.build, Auxiliary._width, [0]

    def first(self, network, layer, *rest, **words):
        more[0] = int(layer == 0)  # of 53 auxiliary networks one, and of its blocks the first
        return build(self, network, layer, *rest, **words)

    def wider(self, channels):
        added, more[0] = more[0], 0
        return width(self, channels) + added

    def flops_alone(name):
        return replace(load_table(name), smoke={"columns": "flops"})  # and no steps traced

    monkeypatch.setattr(check, "load_table", flops_alone)
    monkeypatch.setattr(Auxiliary, "build", first)
    monkeypatch.setattr(Auxiliary, "_width", wider)
    words = ["check", "auglocal/table7", f"--runs={tmp_path}"]
    with pytest.raises(CheckFailed):
        cli.app(words, standalone_mode=False)
    moved = [line for line in capsys.readouterr().out.splitlines() if line.startswith("moved")]
    assert all("-auglocal-resnet110-" in line for line in moved)
    d6 = next(line for line in moved if "-d6-" in line and "flops (all)" in line)
    assert "1.1268 -> 1.12765" in d6
    depths = {line.split("resnet110-")[1].split("-")[0] for line in moved}
    assert depths == {"paper", "d3", "d4", "d5", "d6"}  # d = 2 is the rule's own
