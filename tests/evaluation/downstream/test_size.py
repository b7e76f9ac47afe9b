"""The size of a detector, told without building it, beside that of the one that mmdet builds."""

from dataclasses import replace

import pytest

from locbench.evaluation.downstream import detect
from locbench.evaluation.downstream.sets import SHAPES
from locbench.evaluation.downstream.size import added_parameters
from locbench.networks import make_network
from locbench.plugins.entry import UNTRAINED
from locbench.recipes.load import load_joint
from locbench.runs.estimate import RECORD_BYTES, estimate
from locbench.runs.kinds.detect import detector_specs
from locbench.runs.kinds.pretrain import FLOAT_BYTES

CASES = [
    ("paper", "resnet50", "4conv1fc", 80),
    pytest.param("paper", "shufflenet_v2_50", "2fc", 8, marks=pytest.mark.full),
    ("smoke", "resnet50", "4conv1fc", 5),
]


def weights(recipe, network: str, classes: int, folder) -> dict[str, int]:
    """How many numbers mmdet's Mask R-CNN has in every weight, the encoder's among them."""
    encoder = make_network(network, recipe.network, 5, 64)
    data = replace(SHAPES.load(None, 64), classes=tuple(map(str, range(classes))))
    with detect.quiet():
        detect.register_all_modules(init_default_scope=True)
        config = detect.make_config(
            recipe.detection,
            network=encoder,
            data=data,
            statistics=((0.5,) * 3, (0.5,) * 3),
            seed=0,
            machine=detect.Machine("cpu"),
            folder=folder,
        )
        backbone = {"type": "BlockBackbone", "network": encoder}
        model = detect.MODELS.build({**config.model, "backbone": backbone})
    return {key: value.numel() for key, value in model.state_dict().items()}


@pytest.mark.parametrize(("scale", "network", "head", "classes"), CASES)
def test_disk_of_a_detector_is_that_of_the_one_mmdet_builds(
    tmp_path, scale, network, head, classes
):
    recipe = load_joint("loco/imagenet", "loco/coco", scale, {"detection.box_head": head})
    found = weights(recipe, network, classes, tmp_path)
    added = sum(n for key, n in found.items() if not key.startswith("backbone."))
    assert added_parameters(recipe.detection, classes) == pytest.approx(added, rel=0.1)

    data = {"name": "shapes", "version": 1, "checksum": "", "train": 9, "test": 9}
    data["classes"] = classes
    whole, disk = sum(found.values()), {}
    for frozen, optimizer in (("all", "sgd"), ("first", "sgd"), ("all", "adamw")):
        detection = replace(recipe.detection, frozen=frozen, optimizer=optimizer)
        [spec] = detector_specs(
            replace(recipe, detection=detection), UNTRAINED, network, seed=1, data=data
        )
        disk[frozen, optimizer] = guess = estimate(spec, [], device="cpu", build=True)
        kept = FLOAT_BYTES * whole + RECORD_BYTES
        assert guess.kept_bytes == pytest.approx(kept, rel=0.06)
        assert estimate(spec, [], device="cpu").kept_bytes is None, "unknown, not 20 kB"
    moments = {"all": added, "first": whole}
    for (frozen, optimizer), guess in disk.items():
        held = whole + moments[frozen] * {"sgd": 1, "adamw": 2}[optimizer]
        assert guess.working_bytes == pytest.approx(FLOAT_BYTES * held, rel=0.07)
