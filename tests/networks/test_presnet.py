"""PResNet-50: its layers, parameters and multiply-adds are those of LoCo's section 5.6."""

import tomllib
from fractions import Fraction
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from meta import meta_device, on_meta

from locbench.evaluation.cost.operations import CONV_AND_LINEAR, multiply_adds_of_each, parameters
from locbench.networks import Network
from locbench.networks.presnet import Basic, Bottleneck, resized
from locbench.paths import tables_dir
from locbench.rules.auxiliary import carried_strides

NAMES = ("presnet50", "presnet50_table8", "presnet50_res4_128")
SIDES = (56, 36, 24, 16, 12, 8)
IMAGE = (3, 224, 224)
NORMS = (*CONV_AND_LINEAR, "batch_norm")


@cache
def counted(name: str, operators: tuple[str, ...]) -> tuple[int, ...]:
    """Multiply-adds of every stage of the encoder, of one image of 224 pixels."""
    network = on_meta(name)
    found = multiply_adds_of_each(network.blocks, IMAGE, operators)
    return tuple(sum(found[k] for k in stage) for stage in network.stages)


def shares(name: str, operators: tuple[str, ...]) -> list[float]:
    found = counted(name, operators)
    return [100 * count / sum(found) for count in found]


def printed(column: str) -> list[float]:
    rows = tomllib.loads((tables_dir() / "loco/table6.toml").read_text())["rows"]
    return [row[column] for row in rows if column in row]


def convolutions(module) -> list[tuple[int, int, int, int]]:
    """(in, out, kernel, groups) of the residual branch."""
    convs = [getattr(module, f"conv{k}") for k in (1, 2, 3) if hasattr(module, f"conv{k}")]
    return [(c.in_channels, c.out_channels, c.kernel_size[0], c.groups) for c in convs]


@pytest.mark.parametrize("name", NAMES)
def test_six_stages_of_three_blocks_have_the_sides_of_table_8(name):
    network = on_meta(name)
    assert network.stages == (range(0, 4), *(range(k, k + 3) for k in range(4, 19, 3)))
    assert network.out_indices == (3, 6, 9, 12, 15, 18)
    network.resolution = 224
    assert network.sides() == [56, *(side for side in SIDES for _ in range(3))]
    maps = network.features_at(torch.empty(1, *IMAGE, device="meta"), range(19))
    assert [m.shape[-1] for m in maps] == network.sides()


def test_widths_and_groups_are_those_of_table_8():
    blocks = [convolutions(block.module) for block in on_meta("presnet50_table8").blocks[1:]]
    assert blocks[0] == [(32, 56, 3, 1), (56, 56, 3, 1)]
    assert blocks[3] == [(56, 96, 3, 1), (96, 96, 3, 1)]
    assert blocks[6] == [(96, 144, 1, 1), (144, 144, 3, 1), (144, 576, 1, 1)]
    assert blocks[9] == [(576, 256, 1, 2), (256, 256, 3, 2), (256, 1024, 1, 1)]
    assert blocks[10] == blocks[11] == [(1024, 256, 1, 2), (256, 256, 3, 2), (256, 1024, 1, 2)]
    assert blocks[12] == [(1024, 512, 1, 16), (512, 512, 3, 16), (512, 2048, 1, 1)]
    assert blocks[14] == [(2048, 512, 1, 16), (512, 512, 3, 16), (512, 2048, 1, 16)]
    assert blocks[15] == [(2048, 1024, 1, 128), (1024, 1024, 3, 128), (1024, 4096, 1, 1)]
    assert blocks[17] == [(4096, 1024, 1, 128), (1024, 1024, 3, 128), (1024, 4096, 1, 128)]
    head = on_meta("presnet50_table8").head[-1]
    assert (head.in_features, head.out_features) == (4096, 1000)


def test_the_variants_differ_in_two_stages_last_convolutions_and_in_the_width_of_res4():
    ours, table8, narrow = (
        [convolutions(block.module) for block in on_meta(name).blocks[1:]] for name in NAMES
    )
    assert [k for k in range(18) if ours[k] != table8[k]] == [10, 11, 13, 14]
    for k in (10, 11, 13, 14):
        assert ours[k][:2] == table8[k][:2] and ours[k][2][-1] == 1
    assert [k for k in range(18) if ours[k] != narrow[k]] == [6, 7, 8, 9]
    assert narrow[7] == [(512, 128, 1, 1), (128, 128, 3, 1), (128, 512, 1, 1)]


@pytest.mark.parametrize(
    ("name", "weights", "multiply_adds"),
    [
        ("presnet50", 23_160_816, 4_158_890_496),
        ("presnet50_table8", 20_932_592, 3_808_666_112),
        ("presnet50_res4_128", 22_874_160, 4_013_619_200),
    ],
)
def test_parameters_and_multiply_adds_of_the_encoder(name, weights, multiply_adds):
    assert parameters(on_meta(name).blocks) == weights
    assert sum(counted(name, NORMS)) == multiply_adds


def test_res5_by_hand():
    """The first 1x1 at the input's resolution, all else and the shortcut at the output's."""
    first = 24**2 * 576 * 256 // 2 + 16**2 * (9 * 256**2 // 2 + 256 * 1024 + 576 * 1024)
    others = 2 * 16**2 * (1024 * 256 // 2 + 9 * 256**2 // 2 + 256 * 1024)
    found = counted("presnet50", CONV_AND_LINEAR)
    assert found[3] == first + others and sum(found) == 4_140_576_768


def test_the_flops_of_table_6_come_out():
    """4.16 G, and the shares to 0.03 points; the best with fvcore's 4 for a pixel interpolated."""
    (total,) = printed("presnet50_total")
    wanted = printed("presnet50_flops")
    for operators in (NORMS, (*NORMS, "upsample_bilinear2d")):
        assert round(sum(counted("presnet50", operators)) / 1e9, 2) == total
        assert shares("presnet50", operators) == pytest.approx(wanted, abs=0.03)
    found = counted("presnet50", (*NORMS, "upsample_bilinear2d"))
    assert sum(found) == 4_162_256_896
    rounded = [round(100 * count / sum(found), 2) for count in found]
    assert rounded == [13.48, 14.64, 14.79, 16.63, 20.43, 20.04]


def test_the_flops_of_table_8_to_the_letter_are_others():
    found = [round(share, 2) for share in shares("presnet50_table8", NORMS)]
    assert found == [14.73, 15.99, 16.15, 16.39, 14.87, 21.88]
    assert round(sum(counted("presnet50_table8", NORMS)) / 1e9, 2) == 3.81


def branch_values(network: Network) -> list[float]:
    """What every stage's convolutions of the residual branch give, at its side, as shares in %."""
    network.resolution = 224
    sides = network.sides()
    found = [
        sum(
            sides[k] ** 2 * conv[1]
            for k in stage
            if k > 0
            for conv in convolutions(network.blocks[k].module)
        )
        for stage in network.stages
    ]
    return [round(100 * count / sum(found), 2) for count in found]


def test_the_memory_of_table_6_has_a_width_of_128_in_res4():
    assert branch_values(on_meta("presnet50_res4_128")) == printed("presnet50_memory")
    wanted = [15.10, 10.70, 21.39, 16.90, 19.01, 16.90]
    assert branch_values(on_meta("presnet50")) == wanted


# --- blocks ----------------------------------------------------------------------------------


def test_maps_are_resized_by_the_ratio_of_two_sides_rounded_up():
    features = torch.rand(1, 2, 56, 45)
    small = resized(features, Fraction(56, 36))
    assert small.shape == (1, 2, 36, 29)  # 28.9
    expected = F.interpolate(features, (36, 29), mode="bilinear", align_corners=False)
    assert torch.equal(small, expected)
    assert resized(features, 1) is features
    assert resized(torch.rand(1, 2, 1, 1), Fraction(56, 36)).shape == (1, 2, 1, 1)


def test_a_basic_block_interpolates_its_input():
    block = Basic(4, 8, Fraction(3, 2)).eval()
    torch.nn.init.ones_(block.bn2.weight)
    features = torch.randn(2, 4, 9, 9)
    x = F.interpolate(features, size=6, mode="bilinear")
    branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    assert torch.equal(block(features), F.relu(branch + block.downsample(x)))


def test_a_bottleneck_interpolates_between_its_first_convolution_and_its_second():
    block = Bottleneck(8, 16, Fraction(3, 2), groups=2, dense=False).eval()
    torch.nn.init.ones_(block.bn3.weight)
    features = torch.randn(2, 8, 9, 9)
    x = F.relu(block.bn1(block.conv1(features)))
    x = F.relu(block.bn2(block.conv2(F.interpolate(x, size=6, mode="bilinear"))))
    small = F.interpolate(features, size=6, mode="bilinear")
    expected = F.relu(block.bn3(block.conv3(x)) + block.downsample(small))
    assert torch.equal(block(features), expected)


def test_groups_are_as_many_as_divide_the_widths():
    last = [block.module for block in on_meta("presnet50", width=0.25).blocks[-3:]]
    assert [conv[-1] for conv in convolutions(last[-1])] == [128, 128, 128]  # of 256 channels
    last = [block.module for block in on_meta("presnet50", width=0.3).blocks[-3:]]
    assert [conv[-1] for conv in convolutions(last[-1])] == [16, 16, 16]  # of 304 channels


def test_like_makes_a_block_of_the_stages_own_groups():
    """As in the paper, the last convolution of a block that changes the shape has none."""
    network = on_meta("presnet50")
    with meta_device():
        for index in (16, 18):
            halving, kept = (network.blocks[index].like(4096, 4096, s).module for s in (2, 1))
            assert [conv[-1] for conv in convolutions(halving)] == [128, 128, 1]
            assert [conv[-1] for conv in convolutions(kept)] == [128, 128, 128]
            assert halving.downsample is not None and kept.downsample is None
        with pytest.raises(ValueError, match="not 13"):
            network.blocks[-1].like(8, 13, 1)


# --- rules -----------------------------------------------------------------------------------


def test_auxiliary_networks_halve_where_the_network_has_shrunk_by_a_half():
    network = on_meta("presnet50")  # by 14/9 at block 4, 3/2 at 7 and 10, 4/3 at 13, 3/2 at 16
    assert carried_strides(network, 0, [3, 4, 7, 10, 13, 16]) == [1, 1, 2, 1, 2, 1]
    assert carried_strides(network, 0, [18, 18, 18]) == [2, 2, 1]
