"""Checkpoints are whole or absent, files that cannot be read are named; encoders leave whole."""

import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny import NETWORK, same, tiny_recipe, tiny_trainer

from locbench.errors import RunFailed, UserError
from locbench.networks.resnet import resnet50
from locbench.runs.encoders import load_into
from locbench.training.checkpoints import (
    load_checkpoint,
    load_encoder,
    save_checkpoint,
    save_encoder,
)

STATE = {"step": 7, "weights": {"a": torch.arange(12.0).view(3, 4)}, "curves": {"lr": [0.1, None]}}


def one_line(path: Path, load) -> str:
    """The UserError of this file: one line that names it."""
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def broken(whole: bytes) -> dict[str, bytes]:
    """What a file may hold that is not what it should be."""
    draw = random.Random(0)
    files = {f"cut at {share}": whole[: int(share * len(whole))] for share in (0.01, 0.3, 0.9)}
    files |= {
        "empty": b"",
        "text": b"to be done\n",
        "json": b'{"step": 7}',
        "zip": b"PK\x03\x04" * 9,
    }
    files["pickle"] = pickle.dumps({"step": Path("no plain data")})
    files |= {f"noise {n}": draw.randbytes(n) for n in (1, 2, 8, 64, 1000)}
    files |= {f"pickled noise {n}": b"\x80\x02" + draw.randbytes(20) for n in range(10)}
    return files


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = tmp_path / "run" / "checkpoint.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, STATE)
    assert same(load_checkpoint(path), STATE)
    strided = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    save_checkpoint(path, {"strided": strided})
    assert load_checkpoint(path)["strided"].stride() == strided.stride()


def test_unreadable_checkpoints_are_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    for content in broken(path.read_bytes()).values():
        path.write_bytes(content)
        message = one_line(path, load_checkpoint)
        assert "move it away to start this run from the beginning" in message
        assert path.read_bytes() == content  # nothing is deleted
    for content in ([1, 2], torch.rand(3), None):
        torch.save(content, path)
        one_line(path, load_checkpoint)
    path.unlink()
    path.mkdir()
    one_line(path, load_checkpoint)


def test_nothing_that_runs_code_is_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trapped"),))

    for name, load in (("checkpoint.pt", load_checkpoint), ("encoder.pth", load_encoder)):
        torch.save({"weights": Trap()}, tmp_path / name)
        one_line(tmp_path / name, load)
    assert not (tmp_path / "trapped").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for save in (save_checkpoint, save_encoder):
        with pytest.raises(RunFailed, match="No space left on device") as caught:
            save(path, {"new": torch.rand(3)})
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert same(load_checkpoint(path), STATE)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


FOREIGN = {
    "no optimizer": lambda state: {k: v for k, v in state.items() if k != "optimizer"},
    "another rule": lambda state: tiny_trainer("gim").state(),
    "an encoder": lambda state: state["network"],
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_checkpoint_of_something_else_is_named(change, tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, change(tiny_trainer("loco").state()))
    message = one_line(path, lambda path: tiny_trainer("loco").fit(path, lambda *_: None))
    assert "no checkpoint of this run; move it away" in message


def test_an_encoder_comes_back_as_it_was(tmp_path):
    path = tmp_path / "encoder.safetensors"
    torch.manual_seed(1)
    net = resnet50(NETWORK, num_classes=4).to(memory_format=torch.channels_last)
    net(torch.rand(4, 3, 16, 16))  # statistics of their own
    state = net.encoder_state_dict()
    save_encoder(path, state)
    assert same(load_encoder(path), dict(state))
    torch.save(dict(state), tmp_path / "encoder.pth")
    assert same(load_encoder(tmp_path / "encoder.pth"), dict(state))
    torch.save(dict(state), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(load_encoder(tmp_path / "old.pth"), dict(state))
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(net.state_dict()) - {"fc.weight", "fc.bias"}
    torch.manual_seed(2)
    other = resnet50(NETWORK, num_classes=7)
    head = {key: value.clone() for key, value in other.head.state_dict().items()}
    load_into(other, path)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(other.eval().encode(images), net.eval().encode(images))
    assert same(dict(other.head.state_dict()), head)


@pytest.mark.parametrize("name", ["encoder.safetensors", "encoder.pth"])
def test_unreadable_encoders_are_named(name, tmp_path):
    path = tmp_path / name
    assert "no encoder file" in one_line(path, load_encoder)
    if path.suffix == ".pth":
        torch.save({"a": torch.rand(50)}, path)
    else:
        save_encoder(path, {"a": torch.rand(50)})
    for content in broken(path.read_bytes()).values():
        path.write_bytes(content)
        assert "not an encoder that can be read" in one_line(path, load_encoder)


def test_a_file_without_a_plain_state_dict_is_refused(tmp_path):
    path = tmp_path / "encoder.pth"
    for content in ([torch.rand(2)], {"state_dict": {"a": torch.rand(2)}}, {"epoch": 3}):
        torch.save(content, path)
        assert "holds no plain state dict of tensors" in one_line(path, load_encoder)


def test_a_run_goes_on_in_the_arithmetic_it_began_with(tmp_path):
    path = tmp_path / "checkpoint.pt"
    began = tiny_trainer("loco", tiny_recipe("fp32"))
    save_checkpoint(path, began.state())
    message = one_line(path, lambda path: tiny_trainer("loco", tiny_recipe("bf16")).resume(path))
    assert "made with torch.float32 on cpu, and this is torch.bfloat16 on cpu" in message
    tiny_trainer("loco", tiny_recipe("fp32")).resume(path)
