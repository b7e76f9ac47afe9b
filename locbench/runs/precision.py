"""Precision of a training run: what "auto" means on a device, without torch where possible."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from locbench.errors import UserError

CPU_INFO = Path("/proc/cpuinfo")
# A driver's files: where there are any, torch is asked what the GPU can do.
GPU_FILES = tuple(map(Path, ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")))
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}  # as recipes and as records call them
BF16_FLAGS = {"avx512_bf16", "amx_tile"}  # of processors that multiply bf16 in hardware


def resolved_precision(setting: str, device: str) -> str:
    """fp32 or bf16, for a recipe's training.precision on a device of --device."""
    if setting != "auto":
        return setting
    return "bf16" if _multiplies_bf16(device) else "fp32"


@cache
def _multiplies_bf16(device: str) -> bool:
    """Whether bf16 is fast there, as `training.guard.has_fast_bf16` has it."""
    if device == "cpu" or (device == "auto" and not any(path.exists() for path in GPU_FILES)):
        try:
            lines = CPU_INFO.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        flags = next((set(line.split()) for line in lines if line.startswith("flags")), None)
        if flags is not None:
            return bool(flags & BF16_FLAGS)
    from locbench.training.guard import has_fast_bf16, pick_device

    try:
        return has_fast_bf16(pick_device(device))
    except UserError:  # a GPU that is not here, as in a plan for another machine
        return True
