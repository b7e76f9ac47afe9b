"""The encoder that a probe or a detector reads: pretrained, from a file, or untrained."""

from __future__ import annotations

from pathlib import Path

import torch

from locbench.errors import UserError
from locbench.evaluation.probe import calibrate
from locbench.networks import Network, make_network
from locbench.runs.context import Context
from locbench.runs.spec import RunSpec
from locbench.runs.store import ENCODER
from locbench.training.checkpoints import load_encoder
from locbench.training.seeds import derive


def encoder_for(spec: RunSpec, context: Context, device: torch.device) -> Network:
    """The network that a probe or detector reads: pretrained, from a file, or untrained.

    UserError where the weights do not fit the network.
    """
    data = context.data(spec)
    torch.manual_seed(derive(spec.seed, "network"))
    classes = spec.recipe.data.classes or len(data.classes)
    network = make_network(spec.network, spec.recipe.network, classes, spec.recipe.data.resolution)
    network.to(device, memory_format=torch.channels_last)
    if spec.untrained:
        return network
    if spec.parent is None:
        load_into(network, Path(spec.encoder_file[0]))
        return network
    path = context.store.folder(spec.parent.id) / ENCODER
    if not path.is_file():
        raise UserError(
            f"{path} is gone, though its run is done; delete the folder {path.parent} to pretrain "
            "it again"
        )
    load_into(network, path)
    return network


def probed_encoder(spec: RunSpec, context: Context, device: torch.device) -> Network:
    """The network that a probe reads; an untrained one with batch-norm statistics of the data."""
    network = encoder_for(spec, context, device)
    if spec.untrained:
        calibrate(network, context.data(spec).train, spec.recipe, device)
    return network


def load_into(network: Network, path: Path) -> None:
    """Load an encoder file; every key of the encoder must be there and fit.

    But for batch norm's count of batches, which files of before PyTorch 0.4.1 lack: nothing that
    is measured reads it.
    """
    state = load_encoder(path)
    head = {k for k in network.state_dict() if k not in network.encoder_state_dict()}
    state = {k: v for k, v in state.items() if k not in head}
    want = network.encoder_state_dict()
    missing = [k for k in want if k not in state and not k.endswith(".num_batches_tracked")]
    extra = [k for k in state if k not in want]
    shapes = [k for k in want if k in state and state[k].shape != want[k].shape]
    for problem, keys in (("lacks", missing), ("has unknown", extra), ("has misshapen", shapes)):
        if keys:
            raise UserError(
                f"{path} does not fit this network: it {problem} {keys[0]} "
                f"({len(keys)} keys in all); give the network it is of and its size, as published: "
                "--set network.width=1 --set network.blocks=0 --set network.stem=imagenet"
            )
    network.load_state_dict(state, strict=False)
