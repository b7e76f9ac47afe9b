"""Image folders and archives: layouts, pixels, cache, streaming, and every line of complaint."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from image_sets import checksum, complaint, make_folder, pack, pixels, save
from PIL import Image

from locbench.data import cache, folders, load_data, sizes
from locbench.data.fingerprint import fingerprint

pytestmark = pytest.mark.usefixtures("own_cache")


def test_folder(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set")
    data = load_data("folder", 8, root)
    assert fingerprint("folder", 8, root) == {
        "name": "folder", "version": 1, "checksum": data.checksum,
        "classes": 2, "train": 6, "test": 4,
    }  # fmt: skip
    assert (data.name, data.version, data.classes) == ("folder", 1, ("a", "b"))
    assert data.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.targets.dtype == torch.int64
    batch = data.train.batch(torch.tensor([4, 0]))
    assert batch.dtype == torch.uint8 and batch.shape == (2, 3, 12, 12)
    assert np.array_equal(batch[0].permute(1, 2, 0).numpy(), pixels(11))
    assert np.array_equal(batch[1].permute(1, 2, 0).numpy(), pixels(0))
    assert np.array_equal(data.test.images[3].transpose(1, 2, 0), pixels(111))
    assert torch.equal(data.train.to("cpu").batch(torch.tensor([4, 0])), batch)
    batch.zero_()  # it is the caller's own
    assert data.train.images[0].any()
    with pytest.raises(ValueError, match="read-only"):
        data.train.images[0] = 0


@pytest.mark.parametrize(
    ("suffix", "test_split", "prefix"),
    [("", "test", True), (".tar", "val", True), (".tar.gz", "test", False), (".tgz", "val", True)],
)
def test_every_layout_is_the_same_data(
    tmp_path: Path, own_cache: Path, suffix: str, test_split: str, prefix: bool
) -> None:
    root = make_folder(tmp_path / "set")
    plain = load_data("folder", 8, root)
    (root / "val").rename(root / test_split)
    packed = pack(root, tmp_path / "packed", suffix=suffix, prefix=prefix) if suffix else root
    assert checksum(packed) == plain.checksum
    shutil.rmtree(own_cache / "data")  # the first layout's entry would serve the other too
    data = load_data("folder", 8, packed)
    assert data.checksum == plain.checksum and data.classes == plain.classes
    for one, other in ((data.train, plain.train), (data.test, plain.test)):
        assert np.array_equal(one.images, other.images) and torch.equal(one.targets, other.targets)


def test_val_is_taken_where_test_is_there_too(tmp_path: Path) -> None:
    """As in ImageNet, whose `test` has no labels; and in whatever form the two are."""
    root = make_folder(tmp_path / "set")
    expected = checksum(root)
    packed = pack(root, tmp_path / "packed")
    shutil.copytree(root / "train", packed / "test")
    assert checksum(packed) == expected


def test_named_folder_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "data" / "imagenette")
    make_folder(tmp_path / "data" / "imagenet", train=1)
    monkeypatch.chdir(tmp_path)
    assert fingerprint("imagenette", 8)["train"] == 6
    monkeypatch.chdir("/")
    monkeypatch.setenv("LOCBENCH_DATA", str(tmp_path / "data"))
    assert len(load_data("imagenet", 8).train) == 2
    assert fingerprint("imagenette", 8, tmp_path / "data" / "imagenet")["train"] == 2


def test_modes_become_rgb(tmp_path: Path) -> None:
    root, colour = make_folder(tmp_path / "set", classes="a"), Image.fromarray(pixels(5))
    variants = {
        "alpha.png": colour.convert("RGBA"),
        "grey.png": colour.convert("L"),
        "palette.png": colour.convert("P", palette=Image.Palette.ADAPTIVE),
        "print.jpg": colour.convert("CMYK"),
    }
    for name, image in variants.items():
        save(root / "train" / "a" / name, image)
    images = load_data("folder", 8, root).train.images[3:].transpose(0, 2, 3, 1)
    alpha, grey, palette, cmyk = images
    assert np.array_equal(alpha, pixels(5))
    assert np.array_equal(grey, np.asarray(variants["grey.png"])[..., None].repeat(3, 2))
    for near in (palette, cmyk):  # near the colours, and not inverted
        assert np.corrcoef(near.ravel(), pixels(5).ravel())[0, 1] > 0.5


def test_the_centre_square_at_the_median_short_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "set", width=20, height=10)
    wide = np.zeros((10, 20, 3), np.uint8)
    wide[:, 5:15] = 255  # the centre square is white
    save(root / "train" / "a" / "wide.png", wide)
    save(root / "train" / "a" / "x-large.png", np.repeat(np.repeat(wide, 3, 0), 3, 1))
    images = load_data("folder", 8, root).train.images
    assert images.shape == (8, 3, 10, 10) and (images[3] == 255).all()
    assert (images[4][:, :, 1:-1] == 255).all()  # its edge mixes with what lies beyond
    monkeypatch.setattr(sizes, "LARGEST_SIDE", 6)
    for module in (folders, sizes):
        monkeypatch.setattr(module, "DECODING", 2)
    assert load_data("folder", 8, root).train.images.shape == (8, 3, 6, 6)


def test_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "data root data is not a folder: give --data-root or LOCBENCH_DATA" in complaint(None)
    message = complaint(tmp_path, "imagenette")
    assert str(tmp_path / "imagenette") in message and "train/CLASS" in message
    root = make_folder(tmp_path / "set")
    shutil.rmtree(root / "val")
    assert f"{root} has no val folder and no val.tar" in complaint(root)
    (root / "train").rename(root / "val")
    assert f"{root} has no train folder and no train.tar" in complaint(root)


def test_classes_without_images_or_counterpart(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", classes="abc")
    shutil.rmtree(root / "val" / "c")
    (root / "train" / "a").rename(root / "train" / "z")
    (root / "val").rename(root / "test")
    words = "train and test have different classes (only in train: c, z (2); only in test: a (1))"
    assert f"{root}: {words}" in complaint(root)
    for image in (root / "train" / "c").iterdir():
        image.rename(image.with_suffix(".txt"))
    assert f"{root / 'train'}: class folder c has no image" in complaint(root)
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    assert f"{root / 'train'} has no class folder with images" in complaint(root)


def test_damaged_image(tmp_path: Path, own_cache: Path) -> None:
    root = make_folder(tmp_path / "set")
    broken = root / "val" / "b" / "1.png"
    whole = broken.read_bytes()
    for content in (b"", b"text", whole[:80]):
        broken.write_bytes(content)
        assert f"{broken} does not decode" in complaint(root)
        packed = pack(root, tmp_path / "packed")
        assert f"{packed / 'val.tar'}: b/1.png does not decode" in complaint(packed)
    assert not list((own_cache / "data").glob("images-*[0-9]"))
    broken.write_bytes(whole)
    assert len(load_data("folder", 8, root).test) == 4


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_truncated_archive(tmp_path: Path, suffix: str) -> None:
    packed = pack(make_folder(tmp_path / "set", train=20), tmp_path / "packed", suffix=suffix)
    path = packed / f"train{suffix}"
    whole = path.read_bytes()
    lengths = [len(whole) - 4, len(whole) // 2, 1]
    if suffix == ".tar":
        with tarfile.open(path) as archive:
            first, *_, last = archive.getmembers()[3:]
        # On a member's boundary, in a header, and before the end: tarfile itself sees no fault.
        end = last.offset_data + -(-last.size // 512) * 512
        lengths = [first.offset, first.offset + 100, end, len(whole) // 2, 1]
    for length in lengths:
        path.write_bytes(whole[:length])
        message = complaint(packed)
        assert f"{path} is truncated" in message and "copy it again" in message
    path.write_bytes(b"no archive at all")
    assert f"{path} is truncated or no tar archive" in complaint(packed)
    path.write_bytes(whole)
    assert len(load_data("folder", 8, packed).train) == 40


def test_the_same_images_under_other_class_names(tmp_path: Path) -> None:
    one = load_data("folder", 8, make_folder(tmp_path / "one", classes="ab"))
    other = load_data("folder", 8, make_folder(tmp_path / "other", classes="cd"))
    assert one.checksum == other.checksum
    assert other.train.images.filename == one.train.images.filename
    assert other.classes == ("c", "d")


def test_a_broken_entry_is_made_again(
    tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture
) -> None:
    root = make_folder(tmp_path / "set")
    expected = np.array(load_data("folder", 8, root).train.images)
    (entry,) = (p for p in (own_cache / "data").iterdir() if p.is_dir())
    images, description = entry / "train_images.npy", entry / cache.ENTRY
    for path, content in (
        (images, images.read_bytes()[:-1]),
        (images, None),
        (description, b"{"),
        (description, description.read_bytes().replace(b'"decoding": 1', b'"decoding": 0')),
    ):
        capsys.readouterr()
        path.unlink() if content is None else path.write_bytes(content)
        assert np.array_equal(load_data("folder", 8, root).train.images, expected)
        error = capsys.readouterr().err
        assert str(entry) in error and "made again" in error and error.count("\n") == 1
    load_data("folder", 8, root)
    assert capsys.readouterr().err == ""


KILLED = """
import os, sys
from pathlib import Path
from locbench.data import load_data
def progress(what, done, total):
    if what == "decoding train" and done == 3:
        os._exit(9)
load_data("folder", 8, Path(sys.argv[1]), progress)
"""


def test_killed_while_decoding(tmp_path: Path, own_cache: Path) -> None:
    root = make_folder(tmp_path / "set")
    assert subprocess.run([sys.executable, "-c", KILLED, str(root)]).returncode == 9
    assert [p.suffix for p in (own_cache / "data").iterdir() if p.is_dir()] == [".part"]
    data = load_data("folder", 8, root)
    assert np.array_equal(data.train.images[0].transpose(1, 2, 0), pixels(0))
    assert not list((own_cache / "data").glob("*.part"))


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage._replace(free=100))
    message = complaint(make_folder(tmp_path / "set"))
    assert "GB free" in message and "LOCBENCH_CACHE" in message
