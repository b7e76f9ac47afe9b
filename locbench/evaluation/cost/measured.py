"""Measures training steps on this machine: images a second, overhead over another rule, memory.

Every measurement runs in a process of its own, started from one that has only loaded the code: no
earlier measurement affects it, and the resident set is its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch

from locbench.environment import environment
from locbench.errors import RunFailed, UserError
from locbench.evaluation.cost.case import Case
from locbench.evaluation.cost.counts import GIGA
from locbench.evaluation.cost.memory import PeakMemory
from locbench.evaluation.cost.traced import VIEWS, autocast_of, set_up, trace
from locbench.plugins.entry import Entry
from locbench.plugins.registry import RULES
from locbench.plugins.rule_source import one_line
from locbench.training.captured import PLAIN, CapturedEngine, stepping
from locbench.training.engine import Engine
from locbench.training.guard import out_of_memory, pick_device
from locbench.training.optimizers import make_optimizer
from locbench.training.saved_bytes import allocation_peak

ROUNDS = 3  # steps that are timed of each rule, in turns
FINEST = 0.01  # of the least memory that a GPU has to have


def machine(name: str) -> str:
    """The hardware of this device, in words."""
    device = pick_device(name)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{environment()['processor'] or 'a CPU'}, {torch.get_num_threads()} threads"


def measure(case: Case, over: Case | None, device: str) -> dict[str, float]:
    """The figures of a step on this machine, in the precision of `autocast_of`, of noise.

    images_per_s, of the median step (with the optimizer's), taken as training takes it: on a GPU
    captured. wall_clock_overhead in percent of the step of `over`, timed in turns with it: the
    median, the lowest and the highest of ROUNDS. Without `over` 0: itself. predicted_gigabytes is
    what `trace` says, allocated_gigabytes what the allocator's peak was, and allocated_share their
    ratio in percent. resident_gigabytes is the process's largest resident set over plain steps, of
    a CPU; of a GPU gpu_memory is all that was allocated at once (weights and optimizer too),
    gpu_memory_reserved what torch kept of the GPU, and gpu_memory_least the least that it can do
    with.

    Raises RunFailed where memory runs out.
    """
    rules = {x.rule: RULES.entry(x.rule) for x in (case, over) if x is not None}
    return in_a_process(_measure, rules, case, over, device)


def _measure(
    rules: dict[str, Entry], case: Case, over: Case | None, device_name: str
) -> dict[str, float]:
    RULES.entries.update({name: rule for name, rule in rules.items() if rule.source})
    device = pick_device(device_name)
    if device.type == "cuda" and device.index is None:  # a share of memory is of a GPU by number
        device = torch.device("cuda", torch.cuda.current_device())
    step = _Step(case, device)
    step.run()  # what is made once, such as the optimizer's state, is made here
    memory = PeakMemory(device)
    step.run()
    peak = memory.read()
    figures = _of_gpu(step, peak) if device.type == "cuda" else _of_cpu(step, peak)
    figures |= _speed(step, rival=_Step(over, device) if over else None)
    traced = trace(case)
    predicted = traced.peak_bytes / GIGA
    return figures | {
        "predicted_gigabytes": predicted,
        "saved_gigabytes": traced.saved_bytes / GIGA,
        "allocated_share": 100 * figures["allocated_gigabytes"] / predicted,
    }


class _Step:
    """A network on a device, which can take training steps."""

    def __init__(self, case: Case, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device, self.setting = device, set_up(case, device=device)
        self.images = len(self.setting.batch.images) // VIEWS[case.recipe.gives]
        blocks, precision = self.setting.network.blocks, autocast_of(case.recipe)
        self.engine = Engine(blocks, self.setting.units, precision)
        self.stepping: Engine | CapturedEngine = self.engine
        self.optimizer = make_optimizer(self.engine.parameters(), case.recipe.optimizer)

    def run(self) -> float:
        """Take a step as in training; the seconds it took."""
        start = time.perf_counter()
        self.clear()
        self.gradients()
        self.optimizer.step()
        self.wait()
        return time.perf_counter() - start

    def clear(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> None:
        self.stepping.step(self.setting.batch)

    def speed_up(self) -> None:
        """Take steps from now on as training does on this device: on a GPU captured."""
        self.stepping = stepping(self.engine, self.device)
        if self.stepping is not self.engine:
            for _ in range(1 + PLAIN):
                self.run()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _speed(step: _Step, *, rival: _Step | None) -> dict[str, float]:
    """Steps of both in turns, so that other work on the machine slows both."""
    seconds, ratios = [], []
    step.speed_up()
    if rival is not None:
        rival.run()
        rival.speed_up()
    for _ in range(ROUNDS):
        other = None if rival is None else rival.run()
        seconds.append(step.run())
        ratios.append(100 * (seconds[-1] / other - 1) if other else 0.0)
    return {
        "images_per_s": step.images / statistics.median(seconds),
        "wall_clock_overhead": statistics.median(ratios),
        "wall_clock_overhead_low": min(ratios),
        "wall_clock_overhead_high": max(ratios),
    }


def _of_cpu(step: _Step, peak: dict[str, int]) -> dict[str, float]:
    step.clear()
    with _quiet():
        allocated = allocation_peak(step.gradients)
    return {
        "allocated_gigabytes": allocated / GIGA,
        "resident_gigabytes": peak["peak_resident_bytes"] / GIGA,
    }


def _of_gpu(step: _Step, peak: dict[str, int]) -> dict[str, float]:
    reserved = torch.cuda.max_memory_reserved(step.device)
    step.clear()
    before = torch.cuda.memory_allocated(step.device)
    torch.cuda.reset_peak_memory_stats(step.device)
    step.gradients()
    step.wait()
    allocated = torch.cuda.max_memory_allocated(step.device) - before
    whole = torch.cuda.get_device_properties(step.device).total_memory

    def runs_in(share: float) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(share, step.device)
        try:
            step.run()
        except torch.OutOfMemoryError:
            step.clear()
            return False
        return True

    least = least_that(runs_in, 0.0, min(1.0, reserved / whole))
    torch.cuda.set_per_process_memory_fraction(1.0, step.device)
    return {
        "allocated_gigabytes": allocated / GIGA,
        "gpu_memory": peak["peak_allocated_bytes"] / GIGA,
        "gpu_memory_reserved": reserved / GIGA,
        "gpu_memory_least": least * whole / GIGA,
    }


def least_that(works: Callable[[float], bool], low: float, high: float) -> float:
    """The least number above `low` that works, to 1 %; `high` does, and so does what is above."""
    while high - low > FINEST * high:
        middle = (low + high) / 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's profiler, which writes to stderr past Python; no setting stops it."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def in_a_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns, from a process of its own; what it raises is raised here.

    RunFailed where memory ran out, and where that process was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, work, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        succeeded, result = receiver.recv()
    except EOFError:
        process.join()
        raise RunFailed(
            f"the process that measured ended with code {process.exitcode}: if the system ended it "
            "for want of memory, a smaller training.batch helps"
        ) from None
    finally:
        process.kill()
        receiver.close()
    process.join()
    if not succeeded:
        raise result
    return result


def _send(sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits says that it was stopped
    try:
        sender.send((True, work(*arguments)))
    except Exception as error:
        sender.send((False, _portable(error)))


def _portable(error: Exception) -> Exception:
    """An error that can go to another process."""
    if isinstance(error, UserError):
        return error
    if out_of_memory(error):
        return RunFailed("out of memory; set a smaller training.batch")
    return RunFailed(one_line(error))
