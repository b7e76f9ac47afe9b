"""Parameters and multiply-adds of modules; both are exact counts, not measurements."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

CONV_AND_LINEAR = ("conv", "linear")

aten = torch.ops.aten

# What torch's counter has no formula of: its name here, and multiply-adds for an element of the
# input and of the output, as fvcore counts them. Pooling to one element runs as a mean.
FURTHER = {
    aten.native_batch_norm: ("batch_norm", 2, 0),
    aten._adaptive_avg_pool2d: ("adaptive_avg_pool2d", 1, 0),
    aten.mean: ("adaptive_avg_pool2d", 1, 0),
    aten.upsample_bilinear2d: ("upsample_bilinear2d", 0, 4),
}


def parameters(modules: nn.Module | Iterable[nn.Module]) -> int:
    """The number of parameters of a module, or of several together, each counted once."""
    each = {id(tensor): tensor for module in _chain(modules) for tensor in module.parameters()}
    return sum(tensor.numel() for tensor in each.values())


def multiply_adds(
    modules: nn.Module | Iterable[nn.Module],
    shape: Sequence[int],
    operators: Collection[str] = CONV_AND_LINEAR,
) -> int:
    """Multiply-adds of one forward pass, in evaluation mode, on one input of this shape (no batch).

    `modules`: one, or several of which each takes the output of the one before.
    `operators` are what is counted: "conv"; "linear", which is every matrix product; "batch_norm",
    2 an element; "adaptive_avg_pool2d", which is a mean too, 1 an input element;
    "upsample_bilinear2d", 4 an output element. A multiply-add counts as one.
    Runs on the meta device, whatever device and precision the modules have; they are not changed
    or copied, and no random number is drawn.
    """
    return sum(multiply_adds_of_each(modules, shape, operators))


def multiply_adds_of_each(
    modules: nn.Module | Iterable[nn.Module],
    shape: Sequence[int],
    operators: Collection[str] = CONV_AND_LINEAR,
) -> list[int]:
    """`multiply_adds`, for each module apart."""
    return [total(counts, operators) for counts, _ in operations_of_each(modules, shape)]


def operations_of_each(
    modules: nn.Module | Iterable[nn.Module], shape: Sequence[int]
) -> list[tuple[Counter[str], tuple[int, ...]]]:
    """Of each module, as for `multiply_adds`: the counts by operator, and the output's shape.

    The shape is without the batch.
    """
    each = []
    features = torch.empty(1, *shape, device="meta")
    for module in _chain(modules):
        with _CountingMode() as mode:
            features = _run(module, features)
        each.append((mode.counts, tuple(features.shape[1:])))
    return each


def total(counts: Counter[str], operators: Collection[str]) -> int:
    """The multiply-adds of these operators."""
    return sum(counts[name] for name in operators)


def torch_multiply_adds(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Multiply-adds of an operator that torch's counter has a formula of; of others 0."""
    formula = flop_registry.get(func.overloadpacket)
    return formula(*args, **kwargs, out_val=out) // 2 if formula else 0  # torch counts two for each


class _CountingMode(TorchDispatchMode):
    """Counts the multiply-adds of all operators, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket is aten.native_batch_norm:
            out = 3 * (torch.empty_like(args[0]),)  # of its shape: the meta kernel itself is slow
        else:
            out = func(*args, **kwargs)
        if func.overloadpacket in FURTHER:
            name, of_input, of_output = FURTHER[func.overloadpacket]
            result = out[0] if isinstance(out, tuple) else out
            self.counts[name] += of_input * args[0].numel() + of_output * result.numel()
        elif count := torch_multiply_adds(func, args, kwargs, out):
            self.counts["conv" if func.overloadpacket is aten.convolution else "linear"] += count
        return out


def _chain(modules: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    return [modules] if isinstance(modules, nn.Module) else list(modules)


def _run(module: nn.Module, features: Tensor) -> Tensor:
    """The output in evaluation mode, computed with fp32 tensors without content."""
    tensors = {
        name: torch.empty_like(
            tensor, device="meta", dtype=torch.float32 if tensor.is_floating_point() else None
        )
        for name, tensor in chain(module.named_parameters(), module.named_buffers())
    }
    with torch.no_grad(), torch.device("meta"), _evaluating(module):
        return functional_call(module, tensors, (features,))


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
