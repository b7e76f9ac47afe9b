"""A part of the training images: as many of every class, drawn by a seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locbench.data import ImageData, Split, reduced, subset
from locbench.data.streaming import StreamingSplit
from locbench.errors import UserError


def some_split(counts: list[int]) -> Split:
    """A split with so many images of each class, mixed; image i is filled with i."""
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.arange(len(targets), dtype=np.uint8)[:, None, None, None]
    return Split(np.broadcast_to(images, (len(targets), 3, 2, 2)), torch.from_numpy(targets))


def indices_of(split: Split) -> list[int]:
    return torch.as_tensor(np.asarray(split.images))[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("counts", "count", "expected"),
    [
        ([20, 20, 20], 30, [10, 10, 10]),
        ([20, 20, 20], 60, [20, 20, 20]),
        ([5, 12, 40], 47, [5, 12, 30]),  # of a small class all there are
    ],
)
def test_as_many_of_every_class(counts: list[int], count: int, expected: list[int]) -> None:
    split = some_split(counts)
    part = subset(split, count, seed=1)
    assert torch.bincount(part.targets, minlength=len(counts)).tolist() == expected
    indices = indices_of(part)
    assert len(indices) == count and indices == sorted(set(indices))  # original order, none twice
    assert torch.equal(part.targets, split.targets[indices])


def test_a_larger_subset_holds_a_smaller_one() -> None:
    split = some_split([40, 40])
    one = indices_of(subset(split, 20, seed=3))
    assert one != indices_of(subset(split, 20, seed=4))
    assert set(one) < set(indices_of(subset(split, 50, seed=3)))


def test_the_drawing_is_pinned() -> None:
    """The same on every machine and version, or records of runs lose their meaning."""
    targets = torch.arange(40) % 4
    split = Split(torch.arange(40).view(-1, 1, 1, 1).expand(-1, 3, 1, 1), targets)
    assert indices_of(subset(split, 10, seed=0)) == [1, 2, 3, 11, 13, 15, 18, 20, 21, 32]


def test_images_stay_where_they_are() -> None:
    split = some_split([30, 30])
    one, other, meta = (subset(kind, 11, 2) for kind in (split, split.to("cpu"), split.to("meta")))
    assert indices_of(one) == indices_of(other)
    assert meta.images.device.type == "meta" and torch.equal(meta.targets, one.targets)


def test_a_count_that_cannot_be_had_is_refused() -> None:
    for count in (61, 0):
        with pytest.raises(UserError, match=r"data\.train_images = \d+: set it to 1 \.\.\. 60"):
            subset(some_split([30, 30]), count, seed=0)
    streamed = StreamingSplit(None, torch.zeros(9, dtype=torch.int64), 8)
    with pytest.raises(UserError, match=r"data\.train_images .*set it to 0"):
        subset(streamed, 3, seed=0)


def test_only_training_images_are_reduced() -> None:
    split = some_split([30, 30])
    data = ImageData("folder", 1, "sum", ("a", "b"), split, split)
    assert reduced(data, 0) is data
    part = reduced(data, 10)
    assert part.test is split and part.checksum == "sum"
    assert indices_of(part.train) == indices_of(subset(split, 10, seed=0))
