"""Images decoded as they are read: crops of the whole image, as torchvision's from the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as vision
from image_sets import make_folder, pack, pixels, save, seeded
from PIL import Image
from torchvision.transforms import InterpolationMode

from locbench.data import load_data, sizes
from locbench.data.augmentation import ResizedCropAugmentation, Share, SimCLRAugmentation
from locbench.data.crop import CropAugmentation, normalise
from locbench.data.fingerprint import fingerprint
from locbench.data.resample import crop_boxes, draw_numbers
from locbench.data.views import plain_views, read
from locbench.errors import UserError
from locbench.recipes.schema import Augmentation, Crop, ResizedCrop

pytestmark = pytest.mark.usefixtures("own_cache")
SIDE = 24
AUG = ResizedCrop(flip=0.5)


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets are too large for the cache."""
    monkeypatch.setattr(sizes, "FEW_BYTES", 0)
    monkeypatch.setattr(sizes, "CACHED_BYTES", 100)


def oblong_folder(root: Path) -> Path:
    """Smooth JPEGs of sizes of their own."""
    for split in ("train", "val"):
        for number, (width, height) in enumerate([(90, 60), (50, 80), (120, 40), (64, 64)]):
            small = Image.fromarray(pixels(number, 6, 5)).resize((width, height))
            save(root / split / "a" / f"{number}.jpg", small)
    return root


def started(split, indices, augment, seed=1, share=None):
    share = share or Share(0, len(indices), len(indices))
    return split.start(indices, lambda: augment.cut(seeded(seed), share))


@pytest.mark.parametrize(
    "augment",
    [
        ResizedCropAugmentation(AUG, SIDE),
        ResizedCropAugmentation(ResizedCrop(interpolation="bicubic"), SIDE),
        SimCLRAugmentation(Augmentation(jitter=0, grayscale=0, blur=0), SIDE),
    ],
)
def test_a_training_crop_is_torchvisions_of_the_file(tmp_path, no_room, augment):
    train = load_data("folder", 8, oblong_folder(tmp_path)).train
    indices = torch.tensor([2, 0, 1, 3, 0, 2])
    views = started(train, indices, augment)()
    draws = draw_numbers(len(views), augment.aug, seeded(1))
    assert len(views) == augment.VIEWS * len(indices) and 0 < draws.flip.sum() < len(views)
    for k, view in enumerate(views):
        row = int(indices[k % len(indices)])
        picture = Image.open(tmp_path / "train" / "a" / f"{row}.jpg")
        crops = crop_boxes(draws[k : k + 1], picture.height, picture.width, augment.aug.aspect)
        box = [int(edge) for edge in (crops.top, crops.left, crops.height, crops.width)]
        mode = InterpolationMode(augment.aug.interpolation)
        expected = vision.resized_crop(picture, *box, [SIDE, SIDE], mode, antialias=True)
        expected = vision.horizontal_flip(expected) if draws.flip[k] else expected
        assert np.array_equal(view.permute(1, 2, 0).numpy(), np.asarray(expected))
    plain = normalise(views.float() / 255, AUG)
    torch.testing.assert_close(augment.views(views, seeded(1), cut=True), plain)
    assert torch.equal(augment.pixels(views, seeded(1), cut=True), views.float() / 255)


def test_colours_are_of_the_same_draws_as_those_of_images_in_memory(tmp_path, no_room):
    """Of squares of the view's side that are taken whole: both ways crop nothing."""
    train = load_data("folder", 8, make_folder(tmp_path, width=SIDE, height=SIDE)).train
    augment = SimCLRAugmentation(Augmentation(area=(1, 1), aspect=(1, 1)), SIDE)
    indices = torch.tensor([4, 0, 5])
    pictures = [pixels(seed, SIDE, SIDE) for seed in (11, 0, 12)]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    views = augment.views(started(train, indices, augment)(), seeded(1), cut=True)
    torch.testing.assert_close(views, augment.views(images, seeded(1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("augment", [SimCLRAugmentation(Augmentation(), SIDE),
                                     CropAugmentation(Crop(), SIDE)])  # fmt: skip
def test_shares_make_up_a_batch(tmp_path, no_room, augment):
    train = load_data("folder", 8, oblong_folder(tmp_path)).train
    indices = torch.tensor([0, 1, 2, 3, 1])
    whole = started(train, indices, augment)()
    assert whole.shape[2:] == (SIDE, SIDE)
    whole = augment.views(whole, seeded(1), cut=True).unflatten(0, (-1, 5))
    for start, stop in ((0, 2), (2, 5)):
        share = Share(start, stop, 5)
        part = started(train, indices[start:stop], augment, share=share)()
        views = augment.views(part, seeded(1), share, cut=True)
        torch.testing.assert_close(views, whole[:, start:stop].flatten(0, 1))


def test_a_test_image_is_torchvisions_resize_and_centre_crop(tmp_path, no_room):
    test = load_data("folder", 8, oblong_folder(tmp_path)).test
    settings = {"resolution": 28, "augmentation": AUG, "device": torch.device("cpu")}
    [(views, targets)] = plain_views(test, [torch.arange(4)], **settings)
    assert targets.tolist() == [0] * 4
    for number, view in enumerate(views):
        picture = Image.open(tmp_path / "val" / "a" / f"{number}.jpg")
        resized = vision.resize(picture, [32], InterpolationMode.BILINEAR, antialias=True)
        pixels = vision.to_dtype(vision.to_image(vision.center_crop(resized, [28, 28])), scale=True)
        torch.testing.assert_close(view, vision.normalize(pixels, AUG.mean, AUG.std))


def test_squares_that_were_cropped_before_are_tested_whole(tmp_path, no_room):
    data = load_data("folder", 8, make_folder(tmp_path))
    settings = {"resolution": 12, "augmentation": AUG, "device": torch.device("cpu")}
    [(views, _)] = plain_views(data.test, [torch.tensor([3])], **settings)
    whole = torch.from_numpy(pixels(111)).permute(2, 0, 1)[None]
    torch.testing.assert_close(views, normalise(whole / 255, AUG))


def test_a_folder_and_an_archive_are_read_alike_and_known_by_a_version(
    tmp_path, no_room, own_cache
):
    root = make_folder(tmp_path / "set")
    augment = CropAugmentation(Crop(padding=0, flip=0), 12)
    for place in (root, pack(root, tmp_path / "packed")):
        data = load_data("folder", 8, place)
        assert data.version == fingerprint("folder", 8, place)["version"] == 2
        parts = [torch.tensor([4, 0]), torch.tensor([1, 1, 5])]
        batches = read(data.train, parts, lambda k: augment.cut(seeded(), Share(0, 2, 2)))
        images = [batch for batch, _ in batches]
        shown = torch.cat(images).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(shown, np.stack([pixels(seed) for seed in (11, 0, 1, 1, 12)]))
    assert not (own_cache / "data").exists()
    with pytest.raises(UserError, match=r"train\.tar\.gz: too large .*unpack it"):
        load_data("folder", 8, pack(root, tmp_path / "gz", suffix=".tar.gz"))


def test_a_damaged_image_is_named(tmp_path, no_room):
    root = make_folder(tmp_path / "set", train=80)
    broken = root / "train" / "b" / "7.png"  # none of the images that are sampled for their size
    broken.write_bytes(broken.read_bytes()[:60])
    train = load_data("folder", 8, root).train
    augment = ResizedCropAugmentation(AUG, SIDE)
    with pytest.raises(UserError, match=r"train/b/7\.png does not decode"):
        started(train, torch.tensor([0, train.files.names.index("b/7.png")]), augment)()
    assert len(started(train, torch.tensor([0, 1]), augment)()) == 2
