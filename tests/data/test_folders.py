"""Image folders and archives: layouts, checksums, cache, streaming, and every line of complaint."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from locbench.data import cache, folders, listing, load_data
from locbench.data.fingerprint import fingerprint
from locbench.data.images import decode
from locbench.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOCBENCH_DATA", raising=False)
    return tmp_path / "cache"


def pixels(seed: int, width: int = 12, height: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: Image.Image | np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path)


def make(root: Path, train: int = 3, val: int = 2, classes: str = "ab", **size: int) -> Path:
    """A folder of PNGs, so that pixels can be compared exactly."""
    for split, count, base in (("train", train, 0), ("val", val, 100)):
        for place, name in enumerate(classes):
            for i in range(count):
                save(root / split / name / f"{i}.png", pixels(base + 10 * place + i, **size))
    return root


def pack(
    root: Path,
    target: Path,
    suffix: str = ".tar",
    prefix: bool = True,
    splits: tuple[str, str] = ("train", "val"),
) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for split in splits:
        mode = "w" if suffix == ".tar" else "w:gz"
        with tarfile.open(target / f"{split}{suffix}", mode) as archive:
            # Not in sorted order: the order in the archive must not matter.
            for path in sorted((root / split).rglob("*.*"), reverse=True):
                archive.add(path, path.relative_to(root if prefix else root / split))
    return target


def age(root: Path) -> None:
    """Make a folder look old enough for its time stamps to be trusted."""
    for path in (root, *root.rglob("*")):
        os.utime(path, (1e9, 1e9))


def test_folder(tmp_path: Path) -> None:
    root = make(tmp_path / "set")
    data = load_data("folder", 8, root)
    assert data.name == "folder" and data.version == 1 and not data.streaming
    assert data.classes == ("a", "b")
    assert len(data.train) == 6 and len(data.test) == 4
    assert data.train.targets.dtype == torch.int64
    assert data.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    batch = data.train.batch(torch.tensor([4, 0]))
    assert batch.dtype == torch.uint8 and batch.shape == (2, 3, 12, 12)
    assert np.array_equal(batch[0].permute(1, 2, 0).numpy(), pixels(11))
    assert np.array_equal(batch[1].permute(1, 2, 0).numpy(), pixels(0))
    assert np.array_equal(data.test.images[3].transpose(1, 2, 0), pixels(111))
    moved = data.train.to("cpu")
    assert torch.equal(moved.batch(torch.tensor([4, 0])), batch)


def test_mapped_read_only(tmp_path: Path) -> None:
    data = load_data("folder", 8, make(tmp_path / "set"))
    assert isinstance(data.train.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        data.train.images[0] = 0
    batch = data.train.batch(torch.tensor([0]))
    batch.zero_()  # a batch is the caller's own
    assert data.train.images[0].any()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("prefix", [True, False])
def test_archives_equal_folder(tmp_path: Path, suffix: str, prefix: bool) -> None:
    root = make(tmp_path / "set")
    plain = load_data("folder", 8, root)
    packed = pack(root, tmp_path / "packed", suffix, prefix)
    assert fingerprint("folder", 8, packed) == fingerprint("folder", 8, root)
    shutil.rmtree(tmp_path / "cache" / "data")  # the folder's entry would serve the archive too
    data = load_data("folder", 8, packed)
    assert data.checksum == plain.checksum and data.classes == plain.classes
    assert np.array_equal(data.train.images, plain.train.images)
    assert np.array_equal(data.test.images, plain.test.images)
    assert torch.equal(data.test.targets, plain.test.targets)


def test_named_folder_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "all" / "imagenette")
    make(tmp_path / "all" / "imagenet", train=1)
    monkeypatch.setenv("LOCBENCH_DATA", str(tmp_path / "all"))
    assert fingerprint("imagenette", 8)["train"] == 6
    assert len(load_data("imagenet", 8).train) == 2
    assert fingerprint("imagenette", 8, tmp_path / "all" / "imagenet")["train"] == 2
    monkeypatch.delenv("LOCBENCH_DATA")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all").rename(tmp_path / "data")
    assert fingerprint("imagenette", 8)["train"] == 6


def test_folder_beside_archive(tmp_path: Path) -> None:
    root = make(tmp_path / "set")
    packed = pack(root, tmp_path / "packed")
    shutil.copytree(root / "train", packed / "train")
    (packed / "train.tar").unlink()
    assert fingerprint("folder", 8, packed) == fingerprint("folder", 8, root)


@pytest.mark.parametrize("suffix", ["", ".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("prefix", [True, False])
def test_the_test_split_may_be_called_test(tmp_path: Path, suffix: str, prefix: bool) -> None:
    root = make(tmp_path / "set")
    plain, found = load_data("folder", 8, root), fingerprint("folder", 8, root)
    (root / "val").rename(root / "test")
    place = pack(root, tmp_path / "packed", suffix, prefix, ("train", "test")) if suffix else root
    assert fingerprint("folder", 8, place) == found
    shutil.rmtree(tmp_path / "cache" / "data")
    data = load_data("folder", 8, place)
    assert data.checksum == plain.checksum
    assert np.array_equal(data.test.images, plain.test.images)
    assert torch.equal(data.test.targets, plain.test.targets)


def test_val_is_taken_where_test_is_there_too(tmp_path: Path) -> None:
    """As in ImageNet, whose `test` has no labels; and in whatever form the two are."""
    root = make(tmp_path / "set")
    found = fingerprint("folder", 8, root)
    save(root / "test" / "0.png", pixels(1))
    assert fingerprint("folder", 8, root) == found
    packed = pack(root, tmp_path / "packed")
    shutil.copytree(root / "train", packed / "test")
    assert fingerprint("folder", 8, packed) == found


def test_what_is_wrong_with_a_test_split_is_said_by_its_name(tmp_path: Path) -> None:
    root = make(tmp_path / "set")
    (root / "val").rename(root / "test")
    (root / "test" / "b").rename(root / "test" / "c")
    assert f"{root}: train and test have different classes (only in train: b" in complaint(root)
    shutil.rmtree(root / "train")
    assert f"{root} has no train folder and no train.tar" in complaint(root)
    broken = make(tmp_path / "broken")
    (broken / "val").rename(broken / "test")
    (broken / "test" / "a" / "1.png").write_bytes(b"text")
    assert f"{broken / 'test' / 'a' / '1.png'} does not decode" in complaint(broken)


def test_identity_of_earlier_records(tmp_path: Path, own_cache: Path) -> None:
    """Neither the checksum nor the places in the cache may change: records are found by them."""
    root = make(tmp_path / "set")
    age(root)
    lines = []
    for split in ("train", "val"):
        for path in sorted((root / split).rglob("*.png")):
            lines.append(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n")
    checksum = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert load_data("folder", 8, root).checksum == checksum
    assert (own_cache / "data" / f"images-{checksum[:16]}-d1").is_dir()
    key = hashlib.sha256(f"{root / 'train'}\0{root / 'val'}".encode()).hexdigest()[:16]
    held = json.loads((own_cache / "listings" / f"{key}.json").read_text())
    assert set(held) == {"stamp", "checksum", "classes", "train", "test"}
    assert (own_cache / "listings" / f"{key}.files.json").is_file()


def test_fingerprint(tmp_path: Path) -> None:
    root = make(tmp_path / "set")
    found = fingerprint("folder", 8, root)
    data = load_data("folder", 8, root)
    assert found == {
        "name": "folder",
        "version": data.version,
        "checksum": data.checksum,
        "classes": 2,
        "train": 6,
        "test": 4,
    }
    (root / "train" / "a" / "0.png").rename(root / "train" / "a" / "00.png")
    renamed = fingerprint("folder", 8, root)
    assert renamed["checksum"] != found["checksum"]
    (root / "train" / "a" / "00.png").write_bytes(b"another size")
    assert fingerprint("folder", 8, root)["checksum"] != renamed["checksum"]


def test_fingerprint_needs_no_torch(tmp_path: Path) -> None:
    root = make(tmp_path / "set")
    code = (
        "import sys; from locbench.data.fingerprint import fingerprint; from pathlib import Path;"
        f"fingerprint('shapes', 32); fingerprint('folder', 8, Path({str(root)!r}));"
        "assert 'torch' not in sys.modules and 'PIL' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_listing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "set")
    age(root)
    first = fingerprint("folder", 8, root)
    with monkeypatch.context() as patch:
        patch.setattr(listing, "read_listing", None)  # not to be called again
        assert fingerprint("folder", 8, root) == first
        assert len(load_data("folder", 8, root).train) == 6
    save(root / "train" / "a" / "9.png", pixels(9))
    assert fingerprint("folder", 8, root)["train"] == 7


def test_broken_listing_is_read_afresh(tmp_path: Path, own_cache: Path) -> None:
    root = make(tmp_path / "set")
    age(root)
    first = fingerprint("folder", 8, root)
    (kept,) = (own_cache / "listings").glob("*.files.json")
    held = json.loads(kept.read_text())
    held["train"]["names"].pop()
    held["train"]["sizes"].pop()
    kept.write_text(json.dumps(held))
    assert len(load_data("folder", 8, root).train) == 6
    for path in (own_cache / "listings").iterdir():
        path.write_text("{")
    assert fingerprint("folder", 8, root) == first


def test_modes_become_rgb(tmp_path: Path) -> None:
    root = make(tmp_path / "set", classes="a")
    color = Image.fromarray(pixels(5))
    save(root / "train" / "a" / "grey.png", color.convert("L"))
    save(root / "train" / "a" / "palette.png", color.convert("P", palette=Image.Palette.ADAPTIVE))
    save(root / "train" / "a" / "alpha.png", color.convert("RGBA"))
    save(root / "train" / "a" / "print.jpg", color.convert("CMYK"))
    data = load_data("folder", 8, root)
    names = listing.read_listing(root / "train", root / "val").train.names
    held = {name: data.train.images[i].transpose(1, 2, 0) for i, name in enumerate(names)}
    grey = held["a/grey.png"]
    assert (grey == grey[..., :1]).all()
    assert np.array_equal(grey[..., 0], np.asarray(color.convert("L")))
    assert np.array_equal(held["a/alpha.png"], pixels(5))
    for name in ("a/palette.png", "a/print.jpg"):  # near the colours, and not inverted
        assert np.corrcoef(held[name].ravel(), pixels(5).ravel())[0, 1] > 0.5


def test_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "set", width=20, height=10)
    wide = np.zeros((10, 20, 3), np.uint8)
    wide[:, 5:15] = 255  # the centre square is white
    save(root / "train" / "a" / "wide.png", wide)
    save(root / "train" / "a" / "x-large.png", np.repeat(np.repeat(wide, 3, 0), 3, 1))
    data = load_data("folder", 8, root)
    assert data.train.images.shape == (8, 3, 10, 10)  # the median short side
    assert (data.train.images[3] == 255).all()
    assert (data.train.images[4][:, :, 1:-1] == 255).all()  # its edge mixes with what lies beyond
    monkeypatch.setattr(folders, "LARGEST_SIDE", 6)
    monkeypatch.setattr(folders, "DECODING", 2)
    assert load_data("folder", 8, root).train.images.shape == (8, 3, 6, 6)
    assert load_data("folder", 8, make(tmp_path / "even")).train.images.shape[2:] == (12, 12)


def test_fast_decoding_is_close() -> None:
    ramp = np.linspace(0, 255, 300).astype(np.uint8)
    image = np.stack([np.tile(ramp, (200, 1)), np.tile(ramp[:200, None], (1, 300))] * 2, -1)[
        ..., :3
    ]
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    exact, fast = (decode(file.getvalue(), 40, fast=f).astype(int) for f in (False, True))
    assert exact.shape == fast.shape == (3, 40, 40)
    assert np.abs(exact - fast).max() <= 4
    # The centre square of 300 x 200: columns 50 to 250.
    assert abs(exact[0, 20, 0] - ramp[52]) <= 3 and abs(exact[0, 20, 39] - ramp[247]) <= 3


def test_streaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "set")
    plain = load_data("folder", 8, root)
    shutil.rmtree(tmp_path / "cache" / "data")
    monkeypatch.setattr(folders, "CACHED_BYTES", 100)
    for place in (root, pack(root, tmp_path / "packed")):
        data = load_data("folder", 8, place)
        assert data.streaming and data.checksum == plain.checksum and len(data.train) == 6
        assert torch.equal(data.train.targets, plain.train.targets)
        for indices in (torch.tensor([5, 0, 3]), torch.tensor([1, 1])):
            want = plain.train.batch(indices)
            assert torch.equal(data.train.batch(indices), want)
            data.train.prefetch(indices)
            assert torch.equal(data.train.batch(indices), want)
            data.train.prefetch(torch.tensor([2]))  # something else than what is then asked for
            assert torch.equal(data.train.batch(indices), want)
    assert not (tmp_path / "cache" / "data").exists()
    with pytest.raises(UserError, match=r"train\.tar\.gz: too large .*unpack it"):
        load_data("folder", 8, pack(root, tmp_path / "gz", ".tar.gz"))


def test_streaming_names_the_damaged_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "set", train=80)
    monkeypatch.setattr(folders, "CACHED_BYTES", 100)
    broken = root / "train" / "b" / "7.png"  # none of the images that are sampled for their size
    broken.write_bytes(broken.read_bytes()[:60])
    data = load_data("folder", 8, root)
    names = data.train.files.names
    with pytest.raises(UserError, match=r"train/b/7\.png does not decode"):
        data.train.batch(torch.tensor([0, names.index("b/7.png")]))
    assert data.train.batch(torch.tensor([0, 1])).shape[0] == 2


def complaint(root: Path | None, name: str = "folder") -> str:
    with pytest.raises(UserError) as caught:
        load_data(name, 8, root)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = complaint(None)
    assert "data root data is not a folder" in message
    assert "LOCBENCH_DATA" in message and "train/CLASS" in message
    (tmp_path / "empty").mkdir()
    message = complaint(tmp_path / "empty", "imagenette")
    assert str(tmp_path / "empty" / "imagenette") in message and "train.tar" in message
    root = make(tmp_path / "set")
    shutil.rmtree(root / "val")
    assert f"{root} has no val folder and no val.tar" in complaint(root)
    (root / "train").rename(root / "val")
    assert f"{root} has no train folder and no train.tar" in complaint(root)


def test_empty_class(tmp_path: Path) -> None:
    root = make(tmp_path / "set")
    (root / "train" / "c").mkdir()
    (root / "train" / "c" / "notes.txt").write_text("no image")
    assert f"{root / 'train'}: class folder c has no image" in complaint(root)
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    shutil.rmtree(root / "train" / "c")
    assert f"{root / 'val'} has no class folder with images" in complaint(root)


def test_different_classes(tmp_path: Path) -> None:
    root = make(tmp_path / "set", classes="abc")
    shutil.rmtree(root / "val" / "c")
    (root / "train" / "a").rename(root / "train" / "z")
    message = complaint(root)
    assert "only in train: c, z (2)" in message and "only in val: a (1)" in message


def test_damaged_image(tmp_path: Path) -> None:
    root = make(tmp_path / "set")
    age(root)
    broken = root / "val" / "b" / "1.png"
    whole = broken.read_bytes()
    for content in (b"", b"text", whole[:80], whole[: len(whole) // 2]):
        broken.write_bytes(content)
        assert f"{broken} does not decode" in complaint(root)
        packed = pack(root, tmp_path / "packed")
        assert f"{packed / 'val.tar'}: b/1.png does not decode" in complaint(packed)
    assert not list((tmp_path / "cache" / "data").glob("images-*[0-9]"))
    broken.write_bytes(whole)  # in place: the folder's time stays
    age(root)
    data = load_data("folder", 8, root)
    assert data.checksum == listing.read_listing(root / "train", root / "val").checksum


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_truncated_archive(tmp_path: Path, suffix: str) -> None:
    packed = pack(make(tmp_path / "set", train=20), tmp_path / "packed", suffix)
    path = packed / f"train{suffix}"
    whole = path.read_bytes()
    end = len(whole) - 4
    lengths = []
    if suffix == ".tar":
        with tarfile.open(path) as archive:
            found = archive.getmembers()
        # On a member's boundary, in a header, and before the end: tarfile itself sees no fault.
        end = found[-1].offset_data + -(-found[-1].size // 512) * 512
        lengths = [found[3].offset, found[3].offset + 100]
    for length in (*lengths, *range(end, 0, -end // 12)):
        path.write_bytes(whole[:length])
        message = complaint(packed)
        assert f"{path} is truncated" in message and "copy it again" in message
    path.write_bytes(b"no archive at all")
    assert f"{path} is truncated or no tar archive" in complaint(packed)
    path.write_bytes(whole)
    assert len(load_data("folder", 8, packed).train) == 40


def test_broken_cache_is_made_again(
    tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture
) -> None:
    root = make(tmp_path / "set")
    want = np.array(load_data("folder", 8, root).train.images)
    (entry,) = (p for p in (own_cache / "data").iterdir() if p.is_dir())
    images, description = entry / "train_images.npy", entry / cache.ENTRY
    for path, content in (
        (images, images.read_bytes()[:-1]),
        (images, b""),
        (images, None),
        (description, "{"),
        (description, "[]"),
        (description, description.read_text().replace('"decoding": 1', '"decoding": 0')),
    ):
        capsys.readouterr()
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert np.array_equal(load_data("folder", 8, root).train.images, want)
        said = capsys.readouterr().err
        assert str(entry) in said and "made again" in said and said.count("\n") == 1
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
    root = make(tmp_path / "set")
    assert subprocess.run([sys.executable, "-c", KILLED, str(root)]).returncode == 9
    assert [p.suffix for p in (own_cache / "data").iterdir() if p.is_dir()] == [".part"]
    data = load_data("folder", 8, root)
    assert np.array_equal(data.train.images[0].transpose(1, 2, 0), pixels(0))
    assert not list((own_cache / "data").glob("*.part"))


def test_one_builds_and_the_other_waits(capsys: pytest.CaptureFixture) -> None:
    begun, built = threading.Event(), []

    def build(builder: cache.Builder) -> dict:
        builder.array("numbers", (3,), "int64")[:] = 7
        built.append(threading.get_ident())
        begun.set()
        while "waiting for it" not in capsys.readouterr().err:
            time.sleep(0.01)
        return {"note": 1}

    def second() -> cache.Entry:
        begun.wait()
        return cache.cached("entry", {}, build)

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(cache.cached, "entry", {}, build), pool.submit(second)]
        entries = [job.result() for job in jobs]
    assert len(built) == 1
    for entry in entries:
        assert entry.arrays["numbers"].tolist() == [7, 7, 7] and entry.notes == {"note": 1}


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "set")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOCBENCH_CACHE", str(tmp_path / "file" / "cache"))
    assert "set LOCBENCH_CACHE to a folder that can" in complaint(root)


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "set")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage._replace(free=100))
    message = complaint(root)
    assert "GB free" in message and "LOCBENCH_CACHE" in message


def test_progress(tmp_path: Path) -> None:
    seen = []
    load_data("folder", 8, make(tmp_path / "set"), lambda *step: seen.append(step))
    assert seen[9] == ("reading sizes", 10, 10)
    assert seen[10] == ("decoding train", 1, 6) and seen[-1] == ("decoding test", 4, 4)
