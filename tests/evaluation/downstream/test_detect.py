"""Mask R-CNN on a locbench backbone: trains, goes on, stays frozen, and is measured as COCO is."""

import contextlib
import copy
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from locbench.errors import UserError
from locbench.evaluation.downstream import detect, parts
from locbench.evaluation.downstream.detect import Detector
from locbench.evaluation.downstream.parts import DetectorDiverged
from locbench.evaluation.downstream.sets import SHAPES, DetectionSet, only
from locbench.networks import make_network
from locbench.recipes.load import load_joint

SMALL = {"detection.iterations": 4, "detection.milestones": [3], "detection.batch": 2}
SMALL |= {"detection.channels": 16, "detection.fc": 16, "detection.proposals": 30}
SMALL |= {"detection.warmup": 2, "detection.samples": 16, "detection.rpn_samples": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DetectionSet:
    whole, folder = SHAPES.load(None, 64), tmp_path_factory.mktemp("part")
    train = only(whole.train, list(range(1, 13)), folder / "train.json")
    return replace(whole, train=train, test=only(whole.test, [1, 2, 3, 4], folder / "test.json"))


def recipe_of(overrides: dict | None = None, name: str = "loco/coco"):
    return load_joint("loco/imagenet", name, "smoke", {**SMALL, **(overrides or {})})


def detector(data, folder: Path, overrides=None, tell=lambda *_: None, **more) -> Detector:
    recipe = recipe_of(overrides)
    torch.manual_seed(0)
    network = make_network("resnet50", recipe.network, 5, recipe.data.resolution)
    folder.mkdir(exist_ok=True)
    return Detector(recipe, network, data, 1, "cpu", folder / "checkpoint.pt", tell, **more)


def same(a: dict, b: dict) -> list[str]:
    return [key for key in a if not torch.equal(a[key], b[key])]


def test_a_stopped_run_ends_as_one_that_was_not_and_frozen_means_frozen(
    data, tmp_path, monkeypatch
):
    whole = detector(data, tmp_path / "whole", untrained=True)
    backbone = copy.deepcopy(whole.model.backbone.state_dict())
    heads = copy.deepcopy(whole.model.roi_head.state_dict())
    whole.fit()
    assert not same(backbone, whole.model.backbone.state_dict())
    assert same(heads, whole.model.roi_head.state_dict())
    assert whole.watch.losses["step"] == [1, 2, 3, 4]
    assert all(len(values) == 4 for values in whole.watch.losses.values())

    def stop(done: int, total: int, figures: dict[str, float]) -> None:
        if done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(parts, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(parts, "TELL_EVERY_S", -1.0)
    part = detector(data, tmp_path / "part", tell=stop, untrained=True)
    with pytest.raises(KeyboardInterrupt):
        part.fit()
    part = detector(data, tmp_path / "part", untrained=True)
    part.fit()
    assert not same(whole.weights(), part.weights())
    assert part.watch.losses == whole.watch.losses
    again = detector(data, tmp_path / "part", untrained=True)
    again.fit()  # nothing is left to do
    assert not same(whole.weights(), again.weights())


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path):
    made = detector(data, tmp_path / "run", {"detection.lr": 1e30, "detection.warmup": 0})
    with pytest.raises(DetectorDiverged, match=r"loss was not finite; lower detection\.lr"):
        made.fit()
    assert all(weight.isfinite().all() for weight in made.model.parameters()), "no step was taken"


def test_an_image_that_does_not_decode_is_named(data, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(data.train.images.iterdir())[:12]:
        (folder / path.name).write_bytes(path.read_bytes()[:60])
    broken = replace(data, train=replace(data.train, images=folder))
    with pytest.raises(UserError, match=rf"^{folder}/0000\d\d.png cannot be read as an image") as e:
        detector(broken, tmp_path / "run").fit()
    assert "\n" not in str(e.value)


def test_drawn_images_are_written_out(data, tmp_path):
    few = {"detection.train_images": 5, "detection.splits": 2}
    made = detector(data, tmp_path / "run", few)
    ids = [int(line) for line in (tmp_path / "run/images.txt").read_text().split()]
    dataset = made.runner.build_dataloader(made.runner._train_dataloader).dataset
    assert len(ids) == 5 and sorted(dataset.get_data_info(k)["img_id"] for k in range(5)) == ids
    made.close()
    assert not (tmp_path / "run/mmengine").exists()


def test_ap_of_made_up_predictions_is_pycocotools_own(data, tmp_path, monkeypatch):
    from mmengine.structures import InstanceData

    rng, results = np.random.default_rng(0), []

    def val_step(batch):
        samples = []
        for sample in batch["data_samples"]:
            there, found = sample.gt_instances, InstanceData()
            count = len(there.labels)
            boxes = np.asarray(getattr(there.bboxes, "tensor", there.bboxes), dtype=np.float64)
            found.bboxes = torch.tensor(boxes + rng.normal(0, 1.5, boxes.shape)).float()
            wrong = rng.random(count) < 0.2
            found.labels = torch.where(torch.tensor(wrong), (there.labels + 1) % 5, there.labels)
            found.scores = torch.tensor(rng.random(count)).float()
            masks = np.roll(there.masks.to_ndarray(), 1, axis=2)
            found.masks = torch.tensor(masks.astype(bool))
            sample.pred_instances = found
            samples.append(sample)
            results.append((sample.img_id, found))
        return samples

    made = detector(data, tmp_path / "run")
    monkeypatch.setattr(made.model, "val_step", val_step)
    ours = made.evaluate()
    with contextlib.redirect_stdout(io.StringIO()):
        wanted = {kind: own_figures(data, results, kind) for kind in ("bbox", "segm")}
    names = ("", "_50", "_75", "_small", "_medium", "_large")
    for ours_name, kind in (("box", "bbox"), ("mask", "segm")):
        for name, value in zip(names, wanted[kind], strict=True):
            key = f"ap_{ours_name}{name}"
            assert (key in ours) is (value >= 0)
            if value >= 0:
                assert ours[key] == pytest.approx(100 * value, abs=1e-9)
    assert 5 < ours["ap_box"] < 95 and 5 < ours["ap_mask"] < 95


def own_figures(data: DetectionSet, results: list, kind: str) -> list[float]:
    from pycocotools import mask as masks

    entries = []
    for image, found in results:
        for box, label, score, mask in zip(
            found.bboxes.tolist(), found.labels.tolist(), found.scores.tolist(),
            found.masks.numpy(), strict=True,
        ):  # fmt: skip
            entry = {"image_id": image, "category_id": label + 1, "score": score}
            if kind == "bbox":
                entry["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            else:
                code = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
                entry["segmentation"] = {**code, "counts": code["counts"].decode()}
            entries.append(entry)
    truth = COCO(str(data.test.annotations))
    judge = COCOeval(truth, truth.loadRes(json.loads(json.dumps(entries))), kind)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats[:6].tolist()


@pytest.mark.full
def test_adapter_and_mmdets_resnet_give_equal_losses(tmp_path):
    from mmdet.registry import MODELS

    recipe = load_joint("loco/imagenet", "loco/coco", "paper")
    data = SHAPES.load(None, 64)
    network = make_network("resnet50", recipe.network, 5, 64)
    with detect.quiet():
        detect.register_all_modules(init_default_scope=True)
        config = detect.make_config(
            recipe.detection,
            network=network,
            data=data,
            statistics=((0.5,) * 3, (0.5,) * 3),
            seed=0,
            machine=detect.Machine("cpu"),
            folder=tmp_path,
        )
        ours = MODELS.build(
            {**config.model, "backbone": {"type": "BlockBackbone", "network": network}}
        )
        plain = {"type": "ResNet", "depth": 50, "frozen_stages": 4, "norm_eval": True}
        theirs = MODELS.build({**config.model, "backbone": plain})
    assert ours.neck.in_channels == [256, 512, 1024, 2048]
    theirs.backbone.load_state_dict(network.encoder_state_dict(), strict=True)
    heads = {k: v for k, v in ours.state_dict().items() if not k.startswith("backbone.")}
    theirs.load_state_dict(heads, strict=False)
    losses = []
    for model in (ours, theirs):
        model.train()
        torch.manual_seed(3)
        batch = model.data_preprocessor(a_batch(), True)
        with torch.no_grad():
            losses.append(model(**batch, mode="loss"))
    flat = [torch.cat([torch.stack(list(v)).flatten() if isinstance(v, list) else v.flatten()
                       for v in loss.values()]).tolist() for loss in losses]  # fmt: skip
    assert flat[0] == flat[1] and len(flat[0]) > 5


def a_batch() -> dict:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    sample = DetDataSample(metainfo={"img_shape": (96, 128), "ori_shape": (96, 128)})
    sample.set_metainfo({"scale_factor": (1.0, 1.0), "pad_shape": (96, 128), "img_id": 1})
    there, masks = InstanceData(), np.zeros((2, 96, 128), np.uint8)
    there.bboxes = torch.tensor([[10.0, 10, 60, 70], [50, 20, 120, 90]])
    there.labels = torch.tensor([1, 3])
    masks[0, 10:70, 10:60], masks[1, 20:90, 50:120] = 1, 1
    there.masks = BitmapMasks(masks, 96, 128)
    sample.gt_instances, sample.ignored_instances = there, InstanceData(bboxes=torch.zeros(0, 4))
    pixels = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    torch.manual_seed(7)
    return {"inputs": [pixels * 0 + torch.arange(128, dtype=torch.uint8)], "data_samples": [sample]}
