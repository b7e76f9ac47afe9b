"""Batches with labels: what is in them, how steps are epochs, and the rates that go with them."""

import dataclasses

import pytest
import torch
import torchvision.transforms.v2.functional as vision
from tiny import BATCH, IMAGES, SIDE, tiny_data, tiny_recipe, tiny_trainer

from locbench.data import Split
from locbench.data.augmentation import ResizedCropAugmentation
from locbench.data.crop import normalise
from locbench.data.files import folder_files
from locbench.data.streaming import StreamingSplit
from locbench.errors import UserError
from locbench.recipes.schema import Augmentation, Crop, EpochCosine, ResizedCrop, Schedule, Training
from locbench.training.feeds import make_feed
from locbench.training.schedules import epoch_cosine

CPU = torch.device("cpu")
STEPS_AN_EPOCH = 4  # of 8, 8, 8 and 2 images


def feed_of(seed: int = 3, data=None, **sections):
    return make_feed(
        tiny_recipe(rule="bp", **sections), data=data or tiny_data(), seed=seed, device=CPU
    )


def test_an_epoch_has_every_image_once_and_keeps_its_last_batch():
    feed = feed_of()
    assert feed.total == 3 * STEPS_AN_EPOCH
    orders = []
    for epoch in range(3):
        steps = range(epoch * STEPS_AN_EPOCH, (epoch + 1) * STEPS_AN_EPOCH)
        assert {feed.epoch(step) for step in steps} == {epoch}
        parts = [feed._indices(step) for step in steps]
        assert [len(part) for part in parts] == [8, 8, 8, 2]
        orders.append(torch.cat(parts).tolist())
        assert sorted(orders[-1]) == list(range(IMAGES))
    assert orders[0] != orders[1] != orders[2]
    assert [step for step in range(1, 13) if feed.ends_epoch(step)] == [4, 8, 12]
    assert [feed.images_in(step) for step in (1, 4, 5, 12)] == [8, 26, 34, 78]


def test_a_batch_has_images_their_targets_and_their_pixels():
    feed, data = feed_of(), tiny_data()
    batch, indices = feed.batch(5), feed._indices(5)
    assert torch.equal(batch.targets, data.train.targets[indices])
    assert batch.pixels.shape == batch.images.shape == (BATCH, 3, SIDE, SIDE)
    assert batch.pixels.min() >= 0 and batch.pixels.max() <= 1
    torch.testing.assert_close(batch.images, (batch.pixels - 0.5) / 0.5)
    # The hue tells the class of tiny_data, so images and targets belong together.
    hues = batch.pixels.mean(dim=(2, 3))
    for target in batch.targets.unique():
        mine, others = hues[batch.targets == target], hues[batch.targets != target]
        assert torch.cdist(mine, mine).max() < torch.cdist(mine, others).min()


def test_labels_can_go_with_resized_crops():
    """The pixels of a view are what its normalisation starts from, and cropped at that."""
    aug = ResizedCrop(area=(0.2, 0.3), flip=1.0)
    feed, data = feed_of(augmentation=aug), tiny_data()
    batch, images = feed.batch(5), data.train.batch(feed._indices(5))
    assert torch.equal(batch.targets, data.train.targets[feed._indices(5)])
    assert batch.pixels.shape == batch.images.shape == (BATCH, 3, SIDE, SIDE)
    assert batch.pixels.min() >= 0 and batch.pixels.max() <= 1
    assert torch.equal(batch.images, normalise(batch.pixels, aug))
    augment = ResizedCropAugmentation(aug, SIDE)
    draws = (torch.Generator().manual_seed(1) for _ in range(2))
    pixels, views = (
        made(images, draw)
        for made, draw in zip((augment.pixels, augment.views), draws, strict=True)
    )
    torch.testing.assert_close(normalise(pixels, aug), views)
    crops = augment.draw(BATCH, SIDE, SIDE, torch.Generator().manual_seed(1)).crops
    box = (crops.top[0], crops.left[0], crops.height[0], crops.width[0])
    cut = vision.crop(images[:1].float() / 255, *map(int, box))
    whole = vision.resize(cut, [SIDE, SIDE], vision.InterpolationMode.BILINEAR, antialias=True)
    torch.testing.assert_close(pixels[:1], whole.flip(3), rtol=0, atol=1e-5)


def test_draws_depend_on_seed_and_step_alone():
    first = feed_of().batch(2).images
    torch.rand(5)
    assert torch.equal(first, feed_of().batch(2).images)
    assert not torch.equal(first, feed_of(seed=4).batch(2).images)
    again = feed_of()
    again._indices = lambda step: feed_of()._indices(2)  # the same images at another step
    assert not torch.equal(first, again.batch(6).images)


def test_two_views_come_without_labels_and_one_view_with_them():
    views = make_feed(tiny_recipe(), data=tiny_data(), seed=3, device=CPU).batch(0)
    assert len(views.images) == 2 * BATCH and views.targets is None


@pytest.mark.parametrize(("size", "words"), [(27, "26 training images"), (5, "leaves one of")])
def test_batches_that_cannot_be_are_refused(size, words):
    with pytest.raises(UserError, match=words):
        feed_of(training=Training(size, "fp32"))


def test_the_rates_are_those_of_the_official_code():
    """Warm-up from 0.01, and exactly 0 in the last epoch."""
    schedule = EpochCosine(epochs=400, warmup_epochs=10, warmup_lr=0.01)
    rates = {e: epoch_cosine(e, schedule=schedule, base=0.8) for e in range(1, 401)}
    printed = {1: 0.01, 2: 0.088995, 5: 0.325877, 10: 0.71989, 11: 0.798508, 200: 0.4, 399: 1.2e-5}
    for epoch, rate in printed.items():
        assert rates[epoch] == pytest.approx(rate, rel=0.04 if epoch == 399 else 1e-5)
    assert rates[400] == 0
    low = {e: epoch_cosine(e, schedule=schedule, base=0.1) for e in (1, 10, 11)}
    assert low == {
        k: pytest.approx(v, rel=1e-4) for k, v in {1: 0.01, 10: 0.090861, 11: 0.099814}.items()
    }


@pytest.mark.parametrize("schedule", [EpochCosine(epochs=3, warmup_epochs=1), Schedule(3, 0.5)])
def test_the_rate_goes_with_the_epoch_or_with_the_step(schedule):
    trainer = tiny_trainer("bp", tiny_recipe(rule="bp", schedule=schedule))
    rates = [trainer.learning_rate(step) for step in range(12)]
    changes = [step for step in range(1, 12) if rates[step] != rates[step - 1]]
    assert trainer.learning_rate(12) <= rates[-1], "after the last step it does not rise again"
    assert changes == ([4, 8] if isinstance(schedule, EpochCosine) else list(range(1, 12)))


def test_accuracy_is_that_of_a_plain_forward_in_evaluation_mode(tmp_path):
    data = tiny_data()
    draw = torch.Generator().manual_seed(9)
    test = Split(
        torch.randint(256, (13, 3, SIDE, SIDE), dtype=torch.uint8, generator=draw),
        torch.arange(13) % 4,
    )
    trainer = tiny_trainer("dgl")
    trainer.data = dataclasses.replace(data, test=test)
    trainer.fit(tmp_path / "checkpoint.pt", lambda *_: None)
    assert trainer.network.training and trainer.objectives.training
    trainer.network.eval()
    trainer.objectives.eval()
    with torch.no_grad():
        x, right = (test.images / 255 - 0.5) / 0.5, {}
        for index, block in enumerate(trainer.network.blocks):
            x = block(x)
            for unit in trainer.engine.units:
                if unit.stop == index + 1:
                    right[index] = (unit.objective.logits(x).argmax(1) == test.targets).sum()
    expected = {index: pytest.approx(100 * int(n) / 13) for index, n in right.items()}
    assert trainer.by_block == expected
    assert trainer.curves["test"]["top1"][-1] == expected[len(trainer.network.blocks) - 1]
    assert trainer.curves["test"]["step"] == [4, 8, 12]
    assert all(
        a <= b for a, b in zip(*(trainer.curves["test"][k] for k in ("top1", "top5")), strict=True)
    )


def test_a_contrastive_rule_is_not_tested(tmp_path):
    trainer = tiny_trainer("loco")
    trainer.fit(tmp_path / "checkpoint.pt", lambda *_: None)
    assert not trainer.classifies and "test" not in trainer.curves and trainer.by_block == {}


def test_weight_decay_reaches_every_parameter_of_sgd():
    trainer = tiny_trainer("auglocal", network="resnet32")
    [group] = trainer.optimizer.param_groups
    assert group["weight_decay"] == 1e-4 and group["momentum"] == 0.9 and group["nesterov"]
    assert len(group["params"]) == len(trainer.engine.parameters())


def test_the_classifier_has_as_many_classes_as_are_asked_for():
    recipe = tiny_recipe(rule="bp")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, classes=100))
    trainer = tiny_trainer("bp", recipe)
    assert trainer.network(torch.rand(2, 3, SIDE, SIDE)).shape == (2, 100)
    assert isinstance(recipe.augmentation, Crop)


@pytest.mark.parametrize("rule", ["bp", "loco"])
def test_a_run_that_goes_on_has_the_crops_of_decoded_images_that_it_would_have_had(rule, tmp_path):
    train = tiny_data().train
    names = [f"{row}.png" for row in range(IMAGES)]
    for name, image in zip(names, train.images, strict=True):
        vision.to_pil_image(image).resize((3 * SIDE, 2 * SIDE)).save(tmp_path / name)
    split = StreamingSplit(folder_files(tmp_path, names), train.targets)
    data = dataclasses.replace(tiny_data(), train=split)
    augmentation = ResizedCrop() if rule == "bp" else Augmentation()
    recipe = tiny_recipe(rule=rule, augmentation=augmentation)
    unbroken, again = (make_feed(recipe, data=data, seed=3, device=CPU) for _ in range(2))
    batches = [unbroken.batch(step).images for step in range(4)]
    assert torch.equal(again.batch(3).images, batches[3])
    assert torch.equal(unbroken.batch(1).images, batches[1])  # another than it has begun with
