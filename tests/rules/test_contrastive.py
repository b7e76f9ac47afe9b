"""InfoNCE against a double loop, and the decoder of LoCo sec. 5.4."""

import math

import pytest
import torch
from meta import meta_device, on_meta
from pairs import FAMILIES
from torch import nn

from locbench.errors import UserError
from locbench.networks import Block, Network
from locbench.plugins.registry import NETWORKS
from locbench.recipes.schema import Network as Settings
from locbench.rules.contrastive import Contrastive, info_nce, mlp
from locbench.rules.decoders import Decoders
from locbench.units import Batch

TINY = Settings(width=0.125, blocks=1, stem="small")


def objective_on(network: Network, index: int = -1, **settings) -> Contrastive:
    """LoCo's, after the block of this index."""
    form = {"decoder": "blocks", "decoder_blocks": 1, "decoder_downsampling": True}
    form |= {"temperature": 0.1, "mlp_layers": 2} | settings
    return Decoders(**form).after(network, index % len(network.blocks))


def by_loops(z: torch.Tensor, temperature: float) -> tuple[float, float]:
    """LoCo eq. 1 as it is written, one view and one other view at a time."""
    views = [[float(x) for x in row] for row in z]
    units = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in views]
    half, loss, first = len(units) // 2, 0.0, 0
    for i, mine in enumerate(units):
        scores = {}
        for j, other in enumerate(units):
            if i != j:
                scores[j] = sum(a * b for a, b in zip(mine, other, strict=True)) / temperature
        positive = i + half if i < half else i - half
        loss -= math.log(math.exp(scores[positive]) / sum(math.exp(s) for s in scores.values()))
        first += max(scores, key=scores.get) == positive
    return loss / len(units), first / len(units)


@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
def test_info_nce_equals_a_double_loop(temperature):
    z = torch.randn(12, 5, dtype=torch.float64)
    z[6:] = z[:6] + 0.7 * torch.randn(6, 5, dtype=torch.float64)
    loss, accuracy = info_nce(z, temperature)
    expected, share = by_loops(z, temperature)
    assert loss.dtype == torch.float64
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    assert float(accuracy) == pytest.approx(share)
    assert 0 < share < 1


def test_under_autocast_the_loss_is_computed_in_fp32():
    z = torch.randn(64, 128)
    expected = info_nce(z.bfloat16().double(), 0.1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = info_nce(z.bfloat16(), 0.1)
        assert loss.dtype == torch.float32
        assert torch.is_autocast_enabled("cpu")
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)  # bf16 has 8 bits: 4e-3


def test_an_objective_under_autocast_gives_a_loss_in_fp32_and_gradients():
    network = NETWORKS.get("resnet50")(TINY, num_classes=4)
    objective = objective_on(network, 1)
    features = torch.randn(8, network.widths[1], 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert objective.decoder(features).dtype == torch.bfloat16
        loss, log = objective(features, Batch(features))
    assert loss.dtype == torch.float32
    assert not log["accuracy"].requires_grad
    loss.backward()
    assert features.grad.abs().max() > 0
    assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)


def test_a_decoder_on_maps_of_one_pixel_has_whole_gradients_under_autocast(network):
    """bf16 kernels left parts of them unwritten: whatever lay in memory, here made NaN."""
    decoder = objective_on(network, decoder_blocks=2, mlp_layers=1).decoder
    with torch.no_grad():  # off the zero scales that hide a residual branch
        for parameter in decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    features = torch.randn(16, network.widths[-1], 1, 1)

    def gradients() -> list[torch.Tensor]:
        decoder.zero_grad()
        sizes = [p.numel() for p in decoder.parameters()]
        poison = [torch.full((n,), math.nan, dtype=torch.bfloat16) for n in sizes]
        del poison
        with torch.autocast("cpu", torch.bfloat16):
            decoder(features).float().square().mean().backward()
        return [p.grad.clone() for p in decoder.convs.parameters()]

    first, *others = [gradients() for _ in range(3)]
    for again in others:
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    taps = [gradient.flatten(2) for gradient in first if gradient.shape[2:] == (3, 3)]
    assert len(taps) >= 2
    for gradient in taps:
        assert gradient[:, :, 4].any()
        assert not gradient[:, :, [0, 1, 2, 3, 5, 6, 7, 8]].any()  # these met only padding


def test_the_objective_is_info_nce_of_its_decoder_at_its_temperature(network):
    objective = objective_on(network, temperature=0.5, mlp_layers=3)
    features = torch.randn(8, network.widths[-1], 4, 4)
    loss, log = objective(features, Batch(features))
    expected, accuracy = info_nce(objective.decoder(features), 0.5)
    assert torch.equal(loss, expected)
    assert torch.equal(log["accuracy"], accuracy)


def test_the_projection_head_is_simclrs():
    head = mlp(256, layers=2, dimension=128)
    kinds = [type(step) for step in head]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
    first, norm, _, second, last = head
    assert (first.in_features, first.out_features) == (256, 256)
    assert (second.in_features, second.out_features) == (256, 128)
    for linear in (first, second):
        assert linear.bias is None
        assert float(linear.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
        assert abs(float(linear.weight.detach().mean())) < 5e-4
    assert norm.bias.requires_grad
    assert norm.weight.requires_grad and last.weight.requires_grad
    assert not last.bias.requires_grad
    assert not last.bias.detach().any()


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_mlp_layers_are_its_linear_layers(layers):
    head = mlp(24, layers=layers, dimension=8)
    linears = [step for step in head if isinstance(step, nn.Linear)]
    norms = [step for step in head if isinstance(step, nn.BatchNorm1d)]
    assert [linear.out_features for linear in linears] == [24] * (layers - 1) + [8]
    assert [norm.bias.requires_grad for norm in norms] == [True] * (layers - 1) + [False]
    assert head(torch.randn(4, 24)).shape == (4, 8)


@pytest.fixture(params=FAMILIES)
def network(request):
    return NETWORKS.get(request.param)(TINY, num_classes=4)


def test_locos_conv_block_is_of_the_networks_kind_and_halves_the_map(network):
    for stage in network.stages:
        block = network.blocks[stage[-1]]
        decoder = objective_on(network, stage[-1]).decoder
        (conv,) = decoder.convs
        assert isinstance(conv, Block)
        assert type(conv.module) is type(network.blocks[max(1, stage.start)].module)
        width = block.out_channels
        assert (conv.in_channels, conv.out_channels, conv.stride) == (width, width, 2)
        assert decoder.mlp.linear1.in_features == decoder.mlp.linear1.out_features == width
        features = torch.randn(4, width, 8, 8)
        assert conv(features).shape == (4, width, 4, 4)
        assert decoder(features).shape == (4, 128)
        own = {id(p) for p in decoder.parameters()}
        assert own.isdisjoint(id(p) for p in network.parameters())


def test_a_bottlenecks_decoder_block_has_a_quarter_of_the_width_inside():
    with meta_device():
        decoder = objective_on(on_meta("resnet50"), 7).decoder
    module = decoder.convs[0].module
    shapes = [tuple(c.weight.shape) for c in (module.conv1, module.conv2, module.conv3)]
    assert shapes == [(128, 512, 1, 1), (128, 128, 3, 3), (512, 128, 1, 1)]
    assert module.conv2.stride == module.downsample[0].stride == (2, 2)


def test_the_plain_decoder_is_a_global_average_pool_and_the_mlp(network):
    width = network.blocks[-1].out_channels
    decoder = objective_on(network, decoder_blocks=0).decoder
    assert len(decoder.convs) == 0
    features = torch.randn(6, width, 3, 5)
    assert torch.equal(decoder.eval()(features), decoder.mlp(features.mean(dim=(2, 3))))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_must_be_above_zero(temperature):
    with pytest.raises(UserError, match=r"rule\.temperature = .* above 0"), meta_device():
        objective_on(on_meta("resnet50"), temperature=temperature)
