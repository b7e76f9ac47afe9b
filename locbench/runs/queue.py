"""Which run comes next where others may be at some: one command, started twice, shares the work."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator

from locbench.locks import Holder, holder
from locbench.runs.record import FINAL
from locbench.runs.spec import RunSpec
from locbench.runs.store import Store

LOOK_AGAIN_S = 1.0


def in_turn(specs: Iterable[RunSpec], store: Store, taken: dict[str, Holder]) -> Iterator[RunSpec]:
    """Each run once, in this order but for those that another process is at, and what needs them.

    They come when they are done or free. Meanwhile there may be others to carry out; where there
    are none it waits, and says on stderr for whom. Parents have to stand before what needs them.
    Of a run that came and was another's already, the caller notes that in `taken`: it comes again.
    """
    left, told = list(specs), set()
    while left:
        busy: dict[str, Holder] = {}
        for spec in left:
            needed = busy.get(spec.parent.id) if spec.parent is not None else None
            who = needed or _other(spec, store)
            if who is None:
                yield spec
                who = taken.pop(spec.id, None)
            if who is None:
                continue
            busy[spec.id] = who
            if needed is None:
                _tell_once(f"{who} is at {spec.id}: other runs come first", told)
        later = [spec for spec in left if spec.id in busy]
        if len(later) == len(left):
            _tell_once(f"waiting for {busy[left[0].id]}, at {left[0].id}", told)
            time.sleep(LOOK_AGAIN_S)
        left = later


def _other(spec: RunSpec, store: Store) -> Holder | None:
    """The process that is at this run, where it is still to be carried out."""
    record = store.load(spec.id)
    if record is not None and record.status in FINAL:
        return None
    return holder(store.lock(spec.id))


def _tell_once(text: str, told: set[str]) -> None:
    if text not in told:
        print(f"locbench: {text}", file=sys.stderr)
        told.add(text)
