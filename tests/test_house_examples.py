"""The examples of locbench/README.md, taken out of it and used as it says."""

import json
import re
import textwrap
from pathlib import Path

import pytest
from fabricate import SETS, call, image_folder

from locbench.plugins.entry import Entry
from locbench.plugins.registry import KINDS, NETWORKS
from locbench.published import load
from locbench.report import formats
from locbench.report.layout import Section

PAGE = Path(__file__).resolve().parents[1] / "locbench" / "README.md"
NETWORK = """
from torch import nn
from locbench.networks.base import *
from locbench.recipes import schema
"""
KIND = """
from locbench.runs.kinds.base import Kind, data_identity, encoder_identity, network_identity
from locbench.runs.spec import RunSpec, training_spec
"""


def example(word):
    """The one code block of the page in which this word is."""
    blocks = re.findall(r"^   ```\w+\n(.*?)^   ```", PAGE.read_text(), re.M | re.S)
    (block,) = [block for block in blocks if word in block]
    return textwrap.dedent(block)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, text: (tmp_path / f"{name}.py").write_text(text)


def test_the_network_is_one_that_rules_train(capsys, module, monkeypatch):
    module("house_network", NETWORK + example("def plain"))
    monkeypatch.setitem(NETWORKS.entries, "plain", Entry("plain", "house_network:plain", ""))
    for rule in ("loco", "auglocal"):
        code, _, err = call(capsys, "audit", rule, "plain", "--width", "0.25", "--blocks", "1")
        assert code == 0, err


def test_the_kind_of_run_fills_the_table(capsys, module, monkeypatch, tmp_path):
    module("house_kind", KIND + example("class Weights"))
    monkeypatch.setitem(KINDS.entries, "weights", Entry("weights", "house_kind:Weights", ""))
    monkeypatch.setattr(load, "tables_dir", lambda: tmp_path)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "weights.toml").write_text(example('evaluation = "weights"'))
    data = ["--data-root", image_folder(tmp_path / "images")]
    code, out, err = call(capsys, "reproduce", "ours/weights", *SETS, *data, "--format", "json")
    assert code == 0, err
    first, second = (cell["measured"] for cell in json.loads(out)["cells"])
    assert first != second and min(first, second) > 0


def test_the_format_is_a_writer_of_sections():
    space = vars(formats) | {"Section": Section}
    exec(example("def org"), space)
    written = space["org"](Section("ours/a", "A title", ["method"], [], notes=["a note"]))
    assert written.splitlines()[0] == "* A title" and written.endswith("a note\n")
