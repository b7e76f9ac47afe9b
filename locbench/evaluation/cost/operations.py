"""Parameters and multiply-adds of modules; both are exact counts, not measurements."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

CONV_AND_LINEAR = ("conv", "linear")


def parameters(modules: nn.Module | Iterable[nn.Module]) -> int:
    """The number of parameters of a module, or of several together, each counted once."""
    found = {id(tensor): tensor for module in _chain(modules) for tensor in module.parameters()}
    return sum(tensor.numel() for tensor in found.values())


def multiply_adds(
    modules: nn.Module | Iterable[nn.Module],
    shape: Sequence[int],
    operators: Collection[str] = CONV_AND_LINEAR,
) -> int:
    """Multiply-adds of one forward pass, in evaluation mode, on one input of this shape (no batch).

    `modules`: one, or several of which each takes the output of the one before.
    One multiply-add counts as one, as fvcore has it. `operators` are fvcore's names of what is
    counted: convolutions and linear layers, unless told otherwise ("batch_norm" adds 2 an
    element, "adaptive_avg_pool2d" 1 an input element). Works for modules on any device, meta
    included; the modules themselves are not run or changed, and no random number is drawn.
    """
    return sum(multiply_adds_of_each(modules, shape, operators))


def multiply_adds_of_each(
    modules: nn.Module | Iterable[nn.Module],
    shape: Sequence[int],
    operators: Collection[str] = CONV_AND_LINEAR,
) -> list[int]:
    """`multiply_adds`, for each module apart."""
    return [total(counted, operators) for counted, _ in operations_of_each(modules, shape)]


def operations_of_each(
    modules: nn.Module | Iterable[nn.Module], shape: Sequence[int]
) -> list[tuple[Counter[str], tuple[int, ...]]]:
    """Of each module, as for `multiply_adds`: fvcore's counts by operator, and the output's shape.

    The shape is without the batch.
    """
    found = []
    features = torch.zeros(1, *shape)
    for module in _chain(modules):
        twin = _twin(module)
        counted = _count(twin, features)
        with torch.no_grad():
            features = torch.zeros_like(twin(features))
        found.append((counted, tuple(features.shape[1:])))
    return found


def total(counted: Counter[str], operators: Collection[str]) -> int:
    """The multiply-adds of these operators."""
    return int(sum(counted[name] for name in operators))


def _chain(modules: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    return [modules] if isinstance(modules, nn.Module) else list(modules)


def _twin(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode, of zeros in memory of its own: fvcore has to run what it counts.

    (Tracing on the meta device fails in torch 2.12.) Given its tensors as already copied,
    deepcopy takes the zeros in their place.
    """
    tensors = [*module.parameters(), *module.buffers()]
    copied: dict[int, Tensor] = {}
    for tensor in tensors:
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        zeros = torch.zeros(tensor.shape, dtype=dtype)
        is_parameter = isinstance(tensor, nn.Parameter)
        copied[id(tensor)] = nn.Parameter(zeros, requires_grad=False) if is_parameter else zeros
    return copy.deepcopy(module, copied).eval()


def _count(module: nn.Module, features: Tensor) -> Counter[str]:
    analysis = FlopCountAnalysis(module, features)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return analysis.tracer_warnings("none").by_operator()
