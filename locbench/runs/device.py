"""The device that runs would be on: its name in records, and the memory of a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from locbench.errors import UserError
from locbench.runs.precision import GPU_FILES


@dataclass(frozen=True)
class Hardware:
    """A device by its name in records; None for a GPU that is not here. `gpu_bytes` of a GPU."""

    name: str | None
    gpu_bytes: int | None = None


def hardware(device: str) -> Hardware:
    """What --device is on this machine; torch is imported only where there is a GPU."""
    if device == "cpu" or (device == "auto" and not any(path.exists() for path in GPU_FILES)):
        return Hardware("cpu")
    from locbench.evaluation.cost.memory import memory_of
    from locbench.training.guard import pick_device

    try:
        chosen = pick_device(device)
    except UserError:  # as in a plan for another machine
        return Hardware(None)
    if chosen.type == "cpu":
        return Hardware("cpu")
    import torch

    return Hardware(torch.cuda.get_device_name(chosen), memory_of(chosen))
