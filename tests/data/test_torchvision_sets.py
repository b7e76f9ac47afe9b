"""CIFAR-10, SVHN and STL-10 in torchvision's own file formats, and image folders in their place."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision
import torchvision.datasets as published
from image_sets import checksum, complaint, make_folder

from locbench.data import load_data, locate, torchvision_sets
from locbench.data.fingerprint import fingerprint
from locbench.plugins.registry import DATASETS
from locbench.published.datasets import OFFICIAL

pytestmark = pytest.mark.usefixtures("own_cache")

NAMES = ("cifar10", "svhn", "stl10")
CLASSES = {
    "cifar10": tuple(f"cifar class {k}" for k in range(10)),
    "svhn": tuple(str(digit) for digit in range(10)),
    "stl10": tuple(f"stl class {k}" for k in range(10)),
}
CALLS = {name: f"torchvision.datasets.{name.upper()}(" for name in NAMES}
COUNTS = {"train": 15, "test": 8}


def images_of(split: str, side: int) -> np.ndarray:
    """uint8 [N, 3, side, side]: no two pixels of an image have to be alike."""
    shape = (COUNTS[split], 3, side, side)
    return np.random.default_rng(COUNTS[split]).integers(0, 256, shape, dtype=np.uint8)


def targets_of(split: str) -> list[int]:
    return [(7 * i + 3) % 10 for i in range(COUNTS[split])]


def write_cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def batch(name: str, split: str, part: slice) -> None:
        flat = images_of(split, 32).reshape(-1, 3072)[part]  # planes of red, green, blue
        content = {"batch_label": name, "labels": targets_of(split)[part], "data": flat}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))

    for i in range(5):
        batch(f"data_batch_{i + 1}", "train", slice(3 * i, 3 * i + 3))
    batch("test_batch", "test", slice(None))
    meta = {"label_names": list(CLASSES["cifar10"]), "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


def write_svhn(root: Path) -> None:
    root.mkdir(parents=True)
    for split in COUNTS:
        labels = np.array(targets_of(split))
        labels[labels == 0] = 10  # as in the files
        content = {"X": images_of(split, 32).transpose(2, 3, 1, 0), "y": labels[:, None]}
        scipy.io.savemat(root / f"{split}_32x32.mat", content, do_compression=True)


def write_stl10(root: Path) -> None:
    """Without the unlabelled images, of 2.6 GB."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for split in COUNTS:
        columns = images_of(split, 96).transpose(0, 1, 3, 2)  # column by column
        (folder / f"{split}_X.bin").write_bytes(np.ascontiguousarray(columns).tobytes())
        labels = np.array(targets_of(split), dtype=np.uint8) + 1
        (folder / f"{split}_y.bin").write_bytes(labels.tobytes())
    (folder / "class_names.txt").write_text("\n".join(CLASSES["stl10"]) + "\n")


WRITERS = {"cifar10": write_cifar10, "svhn": write_svhn, "stl10": write_stl10}


def accept(name: str, root: Path, patch: pytest.MonkeyPatch) -> None:
    """Have the files under `root` taken for the published ones, here and in torchvision."""
    files = {
        path: hashlib.md5((root / path).read_bytes()).hexdigest() for path in OFFICIAL[name].files
    }
    patch.setitem(locate.OFFICIAL, name, replace(OFFICIAL[name], files=files, **COUNTS))
    short = {Path(path).name: md5 for path, md5 in files.items()}
    if name == "svhn":
        lists = {
            split: [url, file, short.get(file, md5)]
            for split, (url, file, md5) in published.SVHN.split_list.items()
        }
        patch.setattr(published.SVHN, "split_list", lists)
        return
    kind = published.CIFAR10 if name == "cifar10" else torchvision_sets.LabelledSTL10
    for attribute in ("train_list", "test_list"):
        patch.setattr(kind, attribute, [[f, short[f]] for f, _ in getattr(kind, attribute)])
    if name == "cifar10":
        patch.setattr(kind, "meta", {**kind.meta, "md5": short["batches.meta"]})


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a data set under `real/NAME` and returns that folder."""

    def write(name: str) -> Path:
        root = tmp_path / "real" / name
        WRITERS[name](root)
        accept(name, root, monkeypatch)
        return root

    return write


def test_md5s_and_downloads_are_torchvisions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cifar, stl = published.CIFAR10, published.STL10
    meta = (cifar.meta["filename"], cifar.meta["md5"])
    in_cifar = (*cifar.train_list, *cifar.test_list, meta)
    in_stl = (*stl.train_list[:2], *stl.test_list)
    assert {name: OFFICIAL[name].files for name in NAMES} == {
        "cifar10": {f"{cifar.base_folder}/{file}": md5 for file, md5 in in_cifar},
        "svhn": {file: md5 for _, file, md5 in map(published.SVHN.split_list.get, COUNTS)},
        "stl10": {f"{stl.base_folder}/{file}": md5 for file, md5 in in_stl},
    }
    calls = []
    for name in NAMES:
        kind = getattr(published, name.upper())
        monkeypatch.setattr(kind, "download", lambda self: calls.append(self))
        monkeypatch.setattr(kind, "_check_integrity", lambda self: False)
        with pytest.raises((RuntimeError, OSError)):
            eval(OFFICIAL[name].download.format(folder=tmp_path), {"torchvision": torchvision})
    assert [type(one).__name__ for one in calls] == ["CIFAR10", "SVHN", "STL10"]
    assert {str(one.root) for one in calls} == {str(tmp_path)}


@pytest.mark.parametrize("name", NAMES)
def test_load(name: str, make: Callable[[str], Path]) -> None:
    """Not turned, not transposed, colours in order: as torchvision hands the pictures out."""
    root = make(name)
    data = load_data(name, 32, root)
    version = DATASETS.entry(name).version
    identity = {"name": name, "version": version, "checksum": data.checksum}
    assert fingerprint(name, 32, root) == {**identity, "classes": 10, **COUNTS}
    assert (data.name, data.version, data.classes) == (name, version, CLASSES[name])
    for split, loaded in (("train", data.train), ("test", data.test)):
        assert np.array_equal(loaded.images, images_of(split, loaded.images.shape[-1]))
        assert loaded.targets.tolist() == targets_of(split)
    theirs = {
        "cifar10": lambda: published.CIFAR10(root, train=False),
        "svhn": lambda: published.SVHN(root, "test"),
        "stl10": lambda: torchvision_sets.LabelledSTL10(root, "test"),
    }[name]()
    picture, target = theirs[5]
    assert np.array_equal(data.test.images[5].transpose(1, 2, 0), np.asarray(picture))
    assert data.test.targets[5] == target


@pytest.mark.parametrize("name", NAMES)
def test_checksum_is_of_the_files_bytes(name: str, make: Callable[[str], Path]) -> None:
    """Records are found by it: it may never change."""
    root, digest = make(name), hashlib.sha256()
    for place, path in enumerate(OFFICIAL[name].files):
        file = hashlib.sha256((root / path).read_bytes()).hexdigest()
        digest.update(f"file {place} {file}\n".encode())
    assert checksum(root, name) == digest.hexdigest()


def test_root_or_folder_of_the_name(
    make: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make("svhn")
    make_folder(root)  # images beside torchvision's files, which come first
    assert fingerprint("svhn", 32, root) == fingerprint("svhn", 32, root.parent)
    monkeypatch.setenv("LOCBENCH_DATA", str(root.parent))
    assert fingerprint("svhn", 32)["name"] == "svhn" and len(load_data("svhn", 32).train) == 15


def test_class_names_beside_the_data(make: Callable[[str], Path]) -> None:
    """They are not in the checksum, and not those that were there when the images were read."""
    root = make("stl10")
    assert load_data("stl10", 96, root).classes == CLASSES["stl10"]
    path = root / "stl10_binary" / "class_names.txt"
    path.write_text("\n".join("abcdefghij"))
    assert load_data("stl10", 96, root).classes == tuple("abcdefghij")
    path.write_bytes(b"a\nb\n")
    assert f"{path} names 2 classes, not 10" in complaint(root, "stl10")
    path.write_bytes(b"\xff\xfe")
    assert f"{path} cannot be read" in complaint(root, "stl10")


@pytest.mark.parametrize("name", NAMES)
def test_absent(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    message = complaint(tmp_path / "empty", name)
    assert message.startswith(f"no '{name}' in {tmp_path / 'empty'} or")
    assert f"{CALLS[name]}'{tmp_path / 'empty' / name}'" in message and "train/CLASS" in message
    message = complaint(tmp_path / "nowhere", name)
    assert f"data root {tmp_path / 'nowhere'} is not a folder" in message
    assert next(iter(OFFICIAL[name].files)) in message and CALLS[name] in message


@pytest.mark.parametrize("name", NAMES)
def test_every_missing_or_damaged_file_is_named(name: str, make: Callable[[str], Path]) -> None:
    root = make(name)
    for path in OFFICIAL[name].paths:
        whole = (root / path).read_bytes()
        (root / path).unlink()
        message = complaint(root, name)
        assert message.startswith(f"{root} has no {path} of '{name}'") and CALLS[name] in message
        if path in OFFICIAL[name].files:
            (root / path).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            message = complaint(root, name)
            assert message.startswith(f"{root / path} is damaged or another file (md5 ")
            assert CALLS[name] in message
        (root / path).write_bytes(whole)
    assert len(load_data(name, 32, root).train) == 15


@pytest.mark.parametrize(
    ("folder", "name"),
    [("cifar10", "cifar10-images"), ("CIFAR10", "CIFAR10-images"), ("pets", "pets")],
)
def test_a_folder_in_place_has_its_own_name(folder: str, name: str, tmp_path: Path) -> None:
    root = make_folder(tmp_path / folder)
    data, plain = load_data("cifar10", 32, root), load_data("folder", 32, root)
    assert fingerprint("cifar10", 32, root)["name"] == data.name == name
    assert (data.version, data.checksum) == (plain.version, plain.checksum)
    assert np.array_equal(data.test.images, plain.test.images)
    (tmp_path / "link").symlink_to(root)
    assert fingerprint("cifar10", 32, tmp_path / "link")["name"] == name
    assert fingerprint("imagenette", 32, root)["name"] == "imagenette"
