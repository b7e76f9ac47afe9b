"""Real steps on this machine: their time against another rule's, and the memory they take.

Every measurement is a process of its own, begun from one that has only loaded the code: what was
measured before leaves nothing behind, and the resident set is that of this one alone.
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
from locbench.evaluation.cost.traced import VIEWS, set_up, trace
from locbench.plugins.entry import Entry
from locbench.plugins.registry import RULES
from locbench.training.captured import PLAIN, CapturedEngine, stepping
from locbench.training.engine import Engine
from locbench.training.guard import out_of_memory, pick_device
from locbench.training.optimizers import make_optimizer
from locbench.training.saved_bytes import allocation_peak

ROUNDS = 3  # steps that are timed of each rule, in turns
FINEST = 0.01  # of the least memory that a GPU has to have


def machine(name: str) -> str:
    """The device of this name, for people."""
    device = pick_device(name)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{environment()['processor'] or 'a CPU'}, {torch.get_num_threads()} threads"


def measure(case: Case, over: Case | None, device: str) -> dict[str, float]:
    """A step's figures on this machine, fp32, of noise images.

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
    rules = {one.rule: RULES.entry(one.rule) for one in (case, over) if one is not None}
    return _apart(_measure_with, rules, case, over, device)


def _measure_with(rules: dict[str, Entry], *asked: Any) -> dict[str, float]:
    RULES.entries.update({name: rule for name, rule in rules.items() if rule.kind})
    return _measure(*asked)


def _measure(case: Case, over: Case | None, device: str) -> dict[str, float]:
    where = pick_device(device)
    if where.type == "cuda" and where.index is None:  # a share of memory is of a GPU by number
        where = torch.device("cuda", torch.cuda.current_device())
    own = _Step(case, where)
    own.run()  # what is made once, such as the optimizer's state, is made here
    memory = PeakMemory(where)
    own.run()
    peak = memory.read()
    found = _of_gpu(own, peak) if where.type == "cuda" else _of_cpu(own, peak)
    found |= _speed(own, _Step(over, where) if over else None)
    traced = trace(case)
    found["predicted_gigabytes"] = traced.peak_bytes / GIGA
    found["saved_gigabytes"] = traced.saved_bytes / GIGA
    found["allocated_share"] = 100 * found["allocated_gigabytes"] / found["predicted_gigabytes"]
    return found


class _Step:
    """A network on a device, which can take training steps."""

    def __init__(self, case: Case, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device, self.setting = device, set_up(case, device=device)
        self.images = len(self.setting.batch.images) // VIEWS[case.recipe.gives]
        self.engine = Engine(self.setting.network.blocks, self.setting.units)
        self.stepping: Engine | CapturedEngine = self.engine
        self.optimizer = make_optimizer(self.engine.parameters(), case.recipe.optimizer)

    def run(self) -> float:
        """A step as in training; the seconds it took."""
        began = time.perf_counter()
        self.clear()
        self.gradients()
        self.optimizer.step()
        self.wait()
        return time.perf_counter() - began

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


def _speed(own: _Step, rival: _Step | None) -> dict[str, float]:
    """Steps in turns, so that what else the machine does meets both."""
    took, ratios = [], []
    own.speed_up()
    if rival is not None:
        rival.run()
        rival.speed_up()
    for _ in range(ROUNDS):
        other = None if rival is None else rival.run()
        took.append(own.run())
        ratios.append(100 * (took[-1] / other - 1) if other else 0.0)
    return {
        "images_per_s": own.images / statistics.median(took),
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
    there = torch.cuda.memory_allocated(step.device)
    torch.cuda.reset_peak_memory_stats(step.device)
    step.gradients()
    step.wait()
    allocated = torch.cuda.max_memory_allocated(step.device) - there
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
    """Torch's profiler says on stderr what nobody asked for, past Python; no setting stops it."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _apart(work: Callable[..., Any], *given: Any) -> Any:
    """What `work` returns, from a process of its own; what it raises is raised here.

    RunFailed where memory ran out, and where that process was killed.
    """
    context = _context()
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_reported, args=(there, work, given), daemon=True)
    process.start()
    there.close()
    try:
        succeeded, result = here.recv()
    except EOFError:
        process.join()
        raise RunFailed(
            f"the process that measured ended with code {process.exitcode}: if the system ended it "
            "for want of memory, a smaller training.batch helps"
        ) from None
    finally:
        process.kill() if process.is_alive() else None
        here.close()
    process.join()
    if not succeeded:
        raise result
    return result


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _reported(there: Connection, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits says that it was stopped
    try:
        there.send((True, work(*given)))
    except Exception as error:
        there.send((False, _told(error)))


def _told(error: Exception) -> Exception:
    """An error that can go to another process."""
    if isinstance(error, UserError):
        return error
    if out_of_memory(error):
        return RunFailed("out of memory; set a smaller training.batch")
    return RunFailed(" ".join(f"{type(error).__name__}: {error}".split()))
