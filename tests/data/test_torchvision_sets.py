"""CIFAR-10, SVHN and STL-10 in torchvision's own file formats, image folders in their place."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets as published
from PIL import Image

from locbench.data import ImageData, Split, load_data, reduced, sources, subset, torchvision_sets
from locbench.data.fingerprint import fingerprint
from locbench.data.streaming import StreamingSplit
from locbench.errors import UserError
from locbench.plugins.registry import DATASETS
from locbench.published.datasets import OFFICIAL

NAMES = ("cifar10", "svhn", "stl10")
CIFAR_CLASSES = [f"cifar class {k}" for k in range(10)]
STL_CLASSES = [f"stl class {k}" for k in range(10)]
TRAIN, TEST = 15, 8


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOCBENCH_DATA", raising=False)
    return tmp_path / "cache"


def images_of(split: str, side: int) -> np.ndarray:
    """uint8 [N, 3, side, side]: no two pixels of an image have to be alike."""
    count = TRAIN if split == "train" else TEST
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def targets_of(split: str) -> list[int]:
    return [(7 * i + 3) % 10 for i in range(TRAIN if split == "train" else TEST)]


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
    meta = {"label_names": CIFAR_CLASSES, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


def write_svhn(root: Path) -> None:
    root.mkdir(parents=True)
    for split in ("train", "test"):
        labels = np.array(targets_of(split))
        labels[labels == 0] = 10  # as in the files
        content = {"X": images_of(split, 32).transpose(2, 3, 1, 0), "y": labels[:, None]}
        scipy.io.savemat(root / f"{split}_32x32.mat", content, do_compression=True)


def write_stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        columns = images_of(split, 96).transpose(0, 1, 3, 2)  # column by column
        (folder / f"{split}_X.bin").write_bytes(np.ascontiguousarray(columns).tobytes())
        labels = np.array(targets_of(split), dtype=np.uint8) + 1
        (folder / f"{split}_y.bin").write_bytes(labels.tobytes())
    (folder / "class_names.txt").write_text("\n".join(STL_CLASSES) + "\n")


WRITERS: dict[str, Callable[[Path], None]] = {
    "cifar10": write_cifar10,
    "svhn": write_svhn,
    "stl10": write_stl10,
}
SIDES = {"cifar10": 32, "svhn": 32, "stl10": 96}
CLASSES = {
    "cifar10": CIFAR_CLASSES,
    "svhn": [str(digit) for digit in range(10)],
    "stl10": STL_CLASSES,
}


def torchvisions_files() -> dict[str, dict[str, str]]:
    """The md5 of every file that we read, by data set, as torchvision has them."""
    cifar, stl = published.CIFAR10, published.STL10
    meta = [(cifar.meta["filename"], cifar.meta["md5"])]
    labelled = [*stl.train_list[:2], *stl.test_list]
    svhn = (published.SVHN.split_list[split] for split in ("train", "test"))
    return {
        "cifar10": {
            f"{cifar.base_folder}/{file}": md5
            for file, md5 in (*cifar.train_list, *cifar.test_list, *meta)
        },
        "svhn": {file: md5 for _, file, md5 in svhn},
        "stl10": {f"{stl.base_folder}/{file}": md5 for file, md5 in labelled},
    }


def accept(name: str, root: Path, patch: pytest.MonkeyPatch) -> None:
    """Have the files under `root` taken for the published ones, here and in torchvision."""
    files = {
        path: hashlib.md5((root / path).read_bytes()).hexdigest() for path in OFFICIAL[name].files
    }
    counts = {"train": TRAIN, "test": TEST}
    patch.setitem(sources.OFFICIAL, name, replace(OFFICIAL[name], files=files, **counts))
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
        age(root)
        return root

    return write


def age(root: Path) -> None:
    """Make files look old enough for their time stamps to be trusted."""
    for path in (root, *root.rglob("*")):
        os.utime(path, (1e9, 1e9))


def complaint(name: str, root: Path | None) -> str:
    """What is said, the same by both ways to look at the data; one line."""
    said = []
    for look in (fingerprint, load_data):
        with pytest.raises(UserError) as caught:
            look(name, 32, root)
        said.append(str(caught.value))
    assert said[0] == said[1] and "\n" not in said[0]
    return said[0]


# --- torchvision's files ------------------------------------------------------------------------


def test_md5s_are_torchvisions() -> None:
    assert {name: OFFICIAL[name].files for name in NAMES} == torchvisions_files()


def test_published_counts() -> None:
    counts = {n: (o.train, o.test, o.classes) for n, o in OFFICIAL.items()}
    assert counts == {
        "cifar10": (50_000, 10_000, 10),
        "svhn": (73_257, 26_032, 10),
        "stl10": (5_000, 8_000, 10),
    }


@pytest.mark.parametrize("name", NAMES)
def test_load(name: str, make: Callable[[str], Path]) -> None:
    root = make(name)
    found = fingerprint(name, 32, root)
    data = load_data(name, 32, root)
    assert found == {
        "name": name,
        "version": DATASETS.entry(name).version,
        "checksum": data.checksum,
        "classes": 10,
        "train": TRAIN,
        "test": TEST,
    }
    assert (data.name, data.version) == (name, found["version"]) and not data.streaming
    assert data.classes == tuple(CLASSES[name])
    for split, held in (("train", data.train), ("test", data.test)):
        assert np.array_equal(held.images, images_of(split, SIDES[name]))
        assert held.targets.tolist() == targets_of(split)
        assert held.targets.dtype == torch.int64
        assert isinstance(held.images, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            held.images[0] = 0
    batch = data.train.batch(torch.tensor([4, 0]))
    assert batch.dtype == torch.uint8
    assert np.array_equal(batch.numpy(), images_of("train", SIDES[name])[[4, 0]])


def torchvisions_image(name: str, root: Path, index: int) -> tuple[Image.Image, int]:
    if name == "cifar10":
        return published.CIFAR10(root, train=False)[index]
    kind = published.SVHN if name == "svhn" else torchvision_sets.LabelledSTL10
    return kind(root, "test")[index]


@pytest.mark.parametrize("name", NAMES)
def test_checksum_is_of_the_content(name: str, make: Callable[[str], Path]) -> None:
    """Of path and md5 of every file that decides pixels and targets: records are found by it."""
    found = fingerprint(name, 32, make(name))
    lines = [f"{path}\0{md5}\n" for path, md5 in OFFICIAL[name].files.items()]
    assert found["checksum"] == hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_images_are_as_torchvision_gives_them(name: str, make: Callable[[str], Path]) -> None:
    """Not turned, not transposed, colours in order: against the picture torchvision hands out."""
    root = make(name)
    data = load_data(name, 32, root)
    for index in (0, 5):
        picture, target = torchvisions_image(name, root, index)
        assert np.array_equal(data.test.images[index].transpose(1, 2, 0), np.asarray(picture))
        assert data.test.targets[index] == target


@pytest.mark.parametrize("name", NAMES)
def test_root_or_folder_of_the_name(
    name: str, make: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(name)
    found = fingerprint(name, 32, root)
    assert fingerprint(name, 32, root.parent) == found
    monkeypatch.setenv("LOCBENCH_DATA", str(root.parent))
    assert fingerprint(name, 32) == found
    assert len(load_data(name, 32).train) == TRAIN


def test_stl10_needs_no_unlabelled_images(make: Callable[[str], Path]) -> None:
    root = make("stl10")
    assert not list(root.rglob("unlabeled*"))
    with pytest.raises(RuntimeError, match="not found or corrupted"):
        published.STL10(root, "train")
    assert len(load_data("stl10", 96, root).test) == TEST


def test_the_cache_serves_without_the_reader(
    make: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make("cifar10")
    load_data("cifar10", 32, root)
    monkeypatch.setattr(published, "CIFAR10", None)
    monkeypatch.setattr(sources.hashlib, "file_digest", None)
    assert len(load_data("cifar10", 32, root).train) == TRAIN
    assert fingerprint("cifar10", 32, root)["train"] == TRAIN


def test_progress(make: Callable[[str], Path]) -> None:
    seen = []
    load_data("svhn", 32, make("svhn"), lambda *step: seen.append(step))
    assert seen == [("reading svhn (train)", TRAIN, TRAIN), ("reading svhn (test)", TEST, TEST)]


def test_a_changed_file_is_read_again(make: Callable[[str], Path]) -> None:
    root = make("svhn")
    fingerprint("svhn", 32, root)
    path = root / "train_32x32.mat"
    whole = path.read_bytes()
    path.write_bytes(whole + b"x")
    assert f"{path} is damaged" in complaint("svhn", root)
    path.write_bytes(whole)
    assert fingerprint("svhn", 32, root)["train"] == TRAIN


def test_fingerprint_needs_no_torch(make: Callable[[str], Path]) -> None:
    root = make("svhn")
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace;"
        "from locbench.data import sources; from locbench.data.fingerprint import fingerprint;"
        f"files = {OFFICIAL['svhn'].files!r};"
        "sources.OFFICIAL['svhn'] = replace(sources.OFFICIAL['svhn'], files=files);"
        f"assert fingerprint('svhn', 32, Path({str(root)!r}))['train'] == 73_257;"
        "loaded = {'torch', 'torchvision', 'numpy', 'scipy', 'PIL'} & set(sys.modules);"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what can be wrong --------------------------------------------------------------------------

EXPECTED = {
    "cifar10": ("cifar-10-batches-py/data_batch_1", "torchvision.datasets.CIFAR10("),
    "svhn": ("train_32x32.mat", "torchvision.datasets.SVHN("),
    "stl10": ("stl10_binary/train_X.bin", "torchvision.datasets.STL10("),
}


@pytest.mark.parametrize("name", NAMES)
def test_absent(name: str, tmp_path: Path) -> None:
    file, call = EXPECTED[name]
    (tmp_path / "empty").mkdir()
    message = complaint(name, tmp_path / "empty")
    assert message.startswith(f"no '{name}' in {tmp_path / 'empty'} or")
    assert file in message and f"{call}'{tmp_path / 'empty' / name}'" in message
    assert "train/CLASS" in message
    message = complaint(name, tmp_path / "nowhere")
    assert f"data root {tmp_path / 'nowhere'} is not a folder" in message
    assert file in message and call in message


def test_the_download_is_a_call_of_torchvisions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every call that an error gives is valid, and asks for a download into the folder named."""
    asked = []
    for kind in ("CIFAR10", "SVHN", "STL10"):
        monkeypatch.setattr(getattr(published, kind), "download", lambda self: asked.append(self))
        monkeypatch.setattr(getattr(published, kind), "_check_integrity", lambda self: False)
    import torchvision

    for name in NAMES:
        with pytest.raises((RuntimeError, OSError)):
            eval(OFFICIAL[name].download.format(folder=tmp_path), {"torchvision": torchvision})
    assert [type(one).__name__ for one in asked] == ["CIFAR10", "SVHN", "STL10"]
    assert {str(one.root) for one in asked} == {str(tmp_path)}


@pytest.mark.parametrize("name", NAMES)
def test_every_missing_file_is_named(name: str, make: Callable[[str], Path]) -> None:
    root = make(name)
    for path in OFFICIAL[name].paths:
        (root / path).rename(root / "elsewhere")
        message = complaint(name, root)
        assert message.startswith(f"{root} has no {path} of '{name}'")
        assert EXPECTED[name][1] in message
        (root / "elsewhere").rename(root / path)
    assert fingerprint(name, 32, root)["test"] == TEST


@pytest.mark.parametrize("name", NAMES)
def test_every_damaged_file_is_named(name: str, make: Callable[[str], Path]) -> None:
    root = make(name)
    for path in OFFICIAL[name].files:
        whole = (root / path).read_bytes()
        for content in (b"", whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
            (root / path).write_bytes(content)
            message = complaint(name, root)
            assert message.startswith(f"{root / path} is damaged or another file (md5 ")
            assert "download it with" in message and EXPECTED[name][1] in message
        (root / path).write_bytes(whole)
    assert len(load_data(name, 32, root).train) == TRAIN


def test_damaged_without_a_change_of_size_or_time(make: Callable[[str], Path]) -> None:
    root = make("cifar10")
    assert fingerprint("cifar10", 32, root)["train"] == TRAIN
    path = root / "cifar-10-batches-py" / "data_batch_2"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    age(root)
    with pytest.raises(UserError, match="data_batch_2 is damaged") as caught:
        load_data("cifar10", 32, root)
    assert "\n" not in str(caught.value)
    assert "data_batch_2 is damaged" in complaint("cifar10", root)  # and it is remembered
    path.write_bytes(whole)
    age(root)
    assert len(load_data("cifar10", 32, root).train) == TRAIN


def test_class_names_that_are_not_ten(make: Callable[[str], Path]) -> None:
    root = make("stl10")
    names = root / "stl10_binary" / "class_names.txt"
    for content, said in ((b"a\nb\n", "names 2 classes, not 10"), (b"\xff\xfe", "cannot be read")):
        names.write_bytes(content)
        with pytest.raises(UserError, match=said) as caught:
            load_data("stl10", 96, root)
        assert str(root) in str(caught.value) and "\n" not in str(caught.value)
    names.write_text("\n".join(STL_CLASSES))
    assert load_data("stl10", 96, root).classes == tuple(STL_CLASSES)


# --- image folders in their place ---------------------------------------------------------------


def image_folder(root: Path, test: str = "test", count: int = 2) -> Path:
    for split in ("train", test):
        for name in ("cat", "dog"):
            for i in range(count):
                path = root / split / name / f"{i:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                shade = np.full((6, 6, 3), 10 * i + (name == "dog") * 100 + (split == test))
                Image.fromarray(shade.astype(np.uint8)).save(path)
    return root


def pack(root: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for path in root.iterdir():
        with tarfile.open(target / f"{path.name}.tar.gz", "w:gz") as archive:
            archive.add(path, path.name)
    return target


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_in_place_has_its_own_name(name: str, packed: bool, tmp_path: Path) -> None:
    root = image_folder(tmp_path / "cifar10-jpeg")
    if packed:
        root = pack(root, tmp_path / "packed" / "cifar10-jpeg")
    found, data = fingerprint(name, 32, root), load_data(name, 32, root)
    assert found == {
        "name": "cifar10-jpeg",
        "version": DATASETS.entry("folder").version,
        "checksum": data.checksum,
        "classes": 2,
        "train": 4,
        "test": 4,
    }
    assert (data.name, data.version) == (found["name"], found["version"])
    assert data.classes == ("cat", "dog")
    plain = load_data("folder", 32, root)
    assert data.checksum == plain.checksum and np.array_equal(data.test.images, plain.test.images)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("cifar10", "cifar10-images"),
        ("CIFAR10", "CIFAR10-images"),
        ("imagenet", "imagenet-images"),
        ("shapes", "shapes-images"),
        ("pets", "pets"),
    ],
)
def test_no_registered_name_is_taken(folder: str, name: str, tmp_path: Path) -> None:
    root = image_folder(tmp_path / folder)
    assert fingerprint("cifar10", 32, root)["name"] == load_data("cifar10", 32, root).name == name
    # And under the names of image folders nothing is as before but the name asked for.
    assert fingerprint("imagenette", 32, root)["name"] == "imagenette"


def test_a_folder_below_the_root_by_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(tmp_path / "all" / "svhn")
    assert fingerprint("svhn", 32, tmp_path / "all")["name"] == "svhn-images"
    monkeypatch.chdir(root)
    assert fingerprint("svhn", 32, Path())["name"] == "svhn-images"
    assert fingerprint("svhn", 32, Path("train/.."))["name"] == "svhn-images"
    (tmp_path / "link").symlink_to(root)
    assert fingerprint("svhn", 32, tmp_path / "link")["name"] == "svhn-images"


def test_torchvisions_files_come_first(make: Callable[[str], Path]) -> None:
    root = make("svhn")
    image_folder(root)
    assert fingerprint("svhn", 32, root)["name"] == "svhn"
    image_folder(root.parent)
    assert fingerprint("svhn", 32, root.parent)["name"] == "svhn"
    shutil.rmtree(root)
    assert fingerprint("svhn", 32, root.parent)["name"] == "real"


def test_what_is_wrong_with_a_folder_in_place_is_said(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "copy")
    shutil.rmtree(root / "test")
    assert f"{root} has no val folder and no val.tar" in complaint("cifar10", root)


# --- a part of the training images --------------------------------------------------------------


def some_split(counts: list[int], seed: int = 0) -> Split:
    """A split with so many images of each class, mixed; image i is filled with i."""
    targets = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.arange(len(targets), dtype=np.uint8)[:, None, None, None]
    return Split(np.broadcast_to(images, (len(targets), 3, 2, 2)), torch.from_numpy(targets))


def chosen(split: Split) -> list[int]:
    return torch.as_tensor(np.asarray(split.images))[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("counts", "count", "expected"),
    [
        ([20, 20, 20], 30, [10, 10, 10]),
        ([20, 20, 20], 60, [20, 20, 20]),
        ([5, 40, 40], 45, [5, 20, 20]),  # of a small class all there are
        ([5, 12, 40], 47, [5, 12, 30]),
    ],
)
def test_subset_has_as_many_of_every_class(
    counts: list[int], count: int, expected: list[int]
) -> None:
    split = some_split(counts)
    part = subset(split, count, seed=1)
    assert len(part) == len(part.images) == count
    assert torch.bincount(part.targets, minlength=len(counts)).tolist() == expected
    indices = chosen(part)
    assert indices == sorted(set(indices))  # original order, none twice
    assert torch.equal(part.targets, split.targets[indices])


def test_subset_is_as_near_as_can_be() -> None:
    odd = [torch.bincount(subset(some_split([20] * 4), 42, s).targets).tolist() for s in range(20)]
    assert all(sorted(counts) == [10, 10, 11, 11] for counts in odd)
    assert len({tuple(counts) for counts in odd}) > 1  # which class has more is drawn, too


def test_subset_is_the_seeds() -> None:
    split = some_split([40, 40])
    one = chosen(subset(split, 20, seed=3))
    torch.manual_seed(5)
    np.random.seed(5)
    assert chosen(subset(split, 20, seed=3)) == one != chosen(subset(split, 20, seed=4))
    assert set(one) < set(chosen(subset(split, 50, seed=3)))
    # Each image as often as any other: 400 draws of a quarter of them.
    often = np.bincount(np.concatenate([chosen(subset(split, 20, s)) for s in range(400)]))
    assert len(often) == 80 and often.min() > 60 and often.max() < 145


def test_subset_is_pinned() -> None:
    """The same on every machine and version, or records of runs lose their meaning."""
    targets = torch.arange(40) % 4
    split = Split(torch.arange(40).view(-1, 1, 1, 1).expand(-1, 3, 1, 1), targets)
    assert chosen(subset(split, 10, seed=0)) == [1, 2, 3, 11, 13, 15, 18, 20, 21, 32]


def test_subset_of_tensors_and_of_maps(tmp_path: Path) -> None:
    split = some_split([30, 30])
    np.save(tmp_path / "images.npy", split.images)
    mapped = Split(np.load(tmp_path / "images.npy", mmap_mode="r"), split.targets)
    parts = [subset(kind, 11, seed=2) for kind in (mapped, mapped.to("cpu"), mapped.to("meta"))]
    assert chosen(parts[0]) == chosen(parts[1])
    assert parts[2].images.device.type == "meta" and parts[2].images.shape == (11, 3, 2, 2)
    assert all(torch.equal(part.targets, parts[0].targets) for part in parts)
    indices = torch.tensor([10, 0])
    assert torch.equal(parts[0].batch(indices), parts[1].batch(indices))


def test_subset_of_more_than_there_is() -> None:
    for count in (61, 0):
        with pytest.raises(UserError, match=r"data\.train_images = \d+: set it to 1 \.\.\. 60"):
            subset(some_split([30, 30]), count, seed=0)
    streamed = StreamingSplit(None, torch.zeros(9, dtype=torch.int64), 8)
    with pytest.raises(UserError, match=r"data\.train_images .*set it to 0"):
        subset(streamed, 3, seed=0)


def test_reduced() -> None:
    split = some_split([30, 30])
    data = ImageData("folder", 1, "sum", ("a", "b"), split, split)
    assert reduced(data, 0) is data
    part = reduced(data, 10)
    assert len(part.train) == 10 and part.test is split and part.checksum == "sum"
    assert chosen(part.train) == chosen(subset(split, 10, seed=0))
