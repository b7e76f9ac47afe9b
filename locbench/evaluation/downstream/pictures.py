"""Draws a detector's results beside the ground truth, as in LoCo's Figure 4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmengine.dataset import pseudo_collate
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from locbench.errors import RunFailed

SURE = 0.3  # the score from which a detection is drawn, as mmdet does
SIDE = 320  # images that are smaller are enlarged to this, or the names do not fit
GAP = 8


def draw(
    model: BaseDetector, dataset: Any, classes: Sequence[str], folder: Path, count: int
) -> None:
    """PNG files of the first `count` images: the ground truth on the left, detections beside it."""
    folder.mkdir(exist_ok=True)
    model.eval()
    for index in range(min(count, len(dataset))):
        item = dataset[index]
        with torch.no_grad():
            detected = model.test_step(pseudo_collate([item]))[0].pred_instances
        truth, sure = item["data_samples"].gt_instances, detected.scores >= SURE
        path = Path(item["data_samples"].img_path)
        image = torch.from_numpy(read(path)).permute(2, 0, 1)
        # mmdet's test pipeline leaves the ground truth in the file's pixels, as detections are.
        boxes = torch.as_tensor(getattr(truth.bboxes, "tensor", truth.bboxes))
        masks = torch.from_numpy(truth.masks.to_ndarray())
        left = annotated(image, boxes, truth.labels, masks, classes)
        boxes, labels, masks = (
            x[sure].cpu() for x in (detected.bboxes, detected.labels, detected.masks)
        )
        right = annotated(image, boxes, labels, masks, classes)
        gap = torch.full((3, left.shape[1], GAP), 255, dtype=torch.uint8)
        whole = torch.cat((left, gap, right), dim=2)
        try:
            Image.fromarray(whole.permute(1, 2, 0).numpy()).save(folder / f"{path.stem}.png")
        except OSError as error:
            raise RunFailed(
                f"cannot save pictures in {folder} ({error}); make room there"
            ) from error


def read(path: Path) -> np.ndarray:
    """uint8 [H, W, 3], turned as the file says it was taken: mmcv reads it so."""
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def annotated(
    image: Tensor, boxes: Tensor, labels: Tensor, masks: Tensor, classes: Sequence[str]
) -> Tensor:
    """uint8 [3, H, W] with masks, boxes and names, a colour for every class."""
    times = max(1, -(-SIDE // max(image.shape[1:])))
    image = image.repeat_interleave(times, 1).repeat_interleave(times, 2)
    if not len(labels):
        return image
    colors = [color(int(label)) for label in labels]
    masks = masks.bool().repeat_interleave(times, 1).repeat_interleave(times, 2)
    image = draw_segmentation_masks(image, masks, alpha=0.4, colors=colors)
    names = [classes[int(label)] for label in labels]
    return draw_bounding_boxes(
        image, boxes * times, names, colors=colors, width=2, label_colors="black",
        label_background_colors=colors, fill_labels=True,
    )  # fmt: skip


def color(label: int) -> tuple[int, int, int]:
    """The label's own colour; neighbours are far apart on the wheel."""
    turn = 2 * np.pi * (0.618034 * label + np.array([0, 1 / 3, 2 / 3]))
    red, green, blue = (128 + 120 * np.cos(turn)).astype(int)
    return int(red), int(green), int(blue)
