"""Registries: the names of rules, networks, data sets and kinds of run, and where their code is.

Code is imported when a component is used, so that lists and help need no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from locbench.errors import UserError
from locbench.plugins.entry import Entry, suggest
from locbench.plugins.entry_points import read_entry_points


class Registry:
    """Components of one kind by name; an unknown name is a `UserError` with the nearest.

    `kind` is what errors call a component. `entries` are locbench's own, and rules added from
    files; `group` is the group of entry points by which installed distributions add theirs.
    """

    def __init__(self, kind: str, *entries: Entry, group: str = "") -> None:
        self.kind, self.group = kind, group
        self.entries = {entry.name: entry for entry in entries}

    @cached_property
    def installed(self) -> dict[str, Entry]:
        """The components of installed distributions, also broken ones."""
        return read_entry_points(self.group, reserved=self.entries) if self.group else {}

    @property
    def usable(self) -> dict[str, Entry]:
        """All components that can be used, by name."""
        return self.entries | {k: entry for k, entry in self.installed.items() if not entry.fault}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.usable.values())

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self.usable  # `entries` reads no entry point

    def names(self) -> list[str]:
        """All known names, locbench's own first."""
        return list(self.usable)

    def entry(self, name: str) -> Entry:
        """The entry of this name."""
        if name in self.entries:
            return self.entries[name]
        if name not in self.installed:
            raise UserError(f"unknown {self.kind} '{name}'{suggest(name, self.usable)}")
        if self.installed[name].fault:
            raise UserError(self.installed[name].fault)
        return self.installed[name]

    def is_external(self, name: str) -> bool:
        """Whether this name is of a component from outside locbench."""
        return name in self.usable and bool(self.usable[name].source)

    def get(self, name: str) -> Any:
        """The component of this name, imported on first use."""
        return self.entry(name).load()


def _rule(name: str, summary: str, learns: str = "views") -> Entry:
    return Entry(name, f"locbench.rules.{name}:{name}", summary, learns=learns)


RULES = Registry(
    "rule",
    _rule("simclr", "SimCLR: one unit, end to end (LoCo sec. 3.1)"),
    _rule("gim", "Greedy InfoMax: one unit a stage (LoCo sec. 3.2)"),
    _rule("loco", "LoCo: units of two stages, overlapping (sec. 4)"),
    _rule("bp", "backpropagation, also with gradient checkpointing", "label"),
    _rule("predsim", "PredSim: every block, similarity matching", "label"),
    _rule("dgl", "DGL: every block, decoupled greedy learning", "label"),
    _rule("infopro", "InfoPro: every block, reconstruction", "label"),
    _rule("auglocal", "AugLocal: every block, later layers", "label"),
    group="locbench.rules",
)


def _network(family: str, name: str, summary: str) -> Entry:
    return Entry(name, f"locbench.networks.{family}:{name}", summary)


NETWORKS = Registry(
    "network",
    _network("resnet", "resnet50", "ResNet-50, torchvision's modules"),
    _network("resnet", "resnet34", "ResNet-34, torchvision's modules"),
    _network("resnet", "resnet101", "ResNet-101, torchvision's modules"),
    _network(
        "shufflenet", "shufflenet_v2_50", "ShuffleNet v2-50 of the ShuffleNet v2 paper's appendix"
    ),
    _network("presnet", "presnet50", "PResNet-50: six stages of about equal cost (LoCo sec. 5.6)"),
    _network(
        "presnet", "presnet50_table8", "PResNet-50 as LoCo's table 8 prints it, of fewer FLOPs"
    ),
    _network(
        "presnet",
        "presnet50_res4_128",
        "PResNet-50 with the width of res4 that LoCo's table 6 implies",
    ),
    _network("resnet_cifar", "resnet32", "ResNet-32 for small images"),
    _network("resnet_cifar", "resnet110", "ResNet-110 for small images"),
    _network("vgg", "vgg19", "VGG-19 with batch norm, for small images"),
    _network("vgg", "vgg13", "VGG-13 with batch norm, for ImageNet"),
    _network("mobilenet", "mobilenet_v2", "MobileNetV2 for small images (AugLocal table 8)"),
    _network(
        "efficientnet", "efficientnet_b0", "EfficientNet-B0 for small images (AugLocal table 8)"
    ),
    _network("regnet", "regnetx_400mf", "RegNetX-400MF for small images (AugLocal table 8)"),
)

DATASETS = Registry(
    "data set",
    Entry("shapes", "locbench.data.shapes:shapes", "Shapes: built in, generated, 10 classes"),
    Entry("imagenet", "locbench.data.folders:imagenet", "ImageNet-1k as an image folder"),
    Entry("imagenette", "locbench.data.folders:imagenette", "Imagenette, folder or tar"),
    Entry("folder", "locbench.data.folders:folder", "any image folder: train/CLASS, val/CLASS"),
    Entry("cifar10", "locbench.data.torchvision_sets:cifar10", "CIFAR-10, torchvision's files"),
    Entry("svhn", "locbench.data.torchvision_sets:svhn", "SVHN cropped digits, without extra"),
    Entry("stl10", "locbench.data.torchvision_sets:stl10", "STL-10, the labelled images"),
)

_DETECTION = "locbench.evaluation.downstream.sets"  # where images, annotations and categories are
DETECTION_SETS = Registry(
    "detection data set",
    Entry("coco", f"{_DETECTION}:COCO", "COCO 2017, or other images in its format"),
    Entry("cityscapes", f"{_DETECTION}:CITYSCAPES", "Cityscapes in COCO's format"),
    Entry("shapes", f"{_DETECTION}:SHAPES", "Shapes for detection: built in"),
)

# Kinds of run, by the name that a table's fill has as its `evaluation`; see `locbench.runs.kinds`.
KINDS = Registry(
    "evaluation",
    Entry("pretrain", "locbench.runs.kinds.pretrain:Pretrain", "a network trained on views"),
    Entry("train", "locbench.runs.kinds.train:Train", "a network trained with labels, tested"),
    Entry("probe", "locbench.runs.kinds.probe:Probe", "linear probe of what a rule pretrained"),
    Entry("pixels", "locbench.runs.kinds.pixels:Pixels", "logistic regression on pixels"),
    Entry("detect", "locbench.runs.kinds.detect:Detect", "Mask R-CNN on a pretrained backbone"),
    Entry("count", "locbench.runs.kinds.count:Count", "multiply-adds and parameters, counted"),
    Entry("trace", "locbench.runs.kinds.trace:Trace", "bytes of a step, without running it"),
    Entry("measure", "locbench.runs.kinds.measure:Measure", "time and memory of steps, here"),
    Entry("gpu", "locbench.runs.kinds.measure:Gpu", "the same, on a GPU alone"),
)
