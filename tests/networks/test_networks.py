"""What the engine, the probe and the rules rely on, for every registered network."""

import copy

import pytest
import torch
from torch import nn

from locbench.errors import UserError
from locbench.networks import Block, Network
from locbench.networks.base import STEMS
from locbench.plugins.registry import NETWORKS
from locbench.recipes.schema import Network as Settings

TINY = Settings(width=0.125, blocks=1, stem="small")
PUBLISHED = Settings()
PRESNETS = ("presnet50", "presnet50_table8", "presnet50_res4_128")
# With a stem for large images, and one for small.
IMAGENET = ("resnet34", "resnet50", "resnet101", "shufflenet_v2_50", *PRESNETS)


def build(name: str, settings: Settings = TINY, seed: int = 0, classes: int = 10) -> Network:
    torch.manual_seed(seed)
    return NETWORKS.get(name)(settings, num_classes=classes)


def on_meta(name: str, settings: Settings = PUBLISHED) -> Network:
    with torch.device("meta"):
        return NETWORKS.get(name)(settings)


@pytest.fixture(params=NETWORKS.names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def shapes_of(network: Network, side: int) -> list[torch.Size]:
    """The shape of every block's output for one square image, without computing it."""
    images = torch.empty(1, 3, side, side, device="meta")
    indices = range(len(network.blocks))
    features = network.eval().features_at(images, indices)
    return [feature.shape for feature in features]


def test_every_parameter_lies_in_one_block_or_in_the_head(name):
    network = on_meta(name)
    per_block = [network.block_parameters(index) for index in range(len(network.blocks))]
    grouped = [id(p) for group in [*per_block, list(network.head.parameters())] for p in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in network.parameters()}
    registered = {id(buffer) for buffer in network.buffers()}
    assert {id(b) for block in network.blocks for b in block.buffers()} == registered


def test_keys_are_the_source_networks_alone(name):
    network = on_meta(name)
    assert len(network.state_dict()) == len({id(t) for t in network.state_dict().values()})
    first = {key.split(".")[0] for key in network.state_dict()}
    assert not [part for part in first if "block" in part or "head" in part]


def test_stages_cover_the_blocks_in_order(name):
    network = on_meta(name)
    assert [index for stage in network.stages for index in stage] == list(
        range(len(network.blocks))
    )
    assert network.stage_of(0) == 0
    lasts = [network.stage_of(stage[-1]) for stage in network.stages]
    assert lasts == list(range(len(network.stages)))
    count = len(network.blocks)
    with pytest.raises(IndexError, match=f"block {count} "):
        network.stage_of(count)


def test_taps_are_the_maps_a_feature_pyramid_reads(name):
    network = on_meta(name)
    shapes = shapes_of(network, 224)
    sides = [shapes[tap][-1] for tap in network.out_indices]
    first = 56 if name in IMAGENET else 224 // network.blocks[0].stride
    halved = [first // 2**level for level in range(len(sides))]
    assert sides == ([56, 36, 24, 16, 12, 8] if name in PRESNETS else halved)
    assert sides[-1] == shapes[-1][-1]
    # Each is the last of its resolution, but for a closing 1x1 convolution.
    following = [shapes[tap + 1][-1] for tap in network.out_indices[:-1]]
    assert following == sides[1:]
    assert all(shapes[tap][1] == network.blocks[tap].out_channels for tap in network.out_indices)


@pytest.mark.parametrize("side", [32, 45])
def test_blocks_say_truly_what_they_do_to_the_shape(name, side):
    for settings in (PUBLISHED, TINY):
        network = on_meta(name, settings)
        channels = 3
        expected = side
        for block, width, shape in zip(
            network.blocks, network.widths, shapes_of(network, side), strict=True
        ):
            expected = -(-expected // block.stride)
            assert block.in_channels == channels
            assert shape == (1, width, expected, expected)
            channels = width


def test_forward_is_the_head_on_the_last_of_the_features(name):
    network = build(name).eval()
    images = torch.rand(2, 3, 32, 32)
    last = len(network.blocks) - 1
    encoded, first = network.features_at(images, [last, 0])
    assert torch.equal(network.encode(images), encoded)
    assert torch.equal(network.blocks[0](images), first)
    assert torch.equal(network(images), network.head(encoded))
    assert network(images).shape == (2, 10) == (2, network.num_classes)


def test_features_run_no_block_above_the_highest_asked_for(name):
    network = build(name)
    network.blocks[2].register_forward_pre_hook(lambda *_: pytest.fail("ran block 2"))
    assert len(network.features_at(torch.rand(2, 3, 16, 16), [1])) == 1
    assert network.features_at(torch.rand(2, 3, 16, 16), []) == []
    for index in (-1, len(network.blocks)):
        with pytest.raises(IndexError):
            network.features_at(torch.rand(2, 3, 16, 16), [index])


def test_like_makes_fresh_blocks_of_the_networks_kind(name):
    network = build(name)
    for index in (0, 1, len(network.blocks) - 1):
        block = network.blocks[index]
        first = max(1, network.stages[network.stage_of(index)].start)
        usual = type(network.blocks[first].module)
        made = block.like(block.out_channels, 16, 2)
        assert isinstance(made, Block)
        assert isinstance(made.module, usual)
        assert isinstance(made.like(16, 16, 1).module, usual)
        assert (made.in_channels, made.out_channels, made.stride) == (block.out_channels, 16, 2)
        assert made(torch.rand(2, block.out_channels, 8, 8)).shape == (2, 16, 4, 4)
    one, other = (network.blocks[1].like(16, 16, 1) for _ in range(2))
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert {id(p) for p in one.parameters()}.isdisjoint(id(p) for p in network.parameters())


@pytest.mark.parametrize("name", ["resnet50", "shufflenet_v2_50", "regnetx_400mf"])
def test_like_refuses_a_width_its_kind_cannot_have(name):
    with pytest.raises(ValueError, match="not 13"):
        build(name).blocks[0].like(8, 13, 1)


def test_modes_reach_blocks_and_head(name):
    network = build(name)
    for mode in (False, True):
        network.train(mode)
        flags = {module.training for module in network.modules()}
        flags |= {module.training for block in network.blocks for module in block.modules()}
        assert flags | {network.head.training} == {mode}


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


def test_moving_the_network_moves_its_blocks(name):
    network = build(name).to(torch.float64)
    assert network.encode(torch.rand(2, 3, 16, 16, dtype=torch.float64)).dtype == torch.float64


def test_encoder_state_leaves_out_the_head_alone(name):
    network = build(name)
    encoder = network.encoder_state_dict()
    classifier = {key for key in network.state_dict() if key.startswith("fc.")}
    assert classifier and set(network.state_dict()) - set(encoder) == classifier
    other = build(name, seed=1)
    result = other.load_state_dict(encoder, strict=False)
    assert set(result.missing_keys) == classifier
    assert not result.unexpected_keys
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(network.eval().encode(images), other.eval().encode(images))


def test_encoder_state_is_free_of_the_graph(name):
    assert not any(tensor.requires_grad for tensor in build(name).encoder_state_dict().values())


def test_settings_change_width_and_depth(name):
    network, published = on_meta(name, TINY), on_meta(name)
    assert [stage.stop - stage.start for stage in network.stages][1:-1] == [1] * (
        len(network.stages) - 2
    )
    deeper = on_meta(name, Settings(blocks=2))
    assert len(deeper.blocks) == len(network.blocks) + len(network.stages)
    half = on_meta(name, Settings(width=0.5))
    pairs = zip(half.widths, published.widths, strict=True)
    assert all(abs(ours - width / 2) <= 4 for ours, width in pairs)  # to multiples of 8


def test_the_stem_is_that_of_the_settings_where_there_are_two(name):
    strides = [on_meta(name, Settings(stem=stem)).blocks[0].stride for stem in STEMS]
    assert strides == ([4, 1] if name in IMAGENET else [1, 1])


def test_a_stem_has_the_same_keys_at_either_size(name):
    keys = [set(on_meta(name, Settings(stem=stem)).state_dict()) for stem in STEMS]
    assert keys[0] == keys[1]


def test_a_width_near_zero_still_builds_a_network(name):
    network = build(name, Settings(width=0.001, blocks=1))
    assert min(network.widths) >= 8
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(width=0.0), "network.width"),
        (Settings(width=float("nan")), "network.width"),
        (Settings(blocks=-1), "network.blocks"),
        (Settings(stem="smal"), "did you mean 'small'"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(name, settings, words):
    with pytest.raises(UserError, match=words) as error:
        build(name, settings)
    assert "\n" not in str(error.value)


def test_blocks_keep_channels_last(name):
    network = build(name).to(memory_format=torch.channels_last)
    features = torch.rand(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    for block in network.blocks:
        features = block(features)
        assert features.is_contiguous(memory_format=torch.channels_last)


def test_no_block_changes_its_input(name):
    network = build(name)
    features = torch.randn(2, 3, 16, 16)
    for block in network.blocks:
        before = features.clone()
        after = block(features)
        assert torch.equal(features, before)
        features = after.detach()


def test_gradients_reach_every_parameter_once_branches_have_a_scale(name):
    network = build(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    network(torch.rand(4, 3, 16, 16)).square().sum().backward()
    gradients = {key: p.grad for key, p in network.named_parameters()}
    assert not [key for key, gradient in gradients.items() if gradient is None]
    # A bias in front of a batch norm changes nothing: its gradient is zero but for rounding.
    felt = [key for key in gradients if not key.endswith("conv.bias")]
    assert not [key for key in felt if not gradients[key].any()]
