"""Cityscapes' ground truth in COCO's format: eight categories with instances, masks as RLE.

mmdet's own converter needs a package of Cityscapes' scripts, which is not among our dependencies.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from locbench.errors import UserError
from locbench.evaluation.downstream import categories
from locbench.evaluation.downstream.extra import check_detection_extra
from locbench.evaluation.downstream.sets import CITYSCAPES
from locbench.paths import write_atomic

# The label ids of Cityscapes that have instances and count in its evaluation.
CATEGORIES = dict(zip((24, 25, 26, 27, 28, 31, 32, 33), categories.CITYSCAPES, strict=True))
OF_INSTANCES = 1000  # ids from here on are label * 1000 + number; below, a group of a label
SPLITS = ("train", "val")
ENDING, IMAGE_ENDING = "_gtFine_instanceIds.png", "_leftImg8bit.png"


def convert(folder: Path, tell: Callable[[str, int, int], None] | None = None) -> list[Path]:
    """Write both annotation files; `folder` has gtFine/ and leftImg8bit/. UserError if it has not.

    Also where the detection extra is missing, or the files cannot be written. Groups (crowds) keep
    their label and are marked iscrowd.
    """
    check_detection_extra()
    written = []
    for split, (images, file) in zip(SPLITS, CITYSCAPES.layouts[0], strict=True):
        paths = sorted((folder / "gtFine" / split).glob(f"*/*{ENDING}"))
        if not paths:
            raise UserError(
                f"{folder / 'gtFine' / split} has no CITY/*{ENDING}: give the folder of Cityscapes "
                "with gtFine/ and leftImg8bit/ in it"
            )
        content: dict[str, list[Any]] = {"images": [], "annotations": []}
        content["categories"] = [{"id": id, "name": name} for id, name in CATEGORIES.items()]
        for number, path in enumerate(paths, start=1):
            _add(path, folder / images, content)
            if tell is not None:
                tell(f"converting {split}", number, len(paths))
        try:
            write_atomic(folder / file, json.dumps(content))
        except OSError as error:
            raise UserError(
                f"{folder / file} cannot be written ({error.strerror}): make room there, or "
                "link gtFine/ and leftImg8bit/ into a folder that can be written to"
            ) from error
        written.append(folder / file)
    return written


def _add(path: Path, images: Path, content: dict[str, list[Any]]) -> None:
    """An image and its instances."""
    from pycocotools import mask as masks

    name = f"{path.parent.name}/{path.name.removesuffix(ENDING)}{IMAGE_ENDING}"
    if not (images / name).is_file():
        raise UserError(f"{images / name} is missing, of which {path} is the ground truth")
    try:
        with Image.open(path) as image:
            ids = np.array(image)
    except (OSError, SyntaxError, ValueError) as error:  # whatever the decoder raises
        raise UserError(f"{path} cannot be read as an image: download it again") from error
    if ids.ndim != 2:
        raise UserError(f"{path} is no map of ids but an image in colour: download it again")
    number = len(content["images"]) + 1
    height, width = ids.shape
    content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
    for instance in np.unique(ids).tolist():
        group = instance < OF_INSTANCES
        label = instance if group else instance // OF_INSTANCES
        if label not in CATEGORIES:
            continue
        code = masks.encode(np.asfortranarray(ids == instance, dtype=np.uint8))
        content["annotations"].append(
            {
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": label,
                "iscrowd": int(group),
                "area": int(masks.area(code)),
                "bbox": masks.toBbox(code).tolist(),
                "segmentation": {**code, "counts": code["counts"].decode()},
            }
        )
