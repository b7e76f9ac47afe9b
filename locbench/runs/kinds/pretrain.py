"""Pretraining: a network trained on two views of every image; leaves its encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locbench.plugins.registry import RULES
from locbench.recipes.constraints import check_images
from locbench.recipes.identity import differing
from locbench.runs.estimate import FORWARDS_A_STEP, VIEWS, Size
from locbench.runs.kinds.base import (
    Kind,
    Tell,
    data_identity,
    network_identity,
    rule_identity,
)
from locbench.runs.spec import RunSpec, sha256_of, training_spec
from locbench.runs.step_memory import StepMemory, check_fits, traced_memory
from locbench.runs.store import ENCODER

if TYPE_CHECKING:
    import torch

    from locbench.networks import Network
    from locbench.recipes.recipe import Recipe
    from locbench.runs.context import Context
    from locbench.runs.plan import Planner
    from locbench.runs.record import Record

FLOAT_BYTES = 4
CHECKPOINT_ENCODERS = 3  # a checkpoint in encoders: network, objectives and momentum, roughly


class Pretrain(Kind):
    """A contrastive rule on a network (LoCo, sec. 5.1)."""

    name = "pretrain"
    metrics = ("* of *",)  # "loss of stage 1", and what else objectives log
    fills = False
    shared = True
    trains = True
    views = VIEWS

    @classmethod
    def plan(
        cls, fill: dict[str, Any], recipe: Recipe, *, seed: int, planner: Planner
    ) -> list[RunSpec]:
        rule, network, device = fill["rule"], fill["network"], planner.options.device
        data = planner.data(recipe)
        return [training_spec(recipe, rule, network, seed=seed, data=data, device=device)]

    @classmethod
    def settings(cls, spec: RunSpec) -> dict[str, Any]:
        recipe = spec.recipe
        training = differing(recipe.training)
        training.pop("precision", None)
        return {
            "precision": recipe.training.precision,
            "data": data_identity(spec, classifier=True),
            "network": network_identity(spec),
            "rule": rule_identity(spec),
            "augmentation": differing(recipe.augmentation),
            "optimizer": differing(recipe.optimizer),
            "schedule": differing(recipe.schedule),
            "training": training,
        }

    @classmethod
    def outcome(cls, record: Record) -> str:
        losses = [f"{v['last']:.3f}" for k, v in record.metrics.items() if k.startswith("loss of ")]
        return f"loss {' '.join(losses)}"

    @classmethod
    def ends_of_curves(cls, record: Record) -> dict[str, dict[str, float]]:
        units, tests = record.curves["units"], record.curves.get("test", {})
        ends = {
            f"{key} of {name}": {"last": values[-1]}
            for name, curve in units.items()
            for key, values in curve.items()
        }
        accuracies = {key: tests[key] for key in ("top1", "top5") if key in tests}
        return ends | {k: {"last": v[-1], "best": max(v)} for k, v in accuracies.items()}

    @classmethod
    def check(cls, spec: RunSpec, context: Context, device: torch.device) -> None:
        check_fits(spec, device)  # before data is decoded, which may take hours
        super().check(spec, context, device)

    @classmethod
    def check_images(cls, spec: RunSpec, processes: int = 1) -> None:
        super().check_images(spec, processes)
        name = spec.data["name"]
        check_images(spec.recipe, images=cls.images(spec), name=name, processes=processes)

    @classmethod
    def step_memory(cls, spec: RunSpec) -> StepMemory | None:
        return traced_memory(spec)

    @classmethod
    def check_early(cls, spec: RunSpec, context: Context) -> None:
        if RULES.is_external(spec.rule):
            RULES.get(spec.rule)  # of one from outside it is not known yet that it can be imported

    @classmethod
    def disk(cls, spec: RunSpec, size: Size | None) -> tuple[int | None, int]:
        if size is None:
            return None, 0
        encoder = FLOAT_BYTES * size.parameters
        return super().disk(spec, size)[0] + encoder, CHECKPOINT_ENCODERS * encoder

    @classmethod
    def forwards(cls, recipe: dict[str, Any], images: int) -> float:
        return images * recipe["schedule"]["epochs"] * cls.views * FORWARDS_A_STEP

    def build(self) -> None:
        from locbench.training.loop import Trainer

        spec, data = self.spec, self.context.data(self.spec)
        self.trainer = Trainer(
            spec.recipe, spec.rule, spec.network, spec.seed, data, str(self.device)
        )

    def begin(self, record: Record) -> None:
        from locbench.units import trainable

        trainer, training = self.trainer, self.spec.recipe.training
        if training.accumulate > 1:
            record.tags["accumulate"] = training.accumulate
        if training.batch_norm_groups > 1:
            record.tags["batch_norm_groups"] = training.batch_norm_groups
        record.tags["precision"] = "bfloat16" if trainer.precision else "float32"
        record.units = [
            {
                "name": name,
                "start": unit.start,
                "stop": unit.stop,
                "updates": unit.updated_blocks(),
                "auxiliary": getattr(unit.objective, "description", type(unit.objective).__name__),
                "auxiliary_parameters": sum(p.numel() for p in trainable([unit.objective])),
            }
            for name, unit in zip(trainer.names, trainer.engine.units, strict=True)
        ]
        record.cost |= encoder_size(trainer.network, self.spec)

    def run(self, tell: Tell) -> None:
        self.trainer.fit(self.checkpoint, tell)

    def note(self, record: Record) -> None:
        record.curves = self.trainer.curves  # another object after going on from a checkpoint

    def weights(self) -> dict[str, Any]:
        """What is left of the network: its encoder, and its classifier where that was trained."""
        network = self.trainer.network
        return network.state_dict() if self.trainer.classifies else network.encoder_state_dict()

    def finish(self, record: Record) -> None:
        from locbench.training.checkpoints import save_encoder
        from locbench.training.guard import WeightsDiverged

        trainer, weights = self.trainer, self.weights()
        if lost := [key for key, value in weights.items() if not value.isfinite().all()]:
            raise WeightsDiverged(lost[0], trainer.total)
        save_encoder(self.folder / ENCODER, weights)
        record.weights = {ENCODER: sha256_of(self.folder / ENCODER)}
        record.metrics = self.ends_of_curves(record)
        record.cost["wall_time_s"] = round(trainer.elapsed, 2)
        images = trainer.feed.images_in(trainer.total)
        record.cost["images_per_s"] = round(images / trainer.elapsed, 1)
        record.cost["steps"] = trainer.total
        record.cost["activation_bytes"] = trainer.activation_bytes
        if trainer.classifies:
            self._add_accuracy(record)

    def _add_accuracy(self, record: Record) -> None:
        """Test accuracy per block at the end."""
        for block, top1 in self.trainer.by_block.items():
            stage = self.trainer.network.stage_of(block) + 1
            record.per_block[str(block)] = {"stage": stage, "top1": top1}
        record.tags["decoder"] = record.units[0]["auxiliary"]


def encoder_size(network: Network, spec: RunSpec) -> dict[str, int]:
    """Parameters of the encoder, and its multiply-adds of one image."""
    from locbench.evaluation.cost.operations import multiply_adds, parameters

    side = spec.recipe.data.resolution
    return {
        "encoder_parameters": parameters(network) - parameters(network.head),
        "encoder_multiply_adds": multiply_adds(network.blocks, (3, side, side)),
    }
