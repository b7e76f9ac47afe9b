"""Estimates the size of a detector from its settings, without building it or importing mmdet."""

from __future__ import annotations

from locbench.recipes.schema import Detection

LEVELS, ANCHORS = 4, 3  # maps that the pyramid reads; anchors at every position of each
BOX_SIDE = 7  # of the map that the box head reads


def added_parameters(detection: Detection, classes: int) -> int:
    """About how many weights Mask R-CNN has beside its encoder, in pyramid and heads.

    Without biases, norms, and the pyramid's 1x1 layers, which hang on the encoder's widths: 5 % of
    these at full size, a tenth at smoke; 2 % of the whole detector with ResNet-50.
    """
    square, fc = detection.channels**2, detection.fc
    convolution = 9 * square
    proposals = convolution + 5 * ANCHORS * detection.channels
    box = BOX_SIDE**2 * detection.channels * fc + (5 * classes + 1) * fc
    box += {"4conv1fc": 4 * convolution, "2fc": fc**2}[detection.box_head]
    mask = 4 * convolution + 4 * square + classes * detection.channels
    return LEVELS * convolution + proposals + box + mask
