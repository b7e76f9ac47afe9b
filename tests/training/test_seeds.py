"""Random draws depend on what they are for and where, on nothing else."""

import pytest
import torch

from locbench.training.seeds import derive, generator, stream


def test_derived_seeds_are_what_they_have_always_been():
    # Pinned: other numbers would make every record of the past another run.
    assert derive(0, "network") == 715385884120655211
    assert derive(17, "augmentation", 250) == 5420461314703227206


def test_derived_seeds_differ_and_fit_torch():
    paths = [("network",), ("objectives",), ("step", 1), ("step", 11), ("order", 1), ("1", "step")]
    seeds = [derive(seed, *path) for seed in (0, 1, 10) for path in paths]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_is_its_own():
    first = torch.rand(3, generator=generator(1, "augmentation", 4))
    torch.rand(100)
    assert torch.equal(first, torch.rand(3, generator=generator(1, "augmentation", 4)))
    assert not torch.equal(first, torch.rand(3, generator=generator(1, "augmentation", 5)))


def test_every_epoch_holds_every_image_once_in_an_order_of_its_own():
    epochs = stream(3, 10, 0, 50).view(5, 10)
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(10))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 5
    assert not torch.equal(stream(4, 10, 0, 50), epochs.flatten())


@pytest.mark.parametrize("size", [1, 3, 7, 10, 12, 25, 60])
def test_the_stream_is_the_same_however_it_is_cut(size):
    whole = stream(3, 10, 0, 60)
    cut = [stream(3, 10, start, min(start + size, 60)) for start in range(0, 60, size)]
    assert all(len(part) == size for part in cut[:-1])  # also across the ends of epochs
    assert torch.equal(torch.cat(cut), whole)
    assert torch.equal(stream(3, 10, 17, 43), whole[17:43])
