"""What the engine, the probe and the rules rely on, for one network of every family."""

import copy

import pytest
import torch
from meta import on_meta
from pairs import FAMILIES

from locbench.errors import UserError
from locbench.networks import Block, Network
from locbench.networks.base import STEMS
from locbench.plugins.registry import NETWORKS
from locbench.recipes.schema import Network as Settings

TINY = {"width": 0.125, "blocks": 1, "stem": "small"}


def build(name: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return NETWORKS.get(name)(Settings(**TINY), num_classes=10)


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def shapes_of(network: Network, side: int) -> list[torch.Size]:
    """The shape of every block's output for one square image, without computing it."""
    images = torch.empty(1, 3, side, side, device="meta")
    features = network.features_at(images, range(len(network.blocks)))
    return [feature.shape for feature in features]


def test_every_tensor_lies_once_in_one_block_or_in_the_head(name):
    network = on_meta(name)
    parts = [*network.blocks, network.head]
    grouped = [id(p) for part in parts for p in part.parameters()]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in network.parameters()}
    buffers = {id(b) for part in parts for b in part.buffers()}
    assert buffers == {id(buffer) for buffer in network.buffers()}
    assert len(network.state_dict()) == len(grouped) + len(buffers)


def test_stages_cover_the_blocks_in_order(name):
    network = on_meta(name)
    count = len(network.blocks)
    assert [index for stage in network.stages for index in stage] == list(range(count))
    lasts = [network.stage_of(stage[-1]) for stage in network.stages]
    assert lasts == list(range(len(network.stages))) and network.stage_of(0) == 0
    with pytest.raises(IndexError, match=f"block {count} "):
        network.stage_of(count)


def test_a_feature_pyramid_reads_the_last_map_of_every_size(name):
    network = on_meta(name)
    shapes, taken = shapes_of(network, 224), network.out_indices
    sides = [shapes[index][-1] for index in taken]
    assert sides == sorted(set(sides), reverse=True) and sides[-1] == shapes[-1][-1]
    assert [shapes[index + 1][-1] for index in taken[:-1]] == sides[1:]


@pytest.mark.parametrize("settings", [{}, TINY], ids=["published", "tiny"])
def test_blocks_say_truly_what_they_do_to_the_shape(name, settings):
    network = on_meta(name, **settings)
    channels, side = 3, 45
    for block, shape in zip(network.blocks, shapes_of(network, side), strict=True):
        assert block.in_channels == channels
        channels, side = block.out_channels, -(-side // block.stride)
        assert shape == (1, channels, side, side)


def test_forward_is_the_head_on_the_last_of_the_features(name):
    network = build(name).eval()
    images = torch.rand(2, 3, 16, 16)
    last = len(network.blocks) - 1
    encoded, first = network.features_at(images, [last, 0])
    assert torch.equal(network.encode(images), encoded)
    assert torch.equal(network.blocks[0](images), first)
    assert torch.equal(network(images), network.head(encoded))
    assert network(images).shape == (2, 10) == (2, network.num_classes)


def test_features_run_no_block_above_the_highest_asked_for():
    network = build("resnet50")
    network.blocks[2].register_forward_pre_hook(lambda *_: pytest.fail("ran block 2"))
    images = torch.rand(2, 3, 16, 16)
    assert len(network.features_at(images, [1])) == 1
    assert network.features_at(images, []) == []
    for index in (-1, len(network.blocks)):
        with pytest.raises(IndexError):
            network.features_at(images, [index])


def test_like_makes_fresh_blocks_of_the_networks_kind(name):
    network = build(name)
    for index in (0, 1, len(network.blocks) - 1):
        block = network.blocks[index]
        first = max(1, network.stages[network.stage_of(index)].start)
        usual = type(network.blocks[first].module)
        made = block.like(block.out_channels, 16, 2)
        assert isinstance(made, Block)
        for stride, module in ((2, made.module), (1, made.like(16, 16, 1).module)):
            assert isinstance(module, usual), (
                f"block {index}: its kind makes a {type(module).__name__} at stride {stride}, and "
                f"the modules of its stage are of the class {usual.__name__}"
            )
        assert (made.in_channels, made.out_channels, made.stride) == (block.out_channels, 16, 2)
        assert made(torch.rand(2, block.out_channels, 9, 9)).shape == (2, 16, 5, 5)
    one, other = (network.blocks[1].like(16, 16, 1) for _ in range(2))
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert {id(p) for p in one.parameters()}.isdisjoint(id(p) for p in network.parameters())


@pytest.mark.parametrize("name", ["resnet50", "shufflenet_v2_50", "regnetx_400mf"])
def test_like_refuses_a_width_its_kind_cannot_have(name):
    with pytest.raises(ValueError, match="not 13"):
        build(name).blocks[0].like(8, 13, 1)


def test_modes_and_dtypes_reach_blocks_and_head(name):
    network = build(name).to(torch.float64)
    for mode in (False, True):
        network.train(mode)
        parts = [network, *network.blocks, network.head]
        assert {module.training for part in parts for module in part.modules()} == {mode}
    assert network(torch.rand(2, 3, 16, 16, dtype=torch.float64)).dtype == torch.float64


def test_a_copy_has_blocks_of_its_own(name):
    network = build(name).eval()
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    inside = [p for part in (*twin.blocks, twin.head) for p in part.parameters()]
    assert {id(p) for p in inside} == {id(p) for p in twin.parameters()}
    assert not any(p.any() for p in inside)
    assert any(p.any() for p in network.parameters())


def test_encoder_state_leaves_out_the_head_alone(name):
    network, other = build(name), build(name, seed=1)
    encoder = network.encoder_state_dict()
    assert not any(tensor.requires_grad for tensor in encoder.values())
    result = other.load_state_dict(encoder, strict=False)
    assert len(result.missing_keys) == len(network.head.state_dict())
    assert not result.unexpected_keys
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(network.eval().encode(images), other.eval().encode(images))
    assert not torch.equal(network(images), other(images))


def test_settings_change_width_depth_and_stem(name):
    network, published = on_meta(name, **TINY), on_meta(name)
    depths = [len(stage) for stage in network.stages]
    assert depths[1:-1] == [1] * (len(depths) - 2) and network.blocks[0].stride == 1
    deeper = on_meta(name, blocks=2)
    assert len(deeper.blocks) == len(network.blocks) + len(network.stages)
    half = on_meta(name, width=0.5)
    pairs = zip(half.widths, published.widths, strict=True)
    assert all(abs(ours - width / 2) <= 4 for ours, width in pairs)  # to multiples of 8
    keys = [set(on_meta(name, stem=stem).state_dict()) for stem in STEMS]
    assert keys[0] == keys[1]


def test_a_width_near_zero_still_builds_a_network(name):
    network = on_meta(name, width=0.001, blocks=1)
    assert min(network.widths) >= 8
    logits = network(torch.empty(2, 3, 64, 64, device="meta"))
    assert logits.shape == (2, network.num_classes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 0.0}, "network.width"),
        ({"width": float("nan")}, "network.width"),
        ({"blocks": -1}, "network.blocks"),
        ({"stem": "smal"}, "did you mean 'small'"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(settings, words):
    for name in FAMILIES:
        with pytest.raises(UserError, match=words) as error:
            on_meta(name, **settings)
        assert "\n" not in str(error.value)


def test_blocks_keep_channels_last_and_change_no_input(name):
    network = build(name).to(memory_format=torch.channels_last)
    features = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    for block in network.blocks:
        before = features.clone()
        after = block(features)
        assert torch.equal(features, before)
        assert after.is_contiguous(memory_format=torch.channels_last)
        features = after.detach()


def test_gradients_reach_every_parameter(name):
    network = build(name)
    with torch.no_grad():  # off the zero scales that hide a residual branch
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    network(torch.rand(4, 3, 16, 16)).square().sum().backward()
    gradients = {key: p.grad for key, p in network.named_parameters()}
    assert not [key for key, gradient in gradients.items() if gradient is None]
    # A bias may change nothing: one before a batch norm does not.
    felt = [key for key in gradients if not key.endswith("bias")]
    assert not [key for key in felt if not gradients[key].any()]
