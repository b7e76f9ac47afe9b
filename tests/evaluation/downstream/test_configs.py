"""The protocols at `paper` as mmdet gets them: LoCo, sections 5.2 and 5.3."""

from dataclasses import replace
from pathlib import Path

import pytest
from meta import meta_device

from locbench.errors import UserError
from locbench.evaluation.downstream.detect import Machine, make_config
from locbench.evaluation.downstream.sets import DetectionSet, DetectionSplit
from locbench.networks import make_network
from locbench.recipes.load import load_joint

GPUS = Machine("cuda", processes=8)


def data(images: int) -> DetectionSet:
    part = DetectionSplit(Path("images"), Path("file.json"), images, frozenset(range(images)))
    return DetectionSet("coco", 1, "", "coco", ("a", "b"), part, part)


def config_of(name: str, network: str = "resnet50", images: int = 1600, machine: Machine = GPUS):
    recipe = load_joint("loco/imagenet", name, "paper")
    with meta_device():
        made = make_network(network, recipe.network, 1000, 224)
    return make_config(
        recipe.detection,
        network=made,
        data=data(images),
        statistics=(recipe.augmentation.mean, recipe.augmentation.std),
        seed=1,
        machine=machine,
        folder=Path("work"),
    )


def steps_of(config) -> tuple:
    rises, falls = config.param_scheduler
    assert rises.type == "LinearLR" and rises.start_factor == 0.001 and rises.end == 500
    optimizer = config.optim_wrapper.optimizer
    assert optimizer.type == "SGD" and optimizer.momentum == 0.9
    assert optimizer.weight_decay == 1e-4 and falls.gamma == 0.1
    return config.train_cfg.max_iters, list(falls.milestones), optimizer.lr


@pytest.mark.parametrize(
    ("name", "steps", "sides", "test_side"),
    [
        # 1600 images: 100 steps an epoch of 16 images, 200 of 8.
        ("loco/coco", (1200, [800, 1100], 0.02), [(1333, 800), (1333, 800)], (1333, 800)),
        ("loco/cityscapes", (12800, [11200], 0.01), [(2048, 800), (2048, 1024)], (2048, 1024)),
        ("loco/coco10k", (60000, [40000, 53300], 0.02), [(1333, 640), (1333, 800)], (1333, 800)),
        ("loco/coco1k", (15000, [10000, 13300], 0.02), [(1333, 640), (1333, 800)], (1333, 800)),
    ],
)
def test_length_rates_and_sizes(name, steps, sides, test_side):
    config = config_of(name)
    assert steps_of(config) == steps
    assert config.load_from is None and config.resume is False
    train = {step["type"]: step for step in config.train_dataloader.dataset.pipeline}
    assert [tuple(side) for side in train["RandomResize"]["scale"]] == sides
    assert train["RandomResize"]["keep_ratio"] and train["RandomFlip"]["prob"] == 0.5
    test = {step["type"]: step for step in config.val_dataloader.dataset.pipeline}
    assert tuple(test["Resize"]["scale"]) == test_side and "RandomFlip" not in test
    assert config.train_dataloader.dataset.type in ("CocoDataset", "CityscapesDataset")
    assert config.train_dataloader.batch_size * GPUS.processes == (8 if "city" in name else 16)


@pytest.mark.parametrize("name", ["loco/coco", "loco/cityscapes", "loco/coco10k", "loco/coco1k"])
def test_norm_is_after_every_new_layer_but_the_proposals(name):
    model = config_of(name).model
    box, mask = model.roi_head.bbox_head, model.roi_head.mask_head
    for part in (model.neck, box, mask):
        assert part.norm_cfg == {"type": "SyncBN", "requires_grad": True}
    assert "norm_cfg" not in model.rpn_head
    assert box.type == "Shared4Conv1FCBBoxHead" and box.conv_out_channels == 256
    assert box.fc_out_channels == 1024 and mask.num_convs == 4 and mask.conv_out_channels == 256
    assert box.num_classes == mask.num_classes == 2
    assert model.train_cfg.rpn.sampler.num == 256 and model.train_cfg.rcnn.sampler.num == 512
    assert model.train_cfg.rpn_proposal.max_per_img == model.test_cfg.rpn.max_per_img == 1000
    assert (model.train_cfg.rpn_proposal.nms_pre, model.test_cfg.rpn.nms_pre) == (2000, 1000)


@pytest.mark.parametrize(
    ("network", "widths"),
    [("resnet50", [256, 512, 1024, 2048]), ("shufflenet_v2_50", [244, 488, 976, 1952])],
)
def test_the_pyramid_reads_the_out_indices(network, widths):
    model = config_of("loco/coco", network).model
    assert model.neck.in_channels == widths
    assert model.roi_head.bbox_roi_extractor.featmap_strides == [4, 8, 16, 32]
    assert model.roi_head.bbox_roi_extractor.finest_scale == 56
    assert model.rpn_head.anchor_generator.strides == [4, 8, 16, 32, 64]
    mean = [round(float(value), 3) for value in model.data_preprocessor.mean]
    assert mean == [123.675, 116.28, 103.53] and model.data_preprocessor.bgr_to_rgb


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (GPUS, "SyncBN"),
        (Machine("cuda"), "BN (one process)"),
        (Machine("cpu"), "BN (no GPU)"),
        (Machine("cpu", processes=2), "BN (no GPU)"),
    ],
)
def test_where_norm_cannot_be_synchronised_the_words_say_so(machine, words):
    assert machine.norm_words == words
    assert config_of("loco/coco", machine=machine).model.neck.norm_cfg.type == words.split()[0]


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(UserError, match=r"detection\.batch = 16 images cannot be shared by 3 proc"):
        config_of("loco/coco", machine=replace(GPUS, processes=3))
