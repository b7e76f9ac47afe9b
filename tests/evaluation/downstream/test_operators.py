"""NMS and RoIAlign as mmcv offers them, against a plain loop and torchvision, in float64."""

import itertools
import sys
import types

import pytest
import torch
import torchvision
from torch import Tensor

from locbench.errors import UserError
from locbench.evaluation.downstream import operators

operators.install()

from mmcv.ops import RoIAlign, batched_nms, nms, roi_align, soft_nms  # noqa: E402


def boxes_of(count: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    corner = 40 * torch.rand(count, 2, generator=draw, dtype=torch.float64)
    size = 4 + 20 * torch.rand(count, 2, generator=draw, dtype=torch.float64)
    scores = torch.rand(count, generator=draw, dtype=torch.float64)
    return torch.cat((corner, corner + size), dim=1), scores


def plain_nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> list[int]:
    """The boxes that no better one overlaps by more than the threshold."""

    def overlap(a: Tensor, b: Tensor) -> float:
        low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
        shared = (high - low + offset).clamp(min=0).prod()
        areas = [(x[2:] - x[:2] + offset).prod() for x in (a, b)]
        return float(shared / (areas[0] + areas[1] - shared))

    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize(("threshold", "offset"), list(itertools.product((0.3, 0.5, 0.7), (0, 1))))
def test_nms(threshold: float, offset: int) -> None:
    for seed in range(2):
        boxes, scores = boxes_of(50, seed)
        found, kept = nms(boxes, scores, threshold, offset=offset)
        wanted = plain_nms(boxes, scores, threshold, offset)
        assert kept.tolist() == wanted and len(wanted) < 50
        assert torch.equal(found, torch.cat((boxes, scores[:, None]), dim=1)[kept])


def test_batched_nms_keeps_classes_apart() -> None:
    boxes, scores = boxes_of(60, 1)
    classes = torch.arange(60) % 3
    _, kept = batched_nms(boxes, scores, classes, {"type": "nms", "iou_threshold": 0.5})
    wanted = []
    for name in range(3):
        own = (classes == name).nonzero()[:, 0]
        wanted += own[plain_nms(boxes[own], scores[own], 0.5, 0)].tolist()
    assert sorted(kept.tolist()) == sorted(wanted)
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)


@pytest.mark.parametrize(("aligned", "ratio"), list(itertools.product((True, False), (0, 2))))
def test_roi_align_and_its_gradient(aligned: bool, ratio: int) -> None:
    draw = torch.Generator().manual_seed(3)
    features = torch.randn(2, 3, 9, 11, generator=draw, dtype=torch.float64, requires_grad=True)
    boxes, _ = boxes_of(6, 4)
    rois = torch.cat((torch.arange(6)[:, None] % 2, boxes), dim=1)
    rois[0, 1:] = torch.tensor([-6.0, -6.0, 5.0, 4.0])  # partly outside
    ours = roi_align(features, rois, (4, 4), 0.25, ratio, "avg", aligned)
    wanted = torchvision.ops.roi_align(features, rois, 4, 0.25, ratio or -1, aligned)
    assert torch.equal(ours, wanted)
    weights = torch.randn(ours.shape, generator=draw, dtype=torch.float64)
    gradients = [torch.autograd.grad((x * weights).sum(), features)[0] for x in (ours, wanted)]
    assert gradients[1].abs().max() > 0.1
    torch.testing.assert_close(*gradients)


def test_what_torchvision_lacks_says_what_to_install() -> None:
    boxes, scores = boxes_of(4, 0)
    with pytest.raises(UserError, match="softnms is not part of torchvision: install a compiled"):
        soft_nms(boxes.float(), scores.float())
    with pytest.raises(UserError, match="RoIAlign by the maximum"):
        RoIAlign(2, pool_mode="max")(torch.zeros(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 3, 3]]))


def test_a_compiled_mmcv_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = types.ModuleType(operators.NAME)
    monkeypatch.setitem(sys.modules, operators.NAME, real)
    operators.install()
    assert operators.compiled() and sys.modules[operators.NAME] is real
    monkeypatch.delitem(sys.modules, operators.NAME)
    operators.install()
    assert not operators.compiled() and isinstance(sys.modules[operators.NAME], operators.StandIn)
