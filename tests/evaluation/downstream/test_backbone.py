"""The adapter gives mmdet what mmdet's own ResNet gives, and freezes what it says."""

import pytest
import torch
from pairs import FAMILIES
from torch import nn

from locbench.evaluation.downstream import operators

operators.install()

from mmdet.models.backbones import ResNet  # noqa: E402

from locbench.evaluation.downstream.backbone import BlockBackbone, set_statistics, strides, widths  # noqa: E402
from locbench.networks import make_network  # noqa: E402
from locbench.recipes.schema import Network as Settings  # noqa: E402


def randomised(network: nn.Module) -> nn.Module:
    """Batch norm that is not the identity, so that an error in it shows."""
    draw = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.running_var):
                value.copy_(0.5 + torch.rand(value.shape, generator=draw))
            for value in (module.bias.data, module.running_mean):
                value.copy_(0.2 * torch.randn(value.shape, generator=draw))
    return network


def test_resnet50_equals_mmdets_own() -> None:
    network = randomised(make_network("resnet50", Settings(), 10, 64))
    theirs = ResNet(depth=50, norm_eval=True, frozen_stages=1)
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    theirs.load_state_dict(state, strict=True)
    ours = BlockBackbone(network, "first")
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    for module in (ours, theirs):
        module.train()
    pairs = list(zip(ours(images), theirs(images), strict=True))
    assert len(pairs) == 4 and all(torch.equal(a, b) for a, b in pairs)
    trained = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (ours, theirs)]
    assert trained[0] == trained[1] > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_any_network_is_a_backbone(name: str) -> None:
    network = make_network(name, Settings(width=0.25, blocks=1, stem="small"), 10, 64)
    maps = BlockBackbone(network)(torch.randn(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == widths(network)
    sizes = [m.shape[2] for m in maps]
    assert sizes == [network.sides()[index] for index in network.out_indices]
    for size, stride in zip(sizes, strides(network), strict=True):
        assert abs(size - 64 / stride) < 2 and isinstance(stride, int | float)


@pytest.mark.parametrize(("frozen", "fixed"), [("all", True), ("first", True), ("first", False)])
def test_what_is_frozen_keeps_weights_and_statistics(frozen: str, fixed: bool) -> None:
    network = make_network("resnet50", Settings(width=0.25, blocks=1, stem="small"), 10, 32)
    backbone = BlockBackbone(network, frozen, fixed)
    before = {name: value.clone() for name, value in network.encoder_state_dict().items()}
    backbone.train()
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    extra = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([*parameters, extra], 0.1, weight_decay=0.1)
    loss = extra * sum(m.square().mean() for m in backbone(torch.randn(4, 3, 32, 32)))
    loss.backward()
    optimizer.step()
    moved = {k for k, v in network.encoder_state_dict().items() if not torch.equal(v, before[k])}
    stages = {key.split(".")[0] for key in moved}
    assert stages == (set() if frozen == "all" else {"layer2", "layer3", "layer4"})
    assert any("running_mean" in key for key in moved) is (frozen == "first" and not fixed)


def test_statistics_are_those_of_the_images() -> None:
    network = make_network("resnet50", Settings(width=0.25, blocks=1, stem="small"), 10, 32)
    batches = [3 + torch.randn(8, 3, 32, 32) for _ in range(3)]
    set_statistics(network, iter(batches))
    wanted = torch.stack([network.conv1(b).mean((0, 2, 3)) for b in batches]).mean(0)
    assert torch.allclose(network.bn1.running_mean, wanted, atol=1e-5)
    assert network.bn1.momentum == 0.1 and not network.training
