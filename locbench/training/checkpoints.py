"""Checkpoints for going on, and encoders for leaving the project."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from locbench.errors import RunFailed, UserError
from locbench.paths import write_atomic


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all; RunFailed if the disk refuses it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        raise RunFailed(f"cannot save the checkpoint {path}: {error.strerror}") from error


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at this path, None if there is none; UserError if it cannot be read."""
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is not a checkpoint that can be read (truncated or foreign); "
            f"move it away to start this run from the beginning"
        ) from error


def save_encoder(path: Path, state: dict[str, Tensor]) -> None:
    """Write an encoder's weights as safetensors."""
    from safetensors.torch import save

    write_atomic(path, save({k: v.detach().cpu().contiguous() for k, v in state.items()}))


def load_encoder(path: Path) -> dict[str, Tensor]:
    """Encoder weights from a safetensors file or a torchvision-style .pth of tensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"no encoder file {path}; give a .safetensors or .pth file or a run")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise UserError(
            f"{path} is not an encoder that can be read (truncated or foreign)"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"{path} holds no plain state dict of tensors; export the encoder's weights"
        )
    return state
