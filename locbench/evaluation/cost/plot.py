"""Draws the bytes that autograd keeps over one training step, a line for each rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from locbench.evaluation.cost.counts import GIGA
from locbench.evaluation.cost.traced import TracedStep

WIDTH, HEIGHT = 7.2, 3.6  # inches


def draw(path: Path, network: str, steps: Sequence[tuple[str, TracedStep]], images: int) -> None:
    """Draw the bytes that autograd keeps over the multiply-adds done, a line for each rule.

    images: the images (views) of the step; multiply-adds are shown for one.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
    for name, step in steps:
        work = [done / images / GIGA for done, _, _ in step.timeline]
        kept = [saved / GIGA for _, saved, _ in step.timeline]
        peak = step.saved_bytes / GIGA
        [line] = axes.plot(work, kept, linewidth=1.1, label=f"{name}: {peak:.3g} GB at most")
        axes.fill_between(work, kept, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set_title(f"{network}: activations kept over one training step", fontsize=10)
    axes.set_xlabel("multiply-adds done, forward and backward, of one image [G]")
    axes.set_ylabel("activations kept [GB]")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=160)
    plt.close(figure)
