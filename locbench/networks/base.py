"""What every network is made of: blocks, the smallest parts that are trained on their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import TypeVar

from torch import Tensor, nn

from locbench.errors import UserError
from locbench.plugins.entry import suggest
from locbench.recipes import schema

Stride = int | Fraction
Kind = Callable[[int, int, Stride], nn.Module]  # (in_channels, out_channels, stride) -> module

STEMS = ("imagenet", "small")

Module = TypeVar("Module", bound=nn.Module)


class Block(nn.Module):
    """A part of a network that is trained on its own, and that can make others of its kind.

    `stride` is the factor by which the block divides the height and the width of its input: a
    fraction where it interpolates.
    """

    def __init__(
        self, module: nn.Module, in_channels: int, out_channels: int, stride: Stride, kind: Kind
    ) -> None:
        super().__init__()
        self.module = module
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        self.kind = kind

    @classmethod
    def make(cls, kind: Kind, in_channels: int, out_channels: int, stride: Stride) -> Block:
        """A block of this kind with fresh weights."""
        return cls(kind(in_channels, out_channels, stride), in_channels, out_channels, stride, kind)

    def like(self, in_channels: int, out_channels: int, stride: Stride) -> Block:
        """A block of the same kind with weights of its own: what auxiliary networks are built of.

        A stem, and a closing 1x1 convolution, make a block of the kind the network is built of.
        Raises ValueError for widths that the kind cannot have.
        """
        return Block.make(self.kind, in_channels, out_channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride], rounded up."""
        return self.module(features)


class Network(nn.Module):
    """An image classifier as a list of blocks and a head.

    `parts` are registered under their names in the source network, so that its state dict loads
    unchanged. Blocks and head only regroup the same modules: they are held, not registered.

    blocks: in order; the first is the stem.
    stages: ranges of block indices, one after the other, that cover all blocks.
    out_indices: the index of every block whose output a feature pyramid reads.
    head: takes the last feature map to [N, num_classes].
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        *,
        blocks: Sequence[Block],
        stages: Sequence[range],
        out_indices: Sequence[int],
        head: nn.Module,
        num_classes: int,
    ) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.blocks = tuple(blocks)
        self.stages = tuple(stages)
        self.out_indices = tuple(out_indices)
        self.num_classes = num_classes
        self.resolution = 0  # of the images it is for, in pixels; 0: not known (see `sides`)
        self._head = (head,)  # in a tuple: as an attribute its keys would be there twice

    @property
    def head(self) -> nn.Module:
        """The classifier on the last feature map, global average pooling included."""
        return self._head[0]

    @property
    def widths(self) -> tuple[int, ...]:
        """The output channels of every block."""
        return tuple(block.out_channels for block in self.blocks)

    def sides(self) -> list[int]:
        """The side in pixels of every block's output, for images of `resolution` pixels.

        Raises ValueError where that was not set: auxiliary networks that flatten their features
        are made for one size of image.
        """
        if not self.resolution:
            raise ValueError("set network.resolution first: the sides of its maps depend on it")
        strides = (block.stride for block in self.blocks)
        return list(accumulate(strides, lambda side, s: -(-side // s), initial=self.resolution))[1:]

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] images -> [N, num_classes] logits."""
        return self.head(self.encode(images))

    def encode(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] images -> the last block's feature map."""
        for block in self.blocks:
            images = block(images)
        return images

    def features_at(self, images: Tensor, indices: Iterable[int]) -> list[Tensor]:
        """The outputs of these blocks, in the order asked for; runs no block above the highest.

        Raises IndexError when there is no block of that index (negative ones included).
        """
        indices = list(indices)
        if any(index not in range(len(self.blocks)) for index in indices):
            raise IndexError(f"blocks {indices} of a network of {len(self.blocks)}")
        outputs = {}
        for index in range(max(indices, default=-1) + 1):
            images = self.blocks[index](images)
            if index in indices:
                outputs[index] = images
        return [outputs[index] for index in indices]

    def stage_of(self, index: int) -> int:
        """The stage that holds the block of this index; IndexError when there is none."""
        for number, stage in enumerate(self.stages):
            if index in stage:
                return number
        raise IndexError(f"block {index} of a network of {len(self.blocks)}")

    def encoder_state_dict(self) -> dict[str, Tensor]:
        """The state dict without the head's entries, under the names of the source network."""
        head = {id(tensor) for tensor in self.head.state_dict(keep_vars=True).values()}
        state = self.state_dict(keep_vars=True)
        return {name: tensor.detach() for name, tensor in state.items() if id(tensor) not in head}

    def train(self, mode: bool = True) -> Network:
        """Set training or evaluation mode, also on the blocks' own flags."""
        super().train(mode)
        for part in (*self.blocks, self.head):
            part.train(mode)
        return self


def make_stage(
    kind: Kind, in_channels: int, out_channels: int, stride: Stride, depth: int
) -> list[Block]:
    """`depth` blocks of one kind, of which the first changes width and resolution."""
    first = Block.make(kind, in_channels, out_channels, stride)
    return [first, *(first.like(out_channels, out_channels, 1) for _ in range(depth - 1))]


def joined(blocks: Iterable[Block]) -> nn.Sequential:
    """The blocks' modules as one, the form in which source networks register a stage."""
    return nn.Sequential(*(block.module for block in blocks))


def consecutive(sizes: Iterable[int]) -> tuple[range, ...]:
    """Adjoining ranges of these sizes, from 0: `consecutive([2, 1])` is (0..1, 2..2)."""
    stops = list(accumulate(sizes))
    return tuple(range(start, stop) for start, stop in zip([0, *stops], stops, strict=False))


def last_at_each_size(blocks: Sequence[Block]) -> list[int]:
    """The indices of the blocks after which the resolution falls, and of the last block."""
    falls = [index for index, block in enumerate(blocks[1:]) if block.stride > 1]
    return [*falls, len(blocks) - 1]


def pooled_network(
    parts: Mapping[str, nn.Module],
    *,
    blocks: Sequence[Block],
    stages: Sequence[range],
    num_classes: int,
    out_indices: Sequence[int] = (),
) -> Network:
    """The network that ends in global average pooling and one linear layer, its part `fc`.

    `out_indices` are those of `last_at_each_size` where none are given.
    """
    fc = nn.Linear(blocks[-1].out_channels, num_classes)
    return Network(
        {**parts, "fc": fc},
        blocks=blocks,
        stages=stages,
        out_indices=out_indices or last_at_each_size(blocks),
        head=pooled_classifier(fc),
        num_classes=num_classes,
    )


def pooled_classifier(fc: nn.Linear) -> nn.Sequential:
    """Global average pooling, then this linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc)


def he_normal(module: Module) -> Module:
    """The module, the weight of each of its convolutions drawn anew: He's normal, by fan-out.

    The standard deviation is sqrt(2 / (k k out_channels)), for grouped convolutions too.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    return module


def scaled(channels: int, width: float, multiple: int) -> int:
    """`channels` times `width`, to the nearest multiple of `multiple`, and at least 8."""
    return max(8, int(channels * width / multiple + 0.5) * multiple)


def check_settings(settings: schema.Network) -> None:
    """Raise UserError for a width, depth or stem that no network can have."""
    if not settings.width > 0:
        raise UserError(f"network.width is {settings.width}: give a number above 0 (1 = published)")
    if settings.blocks < 0:
        raise UserError(f"network.blocks is {settings.blocks}: give 0 (as published) or more")
    if settings.stem not in STEMS:
        raise UserError(f"network.stem is '{settings.stem}'{suggest(settings.stem, STEMS)}")
