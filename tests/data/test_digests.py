"""Data are identified by the bytes of their files, which are read once, whatever their names."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from image_sets import checksum, complaint, make_folder, pack, pixels, save

from locbench.data import digests, listing, load_data
from locbench.data.files import Files
from locbench.data.fingerprint import fingerprint

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust time stamps at once: no test waits until its files are two seconds old."""
    monkeypatch.setattr(digests, "SETTLED_S", 0.0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files and members that are read, from now on."""
    names: list[str] = []
    read = Files.read
    monkeypatch.setattr(
        Files, "read", lambda files, index: names.append(files.names[index]) or read(files, index)
    )
    return names


def test_checksum_is_of_split_class_and_bytes(tmp_path: Path) -> None:
    """Records are found by it: it may never change."""
    root = make_folder(tmp_path / "set")
    lines = [
        f"{split} {'ab'.index(path.parent.name)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for split, folder in (("train", "train"), ("test", "val"))
        for path in sorted((root / folder).rglob("*.png"))
    ]
    assert checksum(root) == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert load_data("folder", 8, root).checksum == checksum(root)


def test_names_do_not_decide(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set")
    before = checksum(root)
    (root / "train" / "a" / "0.png").rename(root / "train" / "a" / "00.png")
    (root / "train" / "b").rename(root / "train" / "dog")
    (root / "val" / "b").rename(root / "val" / "dog")
    root.rename(tmp_path / "moved")
    assert checksum(tmp_path / "moved") == before


def write_bmps(root: Path, seed: int) -> Path:
    """Images that all have one size, under the same names whatever the seed."""
    for place, path in enumerate(("train/a/0", "train/b/0", "val/a/0", "val/b/0")):
        save(root / f"{path}.bmp", pixels(seed + place))
    return root


def test_same_names_and_sizes_with_other_bytes(tmp_path: Path) -> None:
    one, other = write_bmps(tmp_path / "one", 0), write_bmps(tmp_path / "other", 50)
    assert checksum(one) != checksum(other)
    assert load_data("folder", 8, one).train.images[0].tobytes() != (
        load_data("folder", 8, other).train.images[0].tobytes()
    )


def test_changed_in_place(tmp_path: Path, settled: None) -> None:
    """With the time of the file set back, so that ctime tells."""
    root = write_bmps(tmp_path / "set", 0)
    path = root / "train" / "a" / "0.bmp"
    os.utime(path, (1e9, 1e9))
    before = checksum(root)
    time.sleep(0.05)  # more than the resolution of time stamps
    save(path, pixels(9))
    os.utime(path, (1e9, 1e9))
    assert checksum(root) != before
    time.sleep(0.05)
    save(path, pixels(0))
    assert checksum(root) == before


def test_changed_before_the_clock_moves_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stamp that is not settled is not trusted: here no change shows in it."""
    later = time.time_ns() + 10**12
    monkeypatch.setattr(listing, "stamp", lambda status: (status.st_size, later, later))
    root = write_bmps(tmp_path / "set", 0)
    before = checksum(root)
    save(root / "train" / "a" / "0.bmp", pixels(9))
    assert checksum(root) != before


def test_second_look_reads_no_file(tmp_path: Path, settled: None, reads: list[str]) -> None:
    root = make_folder(tmp_path / "set")
    packed = pack(root, tmp_path / "packed")
    shutil.copytree(root / "val", packed / "val")
    (packed / "val.tar").unlink()
    first = checksum(packed)
    assert len(reads) == 10
    reads.clear()
    assert checksum(packed) == first
    assert reads == []


def test_only_changed_and_new_files_are_read(
    tmp_path: Path, settled: None, reads: list[str]
) -> None:
    root = make_folder(tmp_path / "set")
    checksum(root)
    reads.clear()
    (root / "train" / "a" / "1.png").write_bytes(b"other")
    (root / "train" / "a" / "7.png").write_bytes(b"new")
    (root / "train" / "a" / "2.png").unlink()
    checksum(root)
    assert sorted(reads) == ["a/1.png", "a/7.png"]


def test_a_changed_archive_is_read_again(tmp_path: Path, settled: None) -> None:
    root = write_bmps(tmp_path / "set", 0)
    before = checksum(pack(root, tmp_path / "packed"))
    save(root / "train" / "a" / "0.bmp", pixels(9))
    size = (tmp_path / "packed" / "train.tar").stat().st_size
    assert checksum(pack(root, tmp_path / "packed")) != before
    assert (tmp_path / "packed" / "train.tar").stat().st_size == size


def test_what_was_read_before_an_error_is_remembered(
    tmp_path: Path, settled: None, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "set", train=40)
    read = Files.read

    def broken(files: Files, index: int) -> bytes:
        if files.names[index] == "b/39.png":
            raise OSError(5, "Input/output error")
        return read(files, index)

    with monkeypatch.context() as patch:
        patch.setattr(Files, "read", broken)
        assert "train/b/39.png cannot be read (Input/output error)" in complaint(root)
    reads.clear()
    checksum(root)
    assert len([name for name in reads if int(name[2:-4]) > 1]) < 40


def test_a_damaged_table_is_read_afresh(tmp_path: Path, settled: None, own_cache: Path) -> None:
    root = make_folder(tmp_path / "set")
    first = fingerprint("folder", 8, root)
    for table in (own_cache / "digests").glob("*.table"):
        whole = table.read_bytes()
        for content in (b"", b"\n", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
            table.write_bytes(content)
            assert fingerprint("folder", 8, root) == first


def test_names_that_are_no_text(tmp_path: Path, settled: None) -> None:
    root = make_folder(tmp_path / "set")
    before = checksum(root)
    (root / "train" / "a" / "2.png").rename(root / "train" / "a" / os.fsdecode(b"2\xe9.png"))
    assert checksum(root) == checksum(root) == before


def test_fingerprint_needs_no_torch(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set")
    code = (
        "import sys; from locbench.data.fingerprint import fingerprint; from pathlib import Path;"
        f"fingerprint('shapes', 32); fingerprint('folder', 8, Path({str(root)!r}));"
        "loaded = {'torch', 'torchvision', 'numpy', 'scipy', 'PIL'} & set(sys.modules);"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
