"""Splits too large to decode beforehand: the images of a batch are decoded when it is read."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from locbench.data.cuts import Cut
from locbench.data.files import Files, threads
from locbench.data.images import guarded, picture_of
from locbench.distributed.group import local_world_size


class StreamingSplit:
    """Images decoded on a pool of threads, each whole; of each the cut's views are kept.

    rows: which of the files they are, in order (None: all). square: the side of images that are all
    squares of one size, as far as a sample shows; else 0.
    """

    cuts = True  # what `start` gives has been cut out already

    def __init__(
        self, files: Files, targets: Tensor, *, square: int = 0, rows: Tensor | None = None
    ) -> None:
        self.files, self.targets, self.square = files, targets, square  # targets: int64 [N]
        self.rows = torch.arange(len(targets)) if rows is None else rows
        workers = max(1, threads() // local_world_size())
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, indices: Tensor) -> StreamingSplit:
        """The split of these images alone."""
        targets, rows = self.targets[indices], self.rows[indices]
        return StreamingSplit(self.files, targets, square=self.square, rows=rows)

    def start(self, indices: Tensor, make_cut: Callable[[], Cut]) -> Callable[[], Tensor]:
        """Begin to decode the images at `indices`; what is given waits for them.

        It gives uint8 [views * B, 3, side, side] on the CPU, channels last, the first views of all
        images first. UserError names an image that does not decode.
        """
        cut, rows = make_cut(), self.rows[indices.cpu()].tolist()
        views = np.empty((cut.views, len(rows), cut.side, cut.side, 3), dtype=np.uint8)

        def work(row: int, data: bytes) -> None:
            for view, picture in zip(views, cut(row, picture_of(data)), strict=True):
                view[row] = picture

        futures = [
            self._pool.submit(guarded, self.files, partial(work, row), index)
            for row, index in enumerate(rows)
        ]
        return partial(
            _complete, futures, torch.from_numpy(views).flatten(0, 1).permute(0, 3, 1, 2)
        )


def _complete(futures: list[Future[None]], views: Tensor) -> Tensor:
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()
    return views
