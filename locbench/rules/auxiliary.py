"""AugLocal's auxiliary networks (sec. 3): how deep they are, and of which layers they are built.

Hidden layers are those before the classifier: an auxiliary network of the paper's depth d has
a = d - 1. A residual block counts as one layer. Layers are counted from 0, the stem.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from locbench.errors import UserError
from locbench.networks.base import Module, Network, he_normal
from locbench.plugins.entry import suggest
from locbench.rules.supervised import pooled

SELECTIONS = ("uniform", "sequential", "repetitive", "repetitive s2")
HALVINGS, CLASSIFIERS = ("stride", "width"), ("linear", "plain", "mlp")
INITIALS = ("he", "torch")
MLP = 512  # the features and hidden neurons of the classifier "mlp"
LAYERS = {"block": 0, "conv1x1": 1, "conv3x3": 3}  # the side of a convolution's kernel


def hidden_layers(layers: int, *, depth: int, decay: float, joint: bool) -> list[int]:
    """The number of hidden layers of every auxiliary network, from the first block up.

    Of `layers` blocks, those that train alone have one: with `joint` the last `depth` train
    together (as in the code for small images), else only the last is without. The depth falls
    linearly from a at the first to (1 - decay) a + decay at the last, rounded half to even, and
    is at least 1 (sec. 3, pyramidal depth; the code's order of operations decides the ties) and at
    most what is left of the network. UserError for a depth that is too small or too large for it,
    and for a decay above 1.
    """
    a = depth - 1
    count = layers - a - 1 if joint else layers - 1
    if not 0 <= decay <= 1:
        raise UserError(f"rule.decay = {decay}: give a number from 0 (one depth for all) to 1")
    if not 1 <= a < layers - 1:
        raise UserError(
            f"rule.depth = {depth}: give 2 (one hidden layer and the classifier) "
            f"to {layers - 1}: the network has {layers} blocks"
        )
    shares = [index * decay / max(1, count - 1) for index in range(count)]
    falling = [max(1, round(a * (1 - share) + share)) for share in shares]
    return [min(n, layers - 1 - index) for index, n in enumerate(falling)]


def select(selection: str, *, layers: int, layer: int, count: int) -> list[int]:
    """Which layers the auxiliary network of `layer` is built of, `count` of them.

    uniform: evenly spaced up to the last, rounded half to even; all that follow where there are no
    more than `count`. sequential: those that follow. repetitive: the layer itself.
    """
    left = layers - 1 - layer
    if selection == "repetitive":
        return [layer] * count
    if selection == "sequential" or count >= left:
        return list(range(layer + 1, layer + 1 + min(count, left)))
    return [round(layer + left / count * i) for i in range(1, count + 1)]


@dataclass(frozen=True, kw_only=True)
class Auxiliary:
    """How auxiliary networks are built; errors are UserErrors that name the setting.

    selection: one of SELECTIONS for all, or one for each stage between slashes. "repetitive s2"
    repeats the layer at its own width, with the down-sampling of the uniform selection.
    layer: what the selected layers are made of: blocks of their kind, or plain convolutions.
    multiplier: of the widths, where layers are convolutions.
    halving: of the resolution, see `carried_strides` and, for "width", `width_strides`.
    classifier: "linear" after the pool, with a batch norm between them after one hidden layer, as
    in the code for small images; "plain", without it, as the paper's Table 6 shows it; the code's
    "mlp" for VGG (see there).
    initial: how they start, see `started`.
    """

    selection: str = "uniform"
    layer: str = "block"
    multiplier: float = 1.0
    halving: str = "stride"
    classifier: str = "linear"
    initial: str = "he"

    def __post_init__(self) -> None:
        for key, choices in (("halving", HALVINGS), ("classifier", CLASSIFIERS)):
            check_choice(key, getattr(self, key), choices)

    def build(
        self, network: Network, layer: int, count: int, norm: bool = True
    ) -> tuple[nn.Sequential, str]:
        """The auxiliary network of a block with `count` hidden layers, and its description.

        Without `norm` no batch norm precedes the classifier: the code for ImageNet has none.

        A halving of the resolution that the network makes between two selected layers is made by
        the next layer, one at a time; what is left over is carried to the layer after it.
        """
        selection = self._selection_at(network.stage_of(layer), len(network.stages))
        span = {"layers": len(network.blocks), "layer": layer, "count": count}
        chosen = select(selection.removesuffix(" s2"), **span)
        path = select("uniform", **span) if selection.endswith(" s2") else chosen
        halvings = carried_strides if self.halving == "stride" else width_strides
        strides = halvings(network, layer, path)
        hidden, width = [], network.widths[layer]
        for index, stride in zip(chosen, strides, strict=True):
            wider = self._width(network.widths[index])
            hidden.append(self._layer(network, index, width, wider, stride))
            width = wider
        if self.classifier == "mlp":
            classifier, top = mlp(network.num_classes), "3 linear"
        else:
            top, norm = "linear", norm and count <= 1 and self.classifier == "linear"
            classifier = pooled(width, network.num_classes, norm=norm)
        kind = "block" if self.layer == "block" else self.layer.replace("conv", "conv ")
        text = f"{len(hidden)} {kind}{'' if len(hidden) == 1 else 's'} + {top}"
        return started(nn.Sequential(*hidden, *classifier), self.initial), text

    def _selection_at(self, stage: int, stages: int) -> str:
        parts = self.selection.split("/")
        if len(parts) not in (1, stages):
            raise UserError(
                f"rule.selection = '{self.selection}': give one of {', '.join(SELECTIONS)} for "
                f"all stages, or {stages} of them between slashes"
            )
        for part in parts:
            if part not in SELECTIONS:
                raise UserError(f"rule.selection = '{part}'{suggest(part, SELECTIONS)}")
        return parts[stage % len(parts)]

    def _width(self, channels: int) -> int:
        return channels if self.layer == "block" else max(1, round(channels * self.multiplier))

    def _layer(self, network: Network, index: int, width: int, wider: int, stride: int):
        if self.layer not in LAYERS:
            raise UserError(f"rule.layer = '{self.layer}'{suggest(self.layer, LAYERS)}")
        if self.layer == "block":
            return network.blocks[index].like(width, wider, stride)
        return conv_layer(width, wider, LAYERS[self.layer], stride)


def carried_strides(network: Network, layer: int, chosen: Sequence[int]) -> list[int]:
    """The stride of each chosen layer, 1 or 2: one halving of the resolution at a time.

    Where the network shrinks its maps by less (PResNet-50), one is due when they make up a half.

    On ResNets these are the official code's, which goes by widths: there both are the same.
    """
    strides, position, due = [], layer, Fraction(1)
    for index in chosen:
        due *= prod(block.stride for block in network.blocks[position + 1 : index + 1])
        strides.append(2 if due >= 2 else 1)
        due, position = due / strides[-1], index
    return strides


def width_strides(network: Network, layer: int, chosen: Sequence[int]) -> list[int]:
    """The stride of each chosen layer: 2 where its width is twice that before it, or any more.

    So the paper has it. The official code's VGG max-pools where the width changes, which is the
    same: between its two stages of 512 channels it does not halve.
    """
    widths = [network.widths[index] for index in (layer, *chosen)]
    return [2 if width >= 2 * before else 1 for before, width in pairwise(widths)]


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """UserError for a setting of another value than these."""
    if value not in choices:
        raise UserError(f"rule.{key} = '{value}'{suggest(value, choices)}")


def started(auxiliary: Module, initial: str) -> Module:
    """The auxiliary network, its convolutions as they are made ("he"), or drawn anew ("torch").

    That is torch's default, from which those of VGG start in the official code: it draws He's for
    the network alone, before it makes them.
    """
    check_choice("initial", initial, INITIALS)
    for part in auxiliary.modules() if initial == "torch" else ():
        if isinstance(part, nn.Conv2d):
            part.reset_parameters()
    return auxiliary


def mlp(num_classes: int) -> nn.Sequential:
    """[B, C, H, W] -> [B, num_classes]: the classifier of VGG's auxiliary networks in the code.

    The flattened map is averaged to 512 values, whatever its size; two hidden layers of as many
    neurons with batch norm and ReLU, where the network's own has 4096.
    """
    hidden = [
        layer
        for _ in range(2)
        for layer in (nn.Linear(MLP, MLP), nn.BatchNorm1d(MLP), nn.ReLU(inplace=True))
    ]
    pool = nn.AdaptiveAvgPool1d(MLP)
    return nn.Sequential(nn.Flatten(), pool, *hidden, nn.Linear(MLP, num_classes))


class FullPixel(nn.Conv2d):
    """A strided convolution that leaves bf16 for fp32 on a CPU where the map is one pixel wide.

    There the bf16 weight gradient was seen (torch 2.12, some processors) to keep in the taps that
    meet no pixel what memory held, not zero.
    """

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H / stride, W / stride], in the dtype of the input."""
        if features.device.type != "cpu" or features.shape[-1] > 1:
            return super().forward(features)
        with torch.autocast("cpu", enabled=False):
            full = features.to(self.weight.dtype)
            return super().forward(full).to(features.dtype)


def conv_layer(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU; He's normal initialisation (fan-out), no bias."""
    kind = FullPixel if stride > 1 else nn.Conv2d
    conv = kind(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    he_normal(conv)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


Build = Callable[[int], tuple[nn.Module, str]]  # a block's index -> its classifier, in words


def scaled_or(
    own: Build, network: Network, *, depth: int, decay: float, multiplier: float
) -> tuple[Build, int]:
    """A rule's own classifiers, or from depth 2 those of Table 9; and how many blocks are joint.

    Those are 3x3 convolutions at the block's resolution, `multiplier` times as wide, of AugLocal's
    depths; the last `depth` blocks train together as they do there.
    """
    if depth == 0:
        return own, 1
    counts = hidden_layers(len(network.blocks), depth=depth, decay=decay, joint=True)
    scaled = Auxiliary(selection="repetitive", layer="conv3x3", multiplier=multiplier)
    return lambda index: scaled.build(network, index, counts[index]), depth
