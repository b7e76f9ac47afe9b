"""Executor: carries out runs one after the other, whatever happens on the way."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from locbench.distributed import group as processes
from locbench.environment import environment
from locbench.errors import RunFailed, UserError
from locbench.locks import Busy, alone
from locbench.plugins.registry import NETWORKS, RULES
from locbench.plugins.rule_errors import blamed
from locbench.runs.context import Context, Progress
from locbench.runs.queue import Queue
from locbench.runs.record import FINAL, Record, timestamp
from locbench.runs.spec import RunSpec
from locbench.runs.store import Store

if TYPE_CHECKING:
    import torch

    from locbench.runs.kinds.base import Kind, Tell

NOTE_EVERY_S = 20.0


class Watch:
    """Who is told of runs as they begin and end. This one says nothing."""

    def start(self, spec: RunSpec) -> Progress:
        """A run begins; what is returned takes steps done, steps in all, and current figures."""
        return lambda done, total, figures: None

    def preparing(self, what: str, done: int, total: int) -> None:
        """Data is drawn, read or decoded."""

    def done(self, spec: RunSpec, record: Record) -> None:
        """A run has ended."""


def to_run(specs: Sequence[RunSpec], store: Store) -> list[RunSpec]:
    """Those without a final record."""
    records = ((spec, store.load(spec.id)) for spec in specs)
    return [spec for spec, record in records if record is None or record.status not in FINAL]


def carry_out(specs: Sequence[RunSpec], context: Context, watch: Watch) -> list[str]:
    """Carry out the runs that have no record yet; one line for each that failed.

    Those that others need stand before them; a run that fails ends only what depends on it. What
    another process is at is left to it as long as there is anything else to do: the same command,
    started twice, shares the work. Under torchrun the first process comes back, and the others
    follow it and end.
    """
    with processes.joined(context.device) as group:
        if not group.leads:
            follow(group, context)
            raise SystemExit(0)
        waiting = to_run(specs, context.store)
        for spec in waiting:
            spec.of.check_images(spec, processes.launched())
            spec.of.check_early(spec, context)
        missing = {spec.id for spec in waiting}
        context.progress, context.preparing, context.patient = watch.start, watch.preparing, False
        queue, failures, lost = Queue(specs, context.store), [], set()
        for spec in queue:
            if spec.parent is not None and spec.parent.id in lost:
                lost.add(spec.id)
                continue
            try:
                record = execute(spec, context)
            except Busy as error:
                queue.leave(spec, to=error.who)
            except RunFailed as error:
                if _left_others_waiting(spec, context.store):
                    raise
                lost.add(spec.id)
                failures.append(_with_id(spec, str(error)))
            else:
                if spec.id in missing:
                    watch.done(spec, record)
    return failures


def _with_id(spec: RunSpec, message: str) -> str:
    return message if spec.id in message else f"{spec.id}: {message}"


def _left_others_waiting(spec: RunSpec, store: Store) -> bool:
    """Whether a run failed in this process alone, and the others wait in the middle of it."""
    record = store.load(spec.id)
    # One that was refused has no record: it was not begun. What diverged did so in all of them.
    begun = record is not None and record.status != "diverged"
    return processes.launched() > 1 and spec.of.shared and begun


def failure(lines: list[str]) -> RunFailed:
    """The failures of a plan as one error of one line."""
    more = f"; and {len(lines) - 1} more: see `locbench list runs`" if len(lines) > 1 else ""
    return RunFailed(lines[0] + more)


def execute(spec: RunSpec, context: Context) -> Record:
    """The finished record of this run: from the store if it is there, else by running it.

    A run that was stopped or failed goes on from its checkpoint; one that another process is at is
    waited for, or raises Busy where the context is not patient. The record is written when the
    run starts, now and then, and when it ends: `done`, `diverged` (raises Diverged) or `failed`
    (raises what went wrong). Stopped by the user it stays `running`. torch is imported only where
    it is run.
    """
    store = context.store
    if (record := store.finished(spec.id)) is not None:
        store.tidy(record)
        return record
    from locbench.training.guard import pick_device

    device = pick_device(context.device)
    spec.of.check(spec, context, device)  # what is wrong with the data is not the run's fault
    store.prepare()
    store.folder(spec.id).mkdir(exist_ok=True)
    lock = alone(store.lock(spec.id), f"at {spec.id}", context.patient)
    with lock, processes.together(spec.of.shared):
        if (record := store.finished(spec.id)) is not None:
            return record
        record = _new_record(spec, context, device)
        store.save(record)
        store.tidy(record)
        if spec.of.trains:  # before it is built: what fails there is looked for in it
            RULES.entry(spec.rule).keep(store.folder(spec.id))
        try:
            with _status(record, spec, context):
                _run(spec, context, record, device)
        finally:
            record.finished = None if record.status == "running" else timestamp()
            store.save(record)
        store.checkpoint(spec.id).unlink(missing_ok=True)
    return record


def _run(spec: RunSpec, context: Context, record: Record, device: torch.device) -> None:
    """Build, run and finish, with what it costs noted in the record."""
    from locbench.evaluation.cost.memory import PeakMemory

    memory, began = PeakMemory(device), time.monotonic()
    with _blamed(spec):
        run = spec.of(spec, context, device)
        if run.shared:
            processes.share(spec)
        run.begin(record)
        context.store.save(record)
        try:
            run.run(_noting(run, record))
        finally:
            run.note(record)
        run.finish(record)
    if not run.apart:
        record.cost.update(memory.read())
    record.cost.setdefault("wall_time_s", round(time.monotonic() - began, 2))
    record.status = "done"


def follow(group: processes.Group, context: Context) -> None:
    """What the other processes of torchrun do: their part of the runs that are shared."""
    from locbench.training.guard import Diverged, out_of_memory, pick_device

    device = pick_device(context.device)
    for spec in group.works():
        # What diverges does so in all of them, and the leader says so.
        with processes.together(), contextlib.suppress(Diverged):
            try:
                with _blamed(spec):
                    spec.of(spec, context, device).run(lambda *_: None)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                raise _memory_full(spec, context) from error


def _blamed(spec: RunSpec) -> contextlib.AbstractContextManager[None]:
    from locbench.training.guard import out_of_memory

    return blamed(spec.rule, out_of_memory, RunFailed)


@contextmanager
def _status(record: Record, spec: RunSpec, context: Context) -> Iterator[None]:
    """What ended the run, in its record."""
    from locbench.training.guard import Diverged, out_of_memory

    try:
        yield
    except Diverged as error:
        record.status, record.error = "diverged", str(error)
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and out_of_memory(error):
            record.status, record.error = "failed", "out of memory"
            raise _memory_full(spec, context) from error
        record.status, record.error = "failed", _one_line(error)
        if isinstance(error, UserError) and RULES.is_external(spec.rule):
            raise RunFailed(str(error)) from error  # its rows fail, and no others
        raise


def _memory_full(spec: RunSpec, context: Context) -> RunFailed:
    return RunFailed(
        f"{spec.id}: {context.device} is out of memory; set a smaller {spec.of.memory_keys} with "
        "--set, or another --device"
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _noting(run: Kind, record: Record) -> Tell:
    """The run's progress, which also notes the figures and writes the record now and then."""
    progress, written = run.context.progress(run.spec), time.monotonic()

    def tell(done: int, total: int, figures: dict[str, float]) -> None:
        nonlocal written
        progress(done, total, figures)
        run.note(record)
        if time.monotonic() - written > NOTE_EVERY_S:
            run.context.store.save(record)
            written = time.monotonic()

    return tell


def _new_record(spec: RunSpec, context: Context, device: torch.device) -> Record:
    """A record with status `running`; a run that goes on keeps the date when it was first begun."""
    import torch

    before, recipe = context.store.load(spec.id), spec.recipe.as_dict()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    record = Record(
        id=spec.id,
        kind=spec.kind,
        status="running",
        scale=spec.scale,
        seed=spec.seed,
        parent=spec.parent.id if spec.parent else None,
        identity=spec.identity,
        recipe=recipe,
        recipe_hash=spec.recipe.hash,
        rule={"name": spec.rule, "settings": dict(spec.recipe.rule)},
        network={"name": spec.network, **recipe["network"]},
        data=spec.of.data_tags(spec, context.data(spec)),
        tags={"epoch": "last", "precision": "float32", "processes": processes.world_size()},
        environment=environment(device=name, threads=torch.get_num_threads()),
        created=before.created if before is not None else timestamp(),
    )
    if spec.rule in RULES:
        record.rule |= RULES.entry(spec.rule).provenance()
    if spec.network:
        record.network["version"] = NETWORKS.entry(spec.network).version
    return record
