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


def test_of_images_that_are_decoded_as_they_are_read_the_same_are_chosen() -> None:
    split = some_split([20, 20])
    streamed = subset(StreamingSplit(None, split.targets), 11, seed=2)
    assert streamed.rows.tolist() == indices_of(subset(split, 11, seed=2))
    assert torch.equal(streamed.targets, split.targets[streamed.rows])
    assert streamed.select(torch.tensor([3])).rows.tolist() == [streamed.rows[3]]


def test_only_training_images_are_reduced() -> None:
    split = some_split([30, 30])
    data = ImageData("folder", 1, "sum", ("a", "b"), split, split)
    assert reduced(data, 0) is data
    part = reduced(data, 10)
    assert part.test is split and part.checksum == "sum"
    assert indices_of(part.train) == indices_of(subset(split, 10, seed=0))


def test_validation_images_are_the_same_share_of_every_class_and_left_out_of_training() -> None:
    split, other = some_split([30, 60]), some_split([2, 2])
    data = ImageData("folder", 1, "sum", ("a", "b"), split, other)
    part = reduced(data, 0, validation=30)
    assert torch.bincount(part.test.targets).tolist() == [10, 20]
    held, kept = indices_of(part.test), indices_of(part.train)
    assert sorted(held + kept) == list(range(90)) and kept == sorted(kept)
    assert torch.equal(part.train.targets, split.targets[kept])
    few = reduced(data, 10, validation=30)
    assert indices_of(few.test) == held and set(indices_of(few.train)) < set(kept)


def test_validation_images_are_pinned() -> None:
    """The same on every machine and version, and whatever the seed of a run."""
    targets = torch.arange(40) % 4
    split = Split(torch.arange(40).view(-1, 1, 1, 1).expand(-1, 3, 1, 1), targets)
    data = ImageData("folder", 1, "sum", tuple("abcd"), split, split)
    assert indices_of(reduced(data, 0, validation=8).test) == [2, 9, 16, 18, 21, 31, 36, 39]


@pytest.mark.parametrize(("count", "words"), [(1, "validate on: set more"), (90, "train on: set")])
def test_too_few_images_to_validate_or_to_train_on_are_refused(count: int, words: str) -> None:
    split = some_split([30, 60])
    data = ImageData("folder", 1, "sum", ("a", "b"), split, split)
    with pytest.raises(UserError, match=rf"data\.validation = {count} of 90 .*{words}"):
        reduced(data, 0, validation=count)
