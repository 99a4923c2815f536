"""The pictures of the experiment's answers."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from timm_gcp.plots import new_figure, save_figure

from .intervals import mean_interval

Scores = Mapping[str, Mapping[str, float]]


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    figure = new_figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def heads(scores: Scores, what: str, out: Path) -> None:
    """A line a head: every seed, the mean and its 95 % interval."""
    figure, axes = _figure(8, max(2.8, 1.2 + 0.32 * len(scores)))
    for row, (_head, own) in enumerate(scores.items()):
        values = list(own.values())
        axes.plot(values, [row] * len(values), "o", ms=4, color="C0", alpha=0.5)
        interval = mean_interval(values)
        axes.errorbar(
            interval.mean, row, xerr=interval.half if len(values) > 1 else None, fmt="D", color="black", capsize=3
        )
    label = f"{what} (%): seeds, mean, 95 % interval"
    if "average" in scores:
        axes.axvline(fmean(scores["average"].values()), color="0.6", ls="--", lw=1, zorder=0)
        label += "; dashed: average pooling"
    axes.set_yticks(range(len(scores)), scores)
    axes.set_ylim(len(scores) - 0.5, -0.5)  # the first on top
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(label)
    save_figure(figure, out, dpi=110)


def curves(courses: Mapping[str, np.ndarray], out: Path) -> None:
    """Validation accuracy over the epochs: mean of the seeds, and their range."""
    figure, axes = _figure(8, 4.6)
    for head, values in courses.items():
        epochs = np.arange(values.shape[1])
        (line,) = axes.plot(epochs, values.mean(0), lw=1.6, label=f"{head} (last: {values[:, -1].mean():.1f})")
        axes.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.12, lw=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation top-1 (%): mean and range of the seeds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    save_figure(figure, out, dpi=110)


def gap(lr: np.ndarray, gaps: np.ndarray, out: Path) -> None:
    """Newton–Schulz minus the exact root on validation: over the epochs, and against the learning rate."""
    figure, (left, right) = _figure(11, 3.8, 2)
    left.bar(np.arange(len(gaps)), gaps, color="C0")
    left.set_xlabel("epoch")
    after = np.arange(len(lr)) >= lr.argmax()
    right.plot(lr[after], gaps[after], "o-", color="C0")
    right.set_xscale("log")
    right.invert_xaxis()
    right.set_xlabel("learning rate after its peak (a run goes from left to right)")
    for axes in (left, right):
        axes.axhline(0, color="0.4", lw=0.8)
        axes.grid(alpha=0.3)
        axes.set_ylabel("validation top-1, isqrt − exact (points)")
    save_figure(figure, out, dpi=110)


def conditioning(lr: Mapping[str, np.ndarray], kappa: Mapping[str, np.ndarray], out: Path) -> None:
    """κ over the epochs, and against the learning rate after its peak."""
    figure, (left, right) = _figure(11, 4, 2)
    for head, values in kappa.items():
        middle = np.exp(np.nanmean(np.log(values), 0))
        rate = lr[head][0]
        after = np.arange(len(rate)) >= rate.argmax()
        left.plot(middle, label=head)
        right.plot(rate[after], middle[after], "o-", ms=3, label=head)
    left.set_xlabel("epoch")
    right.set_xscale("log")
    right.invert_xaxis()
    right.set_xlabel("learning rate after its peak (a run goes from left to right)")
    for axes in (left, right):
        axes.set_yscale("log")
        axes.set_ylabel("median κ of Σ, mean of the seeds")
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    save_figure(figure, out, dpi=110)


def pairs(scores: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]], out: Path) -> None:
    """Each method by itself and under the hybrid protocol, a line a seed."""
    figure, axes = _figure(8, 3.8)
    for column, (alone, hybrid) in enumerate(scores.values()):
        for seed in alone:
            if seed in hybrid:
                axes.plot([column - 0.2, column + 0.2], [alone[seed], hybrid[seed]], "o-", ms=4, color="C0", alpha=0.6)
        axes.plot([column + 0.2] * len(hybrid), list(hybrid.values()), "o", ms=4, color="C1")
    axes.set_xticks(range(len(scores)), [head.removesuffix("-hybrid") for head in scores])
    axes.set_xlim(-0.5, len(scores) - 0.5)  # also where there is no run on the left yet
    axes.set_ylabel("test top-1 (%)")
    axes.set_xlabel("left: from the first epoch; right: hybrid; a line a seed")
    axes.grid(axis="y", alpha=0.3)
    save_figure(figure, out, dpi=110)
