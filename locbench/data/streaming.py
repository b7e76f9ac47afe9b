"""Splits too large to decode beforehand: the images of a batch are decoded when it is read."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from locbench.data.files import Files, threads
from locbench.data.images import decode, guarded
from locbench.distributed.group import local_world_size


class StreamingSplit:
    """Images decoded on a pool of threads: `batch` as of `Split`, and `prefetch` of the next one.

    An image is its short side resized to `side` (256 for ImageNet) and the centre square of that,
    so that a batch is one tensor. A random crop is then drawn from this square. Published protocols
    crop the original: there a crop can lie in the margins of an oblong image, its area is a share
    of the whole image, and a small crop holds more detail. JPEGs are shrunk by the decoder (by 2, 4
    or 8, never below `side`), which saves time and softens them a little.
    """

    def __init__(self, files: Files, targets: Tensor, side: int) -> None:
        self.files = files
        self.targets = targets  # int64 [N]
        self.side = side
        workers = max(1, threads() // local_world_size())
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._ahead: tuple[list[int], list[Future[np.ndarray]]] | None = None
        self._decode: Callable[[int], np.ndarray]
        self._decode = partial(guarded, files, partial(decode, side=side, fast=True))

    def __len__(self) -> int:
        return len(self.targets)

    def _submit(self, indices: list[int]) -> list[Future[np.ndarray]]:
        return [self._pool.submit(self._decode, index) for index in indices]

    def prefetch(self, indices: Tensor) -> None:
        """Begin to decode the next batch; `batch` of the same indices then only waits for it."""
        self._drop()
        self._ahead = (indices.tolist(), self._submit(indices.tolist()))

    def batch(self, indices: Tensor) -> Tensor:
        """uint8 [B, 3, side, side] on the CPU; UserError names an image that does not decode."""
        if self._ahead is not None and self._ahead[0] == indices.tolist():
            futures, self._ahead = self._ahead[1], None
        else:
            self._drop()
            futures = self._submit(indices.tolist())
        images = torch.empty(len(futures), 3, self.side, self.side, dtype=torch.uint8)
        try:
            for row, future in enumerate(futures):
                images[row] = torch.from_numpy(np.array(future.result()))
        finally:
            for future in futures:
                future.cancel()
        return images

    def _drop(self) -> None:
        for future in self._ahead[1] if self._ahead else ():
            future.cancel()
        self._ahead = None
