"""Safety of a run: no step on a non-finite loss; device and precision as the machine has them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from locbench.errors import RunFailed, UserError


class FiniteGuard:
    """Takes optimizer steps until a loss is not finite; from then on weights stay as they are.

    Decided on the device, so that no step waits for it; `LossDiverged` is raised when the losses
    are next read.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], device: torch.device) -> None:
        self.parameters = list(parameters)
        self.before: list[Tensor] = []  # made when they are needed
        self.alive = torch.ones((), dtype=torch.bool, device=device)

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer, losses: Tensor) -> None:
        """One optimizer step, on the device left out or undone if any loss was not finite."""
        self.alive &= losses.isfinite().all()
        if optimizer.defaults.get("fused"):  # leaves a whole step out by itself, without copies
            optimizer.found_inf = (~self.alive).float()
            optimizer.step()
            return
        self.before = self.before or [torch.empty_like(p) for p in self.parameters]
        torch._foreach_copy_(self.before, self.parameters)
        optimizer.step()
        for parameter, before in zip(self.parameters, self.before, strict=True):
            torch.where(self.alive, parameter, before, out=parameter)


class Diverged(RunFailed):
    """A number that a run computes was not finite: it stops, and its record says `diverged`."""


class LossDiverged(Diverged):
    """A unit's loss was not finite: the run stops with the weights of the last good step.

    Steps count from 1, as in curves and in progress.
    """

    def __init__(self, unit: str, step: int) -> None:
        super().__init__(
            f"the loss of {unit} was not finite at step {step}; the weights are those before it. "
            f"Lower optimizer.lr or lengthen schedule.warmup_epochs"
        )


class WeightsDiverged(Diverged):
    """A gradient, and with it a weight, was not finite though every loss was."""

    def __init__(self, key: str, step: int) -> None:
        super().__init__(
            f"{key} was not finite after step {step}, though every loss was; "
            f"lower optimizer.lr or lengthen schedule.warmup_epochs"
        )


def pick_device(name: str) -> torch.device:
    """'auto', 'cpu', 'cuda' or 'cuda:1' as a device; UserError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name} is no device; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: torch {torch.__version__} sees no GPU; try --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: there are only {torch.cuda.device_count()} GPUs")
    return device


def out_of_memory(error: Exception) -> bool:
    """A GPU's has a class of its own; the CPU allocator's is known by its words only."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware (on CPUs: AVX512-BF16 or AMX)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def pick_precision(setting: str, device: torch.device) -> torch.dtype | None:
    """The autocast dtype for a recipe's training.precision: bf16, or None for fp32."""
    if setting not in ("auto", "fp32", "bf16"):
        raise UserError(f"training.precision = '{setting}' is unknown; use auto, fp32 or bf16")
    if setting == "bf16" or (setting == "auto" and has_fast_bf16(device)):
        return torch.bfloat16
    return None
