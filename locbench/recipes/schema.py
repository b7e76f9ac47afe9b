"""The sections of a recipe: frozen dataclasses whose annotated types are what is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from locbench.plugins.registry import DATASETS, DETECTION_SETS
from locbench.recipes.reading import LARGEST, NotNegative, Number

Positive = Annotated[float, Meta(gt=0, le=LARGEST)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Share = Annotated[float, Meta(gt=0, le=1)]
Momentum = Annotated[float, Meta(ge=0, lt=1)]
Hue = Annotated[float, Meta(ge=0, le=0.5)]
Count = Annotated[int, Meta(ge=1)]
Pairs = Annotated[int, Meta(ge=2)]  # images: the negatives are other images
Whole = Annotated[int, Meta(ge=0)]
DataName = Annotated[str, DATASETS]
DetectionName = Annotated[str, DETECTION_SETS]


@dataclass(frozen=True)
class Data:
    """A registered data set, and the side of the square images in pixels.

    train_images: of a set from which a part is taken, the same share of every class (0: all).
    classes: of the classifier (0: as many as the data has).
    validation: training images held out to tune on, the same share of every class: they take the
    place of the test images, and nothing is trained on them (0: none).
    """

    VERSION: ClassVar = 1
    name: DataName = "shapes"
    resolution: Count = 32
    train_images: Whole = 0
    classes: Whole = 0
    validation: Whole = 0


@dataclass(frozen=True)
class Augmentation:
    """SimCLR's two random views: probabilities, strengths, and the normalisation.

    `area` and `aspect` are the ranges of the random crop, `sigma` the blur's in pixels, `kernel`
    its size as a share of the image's side; `mean` and `std` are of images in [0, 1].
    """

    VERSION: ClassVar = 1
    name: ClassVar = "simclr"
    area: tuple[Share, Share] = (0.08, 1.0)
    aspect: tuple[Positive, Positive] = (0.75, 1.3333333333333333)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    flip: Fraction = 0.5
    jitter: Fraction = 0.8
    brightness: NotNegative = 0.8
    contrast: NotNegative = 0.8
    saturation: NotNegative = 0.8
    hue: Hue = 0.2
    grayscale: Fraction = 0.2
    blur: Fraction = 0.5
    sigma: tuple[Positive, Positive] = (0.1, 2.0)
    kernel: Share = 0.1
    mean: tuple[Number, Number, Number] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Crop:
    """One view of supervised training: pad, crop at random, flip; then the normalisation.

    `interpolation` resizes images whose side is not the recipe's, before all else.
    """

    VERSION: ClassVar = 1
    name: Literal["crop"] = "crop"
    padding: Whole = 4
    padding_mode: Literal["reflect", "zeros"] = "reflect"
    flip: Fraction = 0.5
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[Number, Number, Number] = (0.5, 0.5, 0.5)
    std: tuple[Positive, Positive, Positive] = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ResizedCrop:
    """One view of supervised training: `Augmentation`'s random crop and flip, and no more."""

    VERSION: ClassVar = 1
    name: Literal["resized crop"] = "resized crop"
    area: tuple[Share, Share] = (0.08, 1.0)
    aspect: tuple[Positive, Positive] = (0.75, 1.3333333333333333)
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"
    flip: Fraction = 0.5
    mean: tuple[Number, Number, Number] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Network:
    """The network's size: width factor, blocks a stage (0: as published), and its stem."""

    VERSION: ClassVar = 1
    width: Positive = 1.0
    blocks: Whole = 0
    stem: Literal["imagenet", "small"] = "imagenet"


@dataclass(frozen=True)
class Lars:
    """Pretraining's optimizer; `lr` is the peak after warm-up, `trust` LARS's coefficient."""

    VERSION: ClassVar = 2  # 1: the learning rate outside the momentum, as in timm
    name: Literal["lars"] = "lars"
    lr: NotNegative = 4.8
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 1e-6
    trust: Positive = 0.001


@dataclass(frozen=True)
class SGD:
    """SGD over all parameters alike, weight decay on batch norm and biases too."""

    VERSION: ClassVar = 1
    name: Literal["sgd"] = "sgd"
    lr: NotNegative = 0.1
    momentum: Momentum = 0.9
    nesterov: bool = True
    weight_decay: NotNegative = 1e-4


@dataclass(frozen=True)
class Schedule:
    """Epochs of pretraining, those of the linear warm-up included; half a cosine after it."""

    VERSION: ClassVar = 1
    name: ClassVar = "step cosine"
    epochs: Count = 800
    warmup_epochs: NotNegative = 10.0


@dataclass(frozen=True)
class EpochCosine:
    """The AugLocal code's schedule: one rate an epoch, half a cosine that ends at exactly 0.

    Over `warmup_epochs` it is mixed with `warmup_lr`, which the first epoch has.
    """

    VERSION: ClassVar = 1
    name: Literal["epoch cosine"] = "epoch cosine"
    epochs: Count = 400
    warmup_epochs: NotNegative = 10.0
    warmup_lr: NotNegative = 0.01


@dataclass(frozen=True)
class Training:
    """Images (not views) a step, of all processes, and the arithmetic.

    accumulate: batches one after the other that a step's images are cut into. Negatives and
    batch-norm statistics are then those of such a batch, which is another protocol.
    batch_norm_groups: equal parts of a batch, each with batch-norm statistics of its own, as where
    every GPU has a part. Running statistics are the first part's.
    """

    VERSION: ClassVar = 1
    batch: Pairs = 4096
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    accumulate: Count = 1
    batch_norm_groups: Count = 1


@dataclass(frozen=True)
class Probe:
    """The linear probe: SGD on frozen features, lr / 10 at every milestone (epochs)."""

    VERSION: ClassVar = 1
    profile: str = "loco"
    epochs: Count = 100
    lr: NotNegative = 30.0
    momentum: Momentum = 0.0
    weight_decay: NotNegative = 0.0
    batch: Count = 256
    milestones: tuple[Count, ...] = (30, 60, 90)
    augment: bool = True
    blocks: Literal["last", "all"] = "last"


@dataclass(frozen=True)
class Detection:
    """Mask R-CNN on the encoder, through mmdetection: what differs from mmdet's file `config`.

    data: see `locbench list datasets`; Shapes is drawn with sides of `test_side` pixels.
    train_images: so many drawn at random (0: all), in `splits` drawings, each a run of its own.
    frozen: all of the backbone, its first stage, or nothing; fixed_norm: its batch norm keeps its
    statistics where it is trained. norm: of the layers that are new.
    short_sides, long_side: pixels to which images are resized; test_side: the short one then.
    batch, and the learning rate: of all processes. `iterations` go before `epochs`, and milestones
    are in the same unit; warmup is in iterations.
    channels, fc, proposals, rpn_samples, samples: the size of pyramid and heads, and an image's.
    """

    VERSION: ClassVar = 1
    data: DetectionName = "coco"
    train_images: Whole = 0
    splits: Count = 1
    split: Whole = 0
    config: str = "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
    frozen: Literal["all", "first", "none"] = "all"
    fixed_norm: bool = True
    norm: Literal["sync", "none"] = "sync"
    box_head: Literal["4conv1fc", "2fc"] = "4conv1fc"
    short_sides: tuple[Count, Count] = (800, 800)
    long_side: Count = 1333
    test_side: Count = 800
    batch: Count = 16
    epochs: Count = 12
    iterations: Whole = 0
    milestones: tuple[Count, ...] = (8, 11)
    warmup: Whole = 500
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: NotNegative = 0.02
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 1e-4
    channels: Count = 256
    fc: Count = 1024
    proposals: Count = 1000
    rpn_samples: Count = 256
    samples: Count = 512

    def idle(self) -> list[str]:
        """The keys that, beside the others, change nothing."""
        keys = ["splits"] if self.train_images else ["splits", "split"]
        keys += ["epochs"] if self.iterations else ["iterations"]
        return [*keys, *(["momentum"] if self.optimizer == "adamw" else [])]

    def steps(self, images: int) -> int:
        """How many steps the training has on so many images."""
        return self.iterations or self.epochs * self._epoch(images)

    def falls(self, images: int) -> list[int]:
        """The steps after which the learning rate falls."""
        unit = 1 if self.iterations else self._epoch(images)
        return [unit * at for at in self.milestones]

    def _epoch(self, images: int) -> int:
        return -(-images // self.batch)


# A section of several forms says by its `name` which it is; without one it is the first, whose
# name may be of the class and not of its values.
SECTIONS: dict[str, tuple[type, ...]] = {
    "data": (Data,),
    "augmentation": (Augmentation, Crop, ResizedCrop),
    "network": (Network,),
    "optimizer": (Lars, SGD),
    "schedule": (Schedule, EpochCosine),
    "training": (Training,),
    "probe": (Probe,),
    "detection": (Detection,),
}
# What a recipe may do without: it has them where a file or an override says something of them.
OPTIONAL = ("detection",)
