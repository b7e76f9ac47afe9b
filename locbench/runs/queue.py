"""Work queue: which run comes next when several processes share a table."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from locbench.locks import Holder, holder
from locbench.runs.record import FINAL
from locbench.runs.spec import RunSpec
from locbench.runs.store import Store

LOOK_AGAIN_S = 1.0


class Queue:
    """Each run once, in order, but for those that another process is at, and what needs them.

    They come when they are done or free. Where there are no others meanwhile it waits, and says on
    stderr for whom. Parents have to stand before what needs them.
    """

    def __init__(self, specs: Sequence[RunSpec], store: Store) -> None:
        self.specs, self.store = list(specs), store
        self._left: dict[str, Holder] = {}
        self._messages: set[str] = set()

    def leave(self, spec: RunSpec, *, to: Holder) -> None:
        """The run that just came was another process's already: it comes again."""
        self._left[spec.id] = to

    def __iter__(self) -> Iterator[RunSpec]:
        waiting = self.specs
        while waiting:
            busy: dict[str, Holder] = {}
            for spec in waiting:
                of_parent = busy.get(spec.parent.id) if spec.parent is not None else None
                other = of_parent or self._other(spec)
                if other is None:
                    yield spec
                    other = self._left.pop(spec.id, None)
                if other is None:
                    continue
                busy[spec.id] = other
                if of_parent is None:
                    self._say_once(f"{other} is at {spec.id}: other runs come first")
            still = [spec for spec in waiting if spec.id in busy]
            if len(still) == len(waiting):
                self._say_once(f"waiting for {busy[waiting[0].id]}, at {waiting[0].id}")
                time.sleep(LOOK_AGAIN_S)
            waiting = still

    def _other(self, spec: RunSpec) -> Holder | None:
        """The process that is at this run, where it is still to be carried out."""
        record = self.store.load(spec.id)
        if record is not None and record.status in FINAL:
            return None
        return holder(self.store.lock(spec.id))

    def _say_once(self, text: str) -> None:
        if text not in self._messages:
            print(f"locbench: {text}", file=sys.stderr)
            self._messages.add(text)
