"""InfoNCE, the loss of SimCLR, GIM and LoCo, and the decoder between a unit's output and it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from locbench.distributed.collectives import gathered
from locbench.distributed.group import rank
from locbench.errors import UserError
from locbench.networks.base import Block
from locbench.units import Batch


def info_nce(z: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE over 2N views (LoCo eq. 1): the loss and the share of positives ranked first.

    z: [2N, D], view i and view i+N show the same image. The positive of a view is the other view
    of its image; the 2N-2 views of other images are the negatives; the view itself is left out.
    Similarity is the cosine over the temperature; cross-entropy is averaged over the 2N views.
    Computed in at least fp32, whatever autocast says.

    Where several processes train together these are the views of this one, the negatives are those
    of all of them, and the loss is its own views' mean: the mean over processes is eq. 1 of all.
    """
    with torch.autocast(z.device.type, enabled=False):
        z = F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1)
        n = len(z) // 2
        # [process, view, image] -> [view, image of all], so that view i + N is again i's other one.
        whole = gathered(z, ()).view(-1, 2, n, z.shape[1]).transpose(0, 1).reshape(-1, z.shape[1])
        images = len(whole) // 2
        image = torch.arange(n, device=z.device) + rank() * n
        view = torch.cat([image, image + images])  # of each row, its place in `whole`
        logits = z @ whole.T / temperature
        # Past autograd, which would keep the indices: the gradient there is exactly 0 as it is.
        logits.detach().scatter_(1, view[:, None], float("-inf"))
        positive = (view + images) % len(whole)
        loss = F.cross_entropy(logits, positive)
        return loss, (logits.detach().argmax(dim=1) == positive).float().mean()


def mlp(channels: int, *, layers: int, dimension: int) -> nn.Sequential:
    """SimCLR's projection head: Linear-BN-ReLU ... Linear-BN, no biases, weights N(0, 0.01).

    The last batch norm has a scale but no shift (from the SimCLR v1 code).
    """
    steps: OrderedDict[str, nn.Module] = OrderedDict()
    for k in range(layers):
        last = k == layers - 1
        width = dimension if last else channels
        linear = nn.Linear(channels, width, bias=False)
        nn.init.normal_(linear.weight, std=0.01)
        norm = nn.BatchNorm1d(width)
        norm.bias.requires_grad_(not last)
        steps[f"linear{k + 1}"], steps[f"norm{k + 1}"] = linear, norm
        if not last:
            steps[f"relu{k + 1}"] = nn.ReLU(inplace=True)
    return nn.Sequential(steps)


class Decoder(nn.Module):
    """[conv blocks] - global average pool - MLP -> [2N, dimension].

    `block` is what it follows. LoCo's "1 conv block" decoder has one conv block (sec. 5.4), the
    plain decoder none (sec. 5.1).
    """

    def __init__(
        self, block: Block, *, conv_blocks: Sequence[Block], mlp_layers: int, dimension: int
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(*conv_blocks)
        width = [block, *conv_blocks][-1].out_channels
        self.mlp = mlp(width, layers=mlp_layers, dimension=dimension)

    def forward(self, features: Tensor) -> Tensor:
        """features [2N, C, H, W] -> projections [2N, dimension]."""
        for conv in self.convs:
            features = _in_full(conv, features) if features.shape[-1] == 1 else conv(features)
        return self.mlp(features.mean(dim=(2, 3)))


def _in_full(conv: Block, features: Tensor) -> Tensor:
    """The block outside autocast: of maps one pixel wide, where small images and deep decoders end.

    There the bf16 weight gradient of a strided convolution was seen (torch 2.12, some processors)
    to keep in the taps that meet no pixel what memory held, not zero.
    """
    with torch.autocast(features.device.type, enabled=False):
        return conv(features.to(next(conv.parameters()).dtype))


class Contrastive(nn.Module):
    """The objective of all three rules: InfoNCE on a decoder's output.

    Raises UserError for a temperature that is not above 0.
    """

    capturable = True  # see `locbench.training.captured`

    def __init__(
        self,
        block: Block,
        *,
        temperature: float,
        conv_blocks: Sequence[Block],
        mlp_layers: int,
        description: str,
        dimension: int = 128,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise UserError(f"rule.temperature = {temperature}: give a number above 0, such as 0.1")
        self.decoder = Decoder(
            block, conv_blocks=conv_blocks, mlp_layers=mlp_layers, dimension=dimension
        )
        self.temperature, self.description = temperature, description

    @property
    def head(self) -> nn.Module:
        """What turns the features into projections."""
        return self.decoder

    def forward(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """features [2N, C, H, W] -> InfoNCE and {"accuracy": positives ranked first}."""
        loss, accuracy = info_nce(self.decoder(features), self.temperature)
        return loss, {"accuracy": accuracy}
