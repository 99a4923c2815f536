"""The plots of the experiment's section in the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timm_gcp.plots import new_figure, save_figure

from .intervals import mean_interval

Scores = Mapping[str, pd.Series]
"""Head → accuracies, indexed by seed."""

DPI = 110


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    figure = new_figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def heads(scores: Scores, what: str, out: Path) -> None:
    """One row per head: every seed, the mean and its 95 % interval.

    Args:
        scores: accuracies of the heads.
        what: what the accuracies are, for the axis.
        out: the PNG file.
    """
    figure, axes = _figure(8, max(2.8, 1.2 + 0.32 * len(scores)))
    for row, values in enumerate(scores.values()):
        axes.plot(values.to_numpy(), [row] * len(values), "o", ms=4, color="C0", alpha=0.5)
        interval = mean_interval(values)
        axes.errorbar(
            interval.mean, row, xerr=interval.half if len(values) > 1 else None, fmt="D", color="black", capsize=3
        )
    label = f"{what} (%): seeds, mean, 95 % interval"
    if "average" in scores:
        axes.axvline(scores["average"].mean(), color="0.6", ls="--", lw=1, zorder=0)
        label += "; dashed: average pooling"
    axes.set_yticks(range(len(scores)), scores)
    axes.set_ylim(len(scores) - 0.5, -0.5)  # the first on top
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(label)
    save_figure(figure, out, dpi=DPI)


def curves(accuracies: Mapping[str, np.ndarray], out: Path) -> None:
    """Validation accuracy by epoch: mean and range of the seeds.

    Args:
        accuracies: head → ``[seeds, epochs]``, per cent.
        out: the PNG file.
    """
    figure, axes = _figure(8, 4.6)
    for head, values in accuracies.items():
        epochs = np.arange(values.shape[1])
        (line,) = axes.plot(epochs, values.mean(0), lw=1.6, label=f"{head} (last: {values[:, -1].mean():.1f})")
        axes.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.12, lw=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation top-1 (%): mean and range of the seeds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    save_figure(figure, out, dpi=DPI)


def gap(lr: np.ndarray, gaps: np.ndarray, out: Path) -> None:
    """Validation accuracy of `isqrt` minus that of the exact root: by epoch, and against the learning rate.

    Args:
        lr: learning rate, ``[epochs]``.
        gaps: difference in percentage points, ``[epochs]``.
        out: the PNG file.
    """
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
    save_figure(figure, out, dpi=DPI)


def conditioning(lr: Mapping[str, np.ndarray], kappa: Mapping[str, np.ndarray], out: Path) -> None:
    """Condition number κ by epoch, and against the learning rate after its peak.

    Args:
        lr: head → learning rate, ``[seeds, epochs]``.
        kappa: head → median κ of Σ, ``[seeds, epochs]``.
        out: the PNG file.
    """
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
    save_figure(figure, out, dpi=DPI)


def pairs(alone: Scores, hybrid: Scores, out: Path) -> None:
    """Each method by itself and under the hybrid protocol; a line joins the two runs of a seed.

    Args:
        alone: method → accuracies by seed; a method may be missing.
        hybrid: the same under the hybrid protocol.
        out: the PNG file.
    """
    figure, axes = _figure(8, 3.8)
    for column, (method, right) in enumerate(hybrid.items()):
        for seed, accuracy in alone.get(method, pd.Series(dtype=float)).items():
            if seed in right:
                axes.plot([column - 0.2, column + 0.2], [accuracy, right[seed]], "o-", ms=4, color="C0", alpha=0.6)
        axes.plot([column + 0.2] * len(right), right.to_numpy(), "o", ms=4, color="C1")
    axes.set_xticks(range(len(hybrid)), hybrid)
    axes.set_xlim(-0.5, len(hybrid) - 0.5)  # also where there is no run on the left yet
    axes.set_ylabel("test top-1 (%)")
    axes.set_xlabel("left: from the first epoch; right: hybrid; one line per seed")
    axes.grid(axis="y", alpha=0.3)
    save_figure(figure, out, dpi=DPI)
