"""The examples of locbench/README.md, taken out of it and used as it says."""

import importlib
import json
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from fabricate import SETS, call, complaint, image_folder

from locbench.data import fingerprint, locate
from locbench.plugins.entry import Entry
from locbench.plugins.registry import DATASETS, KINDS, NETWORKS
from locbench.published import load
from locbench.report import formats
from locbench.report.layout import Section

PAGE = Path(__file__).resolve().parents[1] / "locbench" / "README.md"
NETWORK = """
from torch import nn
from locbench.networks.base import *
from locbench.recipes import schema
"""
DATA = """
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from locbench.data import ImageData, Progress, Split
from locbench.data.digests import checksum_of, folder_digests
from locbench.data.files import folder_files
from locbench.errors import UserError
from locbench.data.locate import find_source
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


def test_the_data_set_is_trained_on_and_errors_are_one_line(capsys, module, monkeypatch, tmp_path):
    finds = "def find_source(name, root):\n" + textwrap.indent(example("import DigitsFile"), "    ")
    exec(finds, space := dict(vars(locate)))
    for place in (locate, fingerprint):
        monkeypatch.setattr(place, "find_source", space["find_source"])
    module("house_data", DATA + example("class DigitsFile"))
    monkeypatch.setitem(sys.modules, "locbench.data.digits", importlib.import_module("house_data"))
    monkeypatch.setitem(DATASETS.entries, "digits", Entry("digits", "house_data:digits", ""))
    folder = tmp_path / "data"
    train = ["pretrain", "loco/imagenet", "--rule", "gim", "--network", "resnet50", *SETS]
    train += ["--set", "data.name=digits", "--data-root", folder, "--json"]
    assert "expected digits.npz" in complaint(capsys, *train)
    folder.mkdir()
    assert f"no {folder / 'digits.npz'}" in complaint(capsys, *train)
    (folder / "digits.npz").write_bytes(b"no archive")
    assert "cannot be read" in complaint(capsys, *train)
    draw, arrays = np.random.default_rng(0), {}
    for split, images in (("train", 24), ("test", 12)):
        arrays[f"{split}_images"] = draw.integers(0, 256, (images, 3, 20, 20), np.uint8)
        arrays[f"{split}_targets"] = np.arange(images, dtype=np.uint8) % 10
    np.savez(folder / "digits.npz", **arrays)
    code, out, err = call(capsys, *train)
    assert code == 0, err
    data = json.loads(out)["data"]
    assert (data["name"], data["classes"], data["train_images"]) == ("digits", 10, 24)


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


def test_the_list_of_evaluations_is_that_of_the_kinds_that_fill_cells():
    page = (PAGE.parents[1] / "tables" / "README.md").read_text()
    listed = page.split("| evaluation | measures |", 1)[1].split("\n\n", 1)[0]
    fills = {name for name in KINDS.entries if KINDS.get(name).fills}
    assert set(re.findall(r"^ *\| `(\w+)` \|", listed, re.M)) == fills


def test_the_format_is_a_writer_of_sections():
    space = vars(formats) | {"Section": Section}
    exec(example("def org"), space)
    written = space["org"](Section("ours/a", "A title", ["method"], [], notes=["a note"]))
    assert written.splitlines()[0] == "* A title" and written.endswith("a note\n")
