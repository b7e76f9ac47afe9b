"""Detection: Mask R-CNN on a pretrained backbone, through mmdetection; box and mask AP."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from locbench.errors import UserError
from locbench.evaluation.downstream.size import added_parameters
from locbench.plugins.entry import UNTRAINED
from locbench.recipes.identity import differing, differing_keys
from locbench.recipes.schema import Detection
from locbench.runs.estimate import RECORD_BYTES, Estimate, Size, by_likeness
from locbench.runs.kinds.base import (
    Kind,
    Tell,
    encoder_identity,
    network_identity,
    tag_pretraining,
)
from locbench.runs.kinds.pretrain import FLOAT_BYTES, FORWARDS_A_STEP, encoder_size
from locbench.runs.spec import RunSpec, sha256_of, training_spec

if TYPE_CHECKING:
    from locbench.recipes.recipe import Recipe
    from locbench.runs.context import Context
    from locbench.runs.plan import Planner
    from locbench.runs.record import Record

WEIGHTS = "detector.safetensors"
PICTURES = "pictures"
MOMENTS = {"sgd": 1, "adamw": 2}  # what an optimizer keeps of every weight that it trains

logger = logging.getLogger(__name__)


class Detect(Kind):
    """Mask R-CNN on an encoder (LoCo, sec. 5.2; AugLocal, Table 12)."""

    name = "detect"
    metrics = tuple(
        f"ap_{what}{size}"
        for what in ("box", "mask")
        for size in ("", "_50", "_75", "_small", "_medium", "_large")
    )
    shared = True
    takes_untrained = True
    needs = ("downstream",)
    memory_keys = "detection.batch or detection.samples"

    @classmethod
    def plan(
        cls, fill: dict[str, Any], recipe: Recipe, *, seed: int, planner: Planner
    ) -> list[RunSpec]:
        rule, network, parent = fill["rule"], fill["network"], None
        file, data = planner.weights(fill), planner.detection_data(recipe)
        if rule != UNTRAINED and file is None:
            device = planner.options.device
            parent = pretraining_spec(
                recipe, rule, network, seed=seed, data=planner.data(recipe), device=device
            )
        recipe = recipe.for_run(rule, network)
        return detector_specs(
            recipe, rule, network, seed=seed, data=data, parent=parent, encoder_file=file
        )

    @classmethod
    def settings(cls, spec: RunSpec) -> dict[str, Any]:
        idle = ("data", *spec.recipe.detection.idle())  # the data are known by their content
        detector = differing(spec.recipe.detection)
        return {
            "data": {key: spec.data[key] for key in ("name", "version", "checksum")},
            "network": network_identity(spec),
            "encoder": encoder_identity(spec),
            "detector": {key: value for key, value in detector.items() if key not in idle},
            "view": differing_keys(spec.recipe.augmentation, ("mean", "std")),
        }

    @classmethod
    def words(cls, spec: RunSpec) -> list[str]:
        return [*super().words(spec), *protocol_words(spec)]

    @classmethod
    def title(cls, spec: RunSpec) -> str:
        return f"detect ({' '.join(protocol_words(spec))})"

    @classmethod
    def outcome(cls, record: Record) -> str:
        box, mask = (record.metrics[key]["last"] for key in ("ap_box", "ap_mask"))
        return f"AP box {box:.1f} mask {mask:.1f} %"

    @classmethod
    def check_early(cls, spec: RunSpec, context: Context) -> None:
        context.data(spec)

    @classmethod
    def check_images(cls, spec: RunSpec, processes: int = 1) -> None:
        drawn, there = spec.recipe.detection.train_images, spec.data["train"]
        if drawn > there:
            raise UserError(
                f"detection.train_images = {drawn}: {spec.data['name']} has {there:,} images; set "
                "it to as many or fewer"
            )

    @classmethod
    def data_name(cls, recipe: Recipe) -> str:
        return recipe.detection.data

    @classmethod
    def load_data(cls, spec: RunSpec, context: Context) -> Any:
        return context.detection_data(spec.recipe.detection)

    @classmethod
    def data_tags(cls, spec: RunSpec, data: Any) -> dict[str, Any]:
        tags, detection = super().data_tags(spec, data), spec.recipe.detection
        drawn = detection.train_images or tags["train_images"]
        tags.pop("tested_on", None)  # of the encoder's data
        return tags | {"train_images": drawn, "resolution": detection.test_side}

    @classmethod
    def estimate(cls, spec: RunSpec, records: Sequence[Record], size: Size | None) -> Estimate:
        return by_likeness(spec, records, size, *cls.disk(spec, size), rough=False)

    @classmethod
    def disk(cls, spec: RunSpec, size: Size | None) -> tuple[int | None, int]:
        if size is None:
            return None, 0
        detection = spec.recipe.detection
        added = added_parameters(detection, spec.data["classes"])
        trained = added if detection.frozen == "all" else added + size.parameters
        whole = size.parameters + added
        moments = MOMENTS[detection.optimizer] * trained
        return RECORD_BYTES + FLOAT_BYTES * whole, FLOAT_BYTES * (whole + moments)

    @classmethod
    def images(cls, spec: RunSpec) -> int:
        return spec.recipe.detection.train_images or spec.data["train"]

    @classmethod
    def work(cls, recipe: dict[str, Any], images: int) -> float:
        detection = Detection(**recipe["detection"])
        seen = detection.steps(images) * detection.batch
        return seen * FORWARDS_A_STEP * sum(detection.short_sides) / 2 * detection.long_side

    def build(self) -> None:
        from locbench.runs.encoders import encoder_for

        self.network = encoder_for(self.spec, self.context, self.device)

    def begin(self, record: Record) -> None:
        record.cost |= encoder_size(self.network, self.spec)

    def run(self, tell: Tell) -> None:
        from locbench.evaluation.downstream.detect import Detector  # imports mmdet

        spec = self.spec
        self.detector = Detector(
            spec.recipe,
            self.network,
            self.context.data(spec),
            spec.seed,
            str(self.device),
            self.checkpoint,
            tell,
            spec.untrained,
        )
        self.detector.fit()
        began = time.monotonic()
        self.scores = self.detector.evaluate()
        self.test_s = time.monotonic() - began

    def note(self, record: Record) -> None:
        if (detector := getattr(self, "detector", None)) is not None:
            record.tags |= detector.tags()
            record.curves = detector.watch.losses  # other lists after going on from a checkpoint

    def finish(self, record: Record) -> None:
        from locbench.training.checkpoints import save_encoder

        spec, detector = self.spec, self.detector
        self.set_metrics(record, self.scores)
        trained, steps = detector.watch.elapsed, detector.runner.max_iters
        record.cost["wall_time_s"] = round(trained + self.test_s, 2)
        record.cost["steps"] = steps
        record.cost["images_per_s"] = round(steps * spec.recipe.detection.batch / trained, 1)
        save_encoder(self.folder / WEIGHTS, detector.weights())
        record.weights = {WEIGHTS: sha256_of(self.folder / WEIGHTS)}
        try:
            detector.draw(self.folder / PICTURES)
        except Exception as error:  # nothing measured may be lost for a picture
            logger.warning("%s: no pictures: %s", spec.id, " ".join(str(error).split()))
        detector.close()
        record.tags["decoder"] = "none" if spec.untrained else "unknown"
        if spec.parent is not None:
            tag_pretraining(record, self.context.store.load(spec.parent.id))


def protocol_words(spec: RunSpec) -> list[str]:
    """Words that tell detectors apart for people: the protocol, other data, frozen, split2."""
    detection = spec.recipe.detection
    words = [word for word in (spec.recipe.downstream, spec.data["name"]) if word]
    words += ["frozen"] if detection.frozen == "all" else []
    drawn = detection.splits > 1 and detection.train_images  # else all splits are one run
    words += [f"split{detection.split + 1}"] if drawn else []
    return list(dict.fromkeys(words))


def pretraining_spec(
    recipe: Recipe,
    rule: str,
    network: str,
    *,
    seed: int,
    data: dict[str, Any],
    device: str = "auto",
) -> RunSpec:
    """The run that trains a detector's encoder: the recipe without its [detection]."""
    plain = replace(recipe, detection=None, downstream="")
    return training_spec(plain, rule, network, seed=seed, data=data, device=device)


def detector_specs(
    recipe: Recipe,
    rule: str,
    network: str,
    *,
    seed: int,
    data: dict[str, Any],
    parent: RunSpec | None = None,
    encoder_file: tuple[str, str] | None = None,
) -> list[RunSpec]:
    """A run a split of the recipe's [detection], on the encoder of `parent` or of a file."""
    recipes = [
        replace(recipe, detection=replace(recipe.detection, split=split))
        for split in range(recipe.detection.splits)
    ]
    return [
        RunSpec(Detect.name, of_split, rule, network, seed, data, parent, encoder_file)
        for of_split in recipes
    ]
