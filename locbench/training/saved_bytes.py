"""Memory held for the backward pass: what autograd saved, and what the allocator saw.

The two measure apart from each other: `SavedBytes` counts the tensors themselves, exactly and on
any device, and `allocation_peak` confirms it by the allocator's own events.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile


class SavedBytes:
    """Counts the bytes alive that autograd saved for a backward pass, of graphs built inside.

    A storage counts once, in full, from when it is first saved until autograd has let go of it
    (after the backward pass, or with the graph, also after the context has ended). What shares a
    storage with one of `exclude` (modules, for their parameters and buffers, or tensors) does not
    count; autocast's copies of parameters do. What torch.utils.checkpoint recomputes is not seen:
    it hangs hooks of its own.

    current: bytes saved now. peak: the most there were.
    """

    def __init__(self, exclude: nn.Module | Iterable[nn.Module | Tensor] = ()) -> None:
        # The storages themselves are kept, so that no other can take the place of one of them.
        self._excluded = {
            storage_key(tensor): tensor.untyped_storage() for tensor in tensors_of(exclude)
        }
        self._handles: Counter[int] = Counter()  # handles alive, by storage
        self.current = 0
        self.peak = 0

    def __enter__(self) -> SavedBytes:
        self._hooks = saved_tensors_hooks(self._pack, _unpack)
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hooks.__exit__(kind, error, traceback)

    def _pack(self, tensor: Tensor) -> Tensor | _Handle:
        if storage_key(tensor) in self._excluded:
            return tensor.detach()
        return _Handle(self, tensor)

    def _hold(self, key: int, size: int) -> None:
        self._handles[key] += 1
        if self._handles[key] == 1:
            self._change(size)

    def _release(self, key: int, size: int) -> None:
        self._handles[key] -= 1
        if self._handles[key] == 0:
            del self._handles[key]  # its address may be another storage's next
            self._change(-size)

    def _change(self, size: int) -> None:
        self.current += size
        self.peak = max(self.peak, self.current)


class _Handle:
    """What autograd keeps in the place of a saved tensor; alive as long as the saved tensor."""

    def __init__(self, counter: SavedBytes, tensor: Tensor) -> None:
        # Without its graph: an output of the node that saves it would keep that node alive, and
        # the node this handle, a cycle that is never freed while the graph is retained.
        self.tensor = tensor.detach()
        self.counter = counter
        self.key = storage_key(tensor)
        self.size = tensor.untyped_storage().nbytes()
        counter._hold(self.key, self.size)

    def __del__(self) -> None:
        self.counter._release(self.key, self.size)


def tensors_of(items: nn.Module | Iterable[nn.Module | Tensor]) -> Iterator[Tensor]:
    """These tensors, and the parameters and buffers of these modules."""
    for item in [items] if isinstance(items, nn.Module) else items:
        if isinstance(item, nn.Module):
            yield from item.parameters()
            yield from item.buffers()
        else:
            yield item


def _unpack(packed: Tensor | _Handle) -> Tensor:
    return packed.tensor if isinstance(packed, _Handle) else packed


def storage_key(tensor: Tensor) -> int:
    """The identity of the tensor's storage (its address tells nothing on the meta device)."""
    return tensor.untyped_storage()._cdata


def allocation_peak(fn: Callable[[], object]) -> int:
    """The most bytes at once that `fn` allocated on the CPU and had not yet freed.

    Summed up from the allocator's events in a trace by torch's profiler, so it also counts what
    an operation needs only while it runs. Memory allocated before does not count, and freeing it
    takes nothing away: the allocator does not report that.
    """
    activities = [ProfilerActivity.CPU]
    with profile(activities=activities, profile_memory=True, acc_events=True) as profiler:
        fn()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    current = peak = 0
    for change in _changes_on_cpu(events):
        current += change
        peak = max(peak, current)
    return peak


def _changes_on_cpu(events: Iterable[dict]) -> list[int]:
    """Bytes allocated (or freed, below zero) by the trace's memory events, in order of time."""
    memory = [event for event in events if event.get("name") == "[memory]"]
    on_cpu = [event for event in memory if event["args"]["Device Type"] == 0]
    on_cpu.sort(key=lambda event: event["ts"])
    return [event["args"]["Bytes"] for event in on_cpu]
