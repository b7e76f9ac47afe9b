"""A stand-in for `mmcv._ext`, mmcv's compiled operators, where they are not installed.

mmdet's Mask R-CNN needs only non-maximum suppression and RoIAlign of them, and torchvision has
both, compiled, for CPU and GPU. mmcv-lite brings mmcv's Python side, which binds its operators by
name to the module `mmcv._ext`; `install` puts this one there when, and only when, there is none.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any, NoReturn

import torch
import torchvision
from torch import Tensor

from locbench.errors import UserError

NAME = "mmcv._ext"


def compiled() -> bool:
    """Whether mmcv's own compiled operators are here (mmcv itself must be installed)."""
    if (module := sys.modules.get(NAME)) is not None:
        return not isinstance(module, StandIn)
    return importlib.util.find_spec(NAME) is not None


def install() -> None:
    """Make torchvision's operators answer for mmcv's, unless mmcv has its own.

    Import errors of mmcv itself are left as they are.
    """
    if not compiled():
        sys.modules[NAME] = StandIn()


class StandIn(types.ModuleType):
    """A module with mmcv's operators by name; an operator that it lacks raises when called."""

    def __init__(self) -> None:
        super().__init__(NAME, __doc__)
        # Without a loader: mmengine takes that to mean that the compiled operators are not here.
        self.__spec__ = ModuleSpec(NAME, None)
        self.nms = nms
        self.roi_align_forward = roi_align_forward
        self.roi_align_backward = roi_align_backward

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> NoReturn:
            raise UserError(
                f"mmcv's operator {name} is not part of torchvision: install a compiled mmcv "
                "2.1.0 in place of mmcv-lite"
            )

        return missing


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Non-maximum suppression: the indices of the boxes that are kept, by falling score.

    boxes: [N, 4] corners in pixels; scores: [N]. With `offset` 1 a box ends after its last pixel,
    which is the same as moving its far corner by one.
    """
    if offset:
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    return torchvision.ops.nms(boxes, scores, iou_threshold)


AVERAGE = 1  # mmcv's pool_mode; 0 is the maximum


def roi_align_forward(
    features: Tensor, rois: Tensor, output: Tensor, *_argmax: Tensor, **settings: Any
) -> None:
    """RoIAlign by averages, into `output` [K, C, aligned_height, aligned_width].

    features: [N, C, H, W]; rois: [K, 5], the image's index and its corners. UserError
    for the maximum, which torchvision does not have.
    """
    size, scale, ratio, aligned = _by_averages(**settings)
    output.copy_(torchvision.ops.roi_align(features, rois, size, scale, ratio, aligned))


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, _y: Tensor, _x: Tensor, grad_input: Tensor, **settings: Any
) -> None:
    """The gradient of `roi_align_forward` by its features, added to `grad_input`."""
    size, scale, ratio, aligned = _by_averages(**settings)
    grad_input += torch.ops.torchvision._roi_align_backward(
        grad_output, rois, scale, *size, *grad_input.shape, ratio, aligned
    )


def _by_averages(
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> tuple[tuple[int, int], float, int, bool]:
    """mmcv's settings of RoIAlign as torchvision's: size, scale, sampling ratio, aligned."""
    if pool_mode != AVERAGE:
        raise UserError(
            "RoIAlign by the maximum is not part of torchvision: install a compiled mmcv 2.1.0 in "
            "place of mmcv-lite"
        )
    return (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned
