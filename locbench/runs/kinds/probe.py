"""Linear probe: accuracy of a linear classifier on the frozen features of an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locbench.plugins.entry import PIXELS, UNTRAINED
from locbench.recipes.identity import differing, differing_keys, identity_hash
from locbench.runs.kinds.base import (
    Kind,
    Tell,
    data_identity,
    encoder_identity,
    network_identity,
    tag_pretraining,
)
from locbench.runs.spec import RunSpec, training_spec

if TYPE_CHECKING:
    from locbench.recipes.recipe import Recipe
    from locbench.runs.plan import Planner
    from locbench.runs.record import Record

# What a probe's images go through; the rest of SimCLR's augmentation is pretraining's alone.
VIEW = ("area", "aspect", "interpolation", "flip", "mean", "std")


class Probe(Kind):
    """The linear probe of what a rule pretrained, of a file, or of untrained weights (sec. 5.1)."""

    name = "probe"
    metrics = ("top1", "top5")
    shared = True
    baselines = (UNTRAINED, PIXELS)
    takes_untrained = True

    @classmethod
    def plan(
        cls, fill: dict[str, Any], recipe: Recipe, *, seed: int, planner: Planner
    ) -> list[RunSpec]:
        data, device = planner.data(recipe), planner.options.device
        return [
            probe_spec(recipe, fill["rule"], fill["network"], seed=seed, data=data, device=device)
        ]

    @classmethod
    def settings(cls, spec: RunSpec) -> dict[str, Any]:
        augmentation = spec.recipe.augmentation
        views = spec.recipe.gives == "views"
        view = differing_keys(augmentation, VIEW) if views else differing(augmentation)
        return {
            "data": data_identity(spec),
            "network": network_identity(spec),
            "encoder": encoder_identity(spec),
            "probe": differing(spec.recipe.probe),
            "view": view,
        }

    @classmethod
    def words(cls, spec: RunSpec) -> list[str]:
        return [*super().words(spec), spec.recipe.probe.profile]

    @classmethod
    def title(cls, spec: RunSpec) -> str:
        return f"probe ({spec.recipe.probe.profile})"

    @classmethod
    def outcome(cls, record: Record) -> str:
        return f"top-1 {record.metrics['top1']['last']:.1f} %"

    @classmethod
    def ends_of_curves(cls, record: Record) -> dict[str, dict[str, float]]:
        curve = record.curves["top1"]
        return {"top1": {"last": curve[-1], "best": max(curve)}}

    @classmethod
    def forwards(cls, recipe: dict[str, Any], images: int) -> float:
        probe = recipe["probe"]
        return images * (probe["epochs"] if probe["augment"] else 1)

    def build(self) -> None:
        from locbench.evaluation.probe import LinearProbe
        from locbench.runs.encoders import probed_encoder

        spec, context = self.spec, self.context
        network = probed_encoder(spec, context, self.device)
        self.probe = LinearProbe(network, context.data(spec), spec.recipe, spec.seed, self.device)
        self.probe.features = context.features.get(self._encoder_key())

    def _encoder_key(self) -> str:
        """What decides the frozen features: all of the identity but how they are trained on."""
        probe = self.spec.recipe.probe
        taken = {"blocks": probe.blocks, "augment": probe.augment}
        return identity_hash({**self.spec.identity, "probe": taken})

    def run(self, tell: Tell) -> None:
        self.scores = self.probe.fit(tell, self.checkpoint)
        # Of one encoder: they can be large.
        self.context.features = {self._encoder_key(): self.probe.features}

    def note(self, record: Record) -> None:
        history = self.probe.history
        record.curves = {
            "epoch": list(range(1, len(history) + 1)),
            "top1": [scores[-1][0] for scores in history],
        }

    def finish(self, record: Record) -> None:
        spec, scores = self.spec, self.scores
        record.metrics = {
            "top1": {"last": scores[-1].last, "best": scores[-1].best},
            "top5": {"last": scores[-1].top5},
        }
        for block, score in zip(self.probe.blocks, scores, strict=True):
            record.per_block[str(block)] = {
                "stage": self.probe.network.stage_of(block) + 1,
                "top1": score.last,
                "top1_best": score.best,
            }
        record.tags |= {
            "probe": spec.recipe.probe.profile,
            "probe_augmented": spec.recipe.probe.augment,
            "decoder": "none" if spec.encoder_file is None else "unknown",
        }
        if spec.parent is not None:
            tag_pretraining(record, self.context.store.load(spec.parent.id))


def probe_spec(
    recipe: Recipe,
    rule: str,
    network: str,
    *,
    seed: int,
    data: dict[str, Any],
    device: str = "auto",
) -> RunSpec:
    """The probe of what `rule` pretrained, or of untrained weights."""
    parent = None
    if rule != UNTRAINED:
        parent = training_spec(recipe, rule, network, seed=seed, data=data, device=device)
    return RunSpec(Probe.name, recipe.for_run(rule, network), rule, network, seed, data, parent)
