"""Files of weights: checkpoints that a run goes on from, and encoders for use elsewhere."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from locbench.distributed.group import rank, share, world_size
from locbench.errors import RunFailed, UserError
from locbench.paths import write_atomic

# What torch raises for a file that was cut short, or that it never wrote.
UNREADABLE = (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError,
              TypeError, AttributeError, AssertionError, struct.error)  # fmt: skip


def _load(path: Path) -> Any:
    """torch.load of plain data, on the CPU; for a file that it cannot read one of UNREADABLE."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # guesses of what a foreign file may be
        return torch.load(path, map_location="cpu", weights_only=True)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all; RunFailed if the disk refuses it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    _write(path, buffer.getvalue(), "checkpoint")


def _write(path: Path, content: bytes, kind: str) -> None:
    try:
        write_atomic(path, content)
    except OSError as error:
        raise RunFailed(
            f"cannot save the {kind} {path} ({error.strerror or error}); "
            f"make room or permission there and start again"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at this path, None if there is none; UserError if it cannot be read."""
    if not path.exists():
        return None
    try:
        state = _load(path)
        if not isinstance(state, dict):
            raise TypeError(f"a {type(state).__name__}, not a dict")
    except UNREADABLE as error:
        raise UserError(
            f"{path} is not a checkpoint that can be read (truncated or foreign); "
            f"move it away to start this run from the beginning"
        ) from error
    return state


def load_shared(path: Path) -> dict[str, Any] | None:
    """As `load_checkpoint`, for all processes that work together: the first alone reads it."""
    state = None if rank() else load_checkpoint(path)
    return share(state) if world_size() > 1 else state


def save_encoder(path: Path, state: dict[str, Tensor]) -> None:
    """Write an encoder's weights as safetensors; RunFailed if the disk refuses it."""
    from safetensors.torch import save

    content = save({k: v.detach().cpu().contiguous() for k, v in state.items()})
    _write(path, content, "encoder")


def load_encoder(path: Path) -> dict[str, Tensor]:
    """Encoder weights from a safetensors file or a torchvision-style .pth of tensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"no encoder file {path}; give a .safetensors or .pth file or a run")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = _load(path)
    except (SafetensorError, *UNREADABLE) as error:
        raise UserError(
            f"{path} is not an encoder that can be read (truncated or foreign)"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"{path} holds no plain state dict of tensors; export the encoder's weights"
        )
    return state
