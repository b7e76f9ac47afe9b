"""Several processes at one plan: each takes what is free, and what is another's comes when done."""

from contextlib import ExitStack

import pytest
from fabricate import record

from locbench.errors import UserError
from locbench.locks import Busy, Holder, alone
from locbench.paths import runs_dir
from locbench.published.load import load_table
from locbench.runs import queue
from locbench.runs.context import Context
from locbench.runs.executor import Watch, carry_out
from locbench.runs.plan import Options, make_plan
from locbench.runs.queue import Queue
from locbench.runs.store import Store


@pytest.fixture
def store():
    return Store(runs_dir())


@pytest.fixture
def specs():
    options = Options(rows="gim", columns="linear_top1")
    found = make_plan(load_table("loco/table1"), options).runs()
    assert [spec.kind for spec in found] == ["pretrain", "probe"] * 2 + ["probe"] * 2 + ["pixels"]
    return found


@pytest.fixture
def others(store, monkeypatch):
    """Locks that other processes have; they end when the last of what is free was taken."""
    with ExitStack() as stack:
        monkeypatch.setattr(queue.time, "sleep", lambda seconds: stack.close())
        yield lambda spec: stack.enter_context(alone(store.lock(spec.id), "at it"))


def test_alone_it_is_the_plans_order(store, specs):
    assert list(Queue(specs, store)) == specs and not store.root.exists()


def test_what_another_is_at_comes_last_with_what_needs_it(store, specs, others, capsys):
    others(specs[0])
    assert list(Queue(specs, store)) == [*specs[2:], *specs[:2]]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("locbench: process ") and first.endswith(
        f" is at {specs[0].id}: other runs come first"
    )
    assert second.startswith("locbench: waiting for process ")
    assert second.endswith(f", at {specs[0].id}")


def test_what_was_done_meanwhile_is_not_waited_for(store, specs, others):
    others(specs[0])
    given = []
    for spec in Queue(specs, store):
        given.append(spec)
        if spec is specs[-1]:
            store.save(record(specs[0]))  # by the process that still has the lock
    assert given == [*specs[2:], *specs[:2]]
    others(specs[2])
    store.save(record(specs[2], status="diverged", error="x"))
    assert next(iter(Queue(specs[2:], store))) == specs[2], "nothing is left to do there"


def test_who_was_quicker_is_left_the_run(store, specs, others, monkeypatch):
    """Between the look at a lock and its taking lies the import of torch."""
    turns, given = Queue(specs, store), []
    for spec in turns:
        if given.count(specs[0].id) == 0 and spec is specs[0]:
            turns.leave(spec, to=Holder("far", "", 7, "noon"))
            others(spec)
        given.append(spec.id)
    ids = [spec.id for spec in specs]
    assert given == [ids[0], *ids[2:], *ids[:2]]


def test_a_plan_is_shared_and_what_the_other_did_is_used(store, specs, monkeypatch):
    mine = []

    def execute(spec, context):
        assert not context.patient
        if spec.id == specs[2].id and not mine.count(spec.id):
            mine.append(spec.id)
            raise Busy(Holder("far", "", 7, "noon"))
        found = store.finished(spec.id)
        assert spec.parent is None or store.finished(spec.parent.id)
        if found is None:
            mine.append(spec.id)
            store.save(found := record(spec))
        return found

    monkeypatch.setattr("locbench.runs.executor.execute", execute)
    monkeypatch.setattr(queue.time, "sleep", lambda seconds: store.save(record(specs[0])))
    seen = []

    class Noting(Watch):
        def done(self, spec, record):
            seen.append(spec.id)

    with alone(store.lock(specs[0].id), "at it"):
        lines = carry_out(specs, Context(store), Noting())
    ids = [spec.id for spec in specs]
    assert lines == [] and sorted(seen) == sorted(ids)
    assert ids[0] not in mine, "the other process did it"
    assert seen.index(ids[4]) < seen.index(ids[2]), "others came first"


def test_fresh_moves_nothing_that_is_being_made(store, specs):
    from locbench.cli.actions import set_aside

    for spec in specs[:2]:
        store.save(record(spec, status="running"))
    with alone(store.lock(specs[1].id), "at it"):
        with pytest.raises(UserError, match=rf"process \d+ on .+ is at {specs[1].id}: stop it or"):
            set_aside(specs, store)
        assert store.ids() == sorted(spec.id for spec in specs[:2])
    set_aside(specs, store)
    assert store.ids() == []
