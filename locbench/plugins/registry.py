"""Registries: names to code, loaded only when asked for, so that listing and help need no torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from locbench.errors import UserError
from locbench.plugins.entry import Entry, suggest
from locbench.plugins.entry_points import offered


class Registry:
    """A lazy table of components of one kind; an unknown name is a `UserError` with the nearest.

    `entries` are its own, and what was added; `group` names the entry points of distributions.
    """

    def __init__(self, kind: str, *entries: Entry, group: str = "") -> None:
        self.kind, self.group = kind, group
        self.entries = {entry.name: entry for entry in entries}

    @cached_property
    def offered(self) -> dict[str, Entry]:
        """What installed distributions offer, also what is broken."""
        if not self.group:
            return {}
        return offered(self.group, self.entries)

    @property
    def known(self) -> dict[str, Entry]:
        """All that can be used."""
        usable = {name: entry for name, entry in self.offered.items() if not entry.fault}
        return {**self.entries, **usable}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.known.values())

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self.known  # the first takes no look around

    def names(self) -> list[str]:
        """All known names, locbench's own first."""
        return list(self.known)

    def entry(self, name: str) -> Entry:
        """The entry of this name."""
        if name in self.entries:
            return self.entries[name]
        if name not in self.offered:
            raise UserError(f"unknown {self.kind} '{name}'{suggest(name, self.known)}")
        if self.offered[name].fault:
            raise UserError(self.offered[name].fault)
        return self.offered[name]

    def brought(self, name: str) -> bool:
        """Whether this name is of a component from outside."""
        return name in self.known and bool(self.known[name].kind)

    def get(self, name: str) -> Any:
        """The component of this name, imported on first use."""
        return self.entry(name).load()


RULES = Registry(
    "rule",
    Entry("simclr", "locbench.rules.simclr:simclr", "SimCLR: one unit, end to end (LoCo sec. 3.1)"),
    Entry("gim", "locbench.rules.gim:gim", "Greedy InfoMax: one unit a stage (LoCo sec. 3.2)"),
    Entry("loco", "locbench.rules.loco:loco", "LoCo: units of two stages, overlapping (sec. 4)"),
    Entry(
        "bp",
        "locbench.rules.bp:bp",
        "backpropagation, also with gradient checkpointing",
        learns="label",
    ),
    Entry(
        "predsim",
        "locbench.rules.predsim:predsim",
        "PredSim: every block, similarity matching",
        learns="label",
    ),
    Entry(
        "dgl",
        "locbench.rules.dgl:dgl",
        "DGL: every block, decoupled greedy learning",
        learns="label",
    ),
    Entry(
        "infopro",
        "locbench.rules.infopro:infopro",
        "InfoPro: every block, reconstruction",
        learns="label",
    ),
    Entry(
        "auglocal",
        "locbench.rules.auglocal:auglocal",
        "AugLocal: every block, later layers",
        learns="label",
    ),
    group="locbench.rules",
)

NETWORKS = Registry(
    "network",
    Entry("resnet50", "locbench.networks.resnet:resnet50", "ResNet-50, torchvision's modules"),
    Entry("resnet34", "locbench.networks.resnet:resnet34", "ResNet-34, torchvision's modules"),
    Entry("resnet101", "locbench.networks.resnet:resnet101", "ResNet-101, torchvision's modules"),
    Entry(
        "shufflenet_v2_50",
        "locbench.networks.shufflenet:shufflenet_v2_50",
        "ShuffleNet v2-50 of the ShuffleNet v2 paper's appendix",
    ),
    Entry(
        "presnet50",
        "locbench.networks.presnet:presnet50",
        "PResNet-50: six stages of about equal cost (LoCo sec. 5.6)",
    ),
    Entry(
        "presnet50_table8",
        "locbench.networks.presnet:presnet50_table8",
        "PResNet-50 as LoCo's table 8 prints it, of fewer FLOPs",
    ),
    Entry(
        "presnet50_res4_128",
        "locbench.networks.presnet:presnet50_res4_128",
        "PResNet-50 with the width of res4 that LoCo's table 6 implies",
    ),
    Entry("resnet32", "locbench.networks.resnet_cifar:resnet32", "ResNet-32 for small images"),
    Entry("resnet110", "locbench.networks.resnet_cifar:resnet110", "ResNet-110 for small images"),
    Entry("vgg19", "locbench.networks.vgg:vgg19", "VGG-19 with batch norm, for small images"),
    Entry("vgg13", "locbench.networks.vgg:vgg13", "VGG-13 with batch norm, for ImageNet"),
    Entry(
        "mobilenet_v2",
        "locbench.networks.mobilenet:mobilenet_v2",
        "MobileNetV2 for small images (AugLocal table 8)",
    ),
    Entry(
        "efficientnet_b0",
        "locbench.networks.efficientnet:efficientnet_b0",
        "EfficientNet-B0 for small images (AugLocal table 8)",
    ),
    Entry(
        "regnetx_400mf",
        "locbench.networks.regnet:regnetx_400mf",
        "RegNetX-400MF for small images (AugLocal table 8)",
    ),
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

# Where images, annotations and categories are: see `locbench.evaluation.downstream.sets`.
DETECTION_SETS = Registry(
    "detection data set",
    Entry(
        "coco",
        "locbench.evaluation.downstream.sets:COCO",
        "COCO 2017, or other images in its format",
    ),
    Entry(
        "cityscapes",
        "locbench.evaluation.downstream.sets:CITYSCAPES",
        "Cityscapes in COCO's format",
    ),
    Entry("shapes", "locbench.evaluation.downstream.sets:SHAPES", "Shapes for detection: built in"),
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
