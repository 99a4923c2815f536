"""Draws the curves of a run, and of several runs side by side, from their ``summary.csv``."""

import csv
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GCPError
from ..plots import integer_locator, new_figure, plain_text, save_figure
from ..tasks import MULTI_LABEL, SINGLE_LABEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PALETTE", "comparison_figure", "curve_figures", "draw_comparison", "draw_curves", "measured"]

PathLike = str | os.PathLike[str]

# Okabe and Ito's palette: tells apart with every kind of colour vision, and in grey.
_BLUE, _ORANGE, _GREEN, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
PALETTE = (_BLUE, _ORANGE, _GREEN, _PURPLE, "#E69F00", "#56B4E9", "#000000")
"""Colours of the runs of a comparison."""
_PANEL_SIZE = (5.2, 3.3)
_SHARES = (*SINGLE_LABEL.metrics, *MULTI_LABEL.metrics)
_NAMES = {
    **{"lr": "learning rate", "kappa": "κ of Σ (median)", "rank": "rank of Σ (median)"},
    **SINGLE_LABEL.metrics,
    **MULTI_LABEL.metrics,
}


class _Summary:
    """The columns of a ``summary.csv``, by epoch, counted from 1.

    A repeated epoch (a resumed run) counts once, as last written.
    """

    def __init__(self, path: PathLike) -> None:
        try:
            with open(path, newline="", encoding="utf-8") as file:
                lines = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise GCPError(f"Cannot read the summary '{path}' of a run: {error}.") from error
        rows = {epoch: row for row in lines if math.isfinite(epoch := _number(row.get("epoch")))}
        if not rows:
            raise GCPError(f"'{path}' is not the summary of a run: it has no row with an epoch.")
        self._rows = [rows[epoch] for epoch in sorted(rows)]
        self.epochs = 1 + np.array(sorted(rows))  # as the log counts them

    def column(self, name: str) -> np.ndarray:
        """One value per epoch, nan where there is none."""
        return np.array([_number(row.get(name)) for row in self._rows])

    def has(self, name: str) -> bool:
        return bool(np.isfinite(self.column(name)).any())

    def measured(self) -> list[str]:
        """Names of the columns that have a number."""
        return [name for name in self._rows[-1] if isinstance(name, str) and self.has(name)]

    def phases(self) -> list[tuple[str, float, float]]:
        """Stretches of epochs under one method: name, first epoch, last epoch."""
        phases: list[tuple[str, float, float]] = []
        for row, epoch in zip(self._rows, self.epochs, strict=True):
            method = row.get("method") or ""
            start = phases.pop()[1] if phases and phases[-1][0] == method else epoch
            phases.append((method, start, epoch))
        return [phase for phase in phases if phase[0]]


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _losses(axes: Any, summary: _Summary) -> None:
    _lines(axes, summary, {"train_loss": ("training", _BLUE, "-"), "eval_loss": ("evaluation", _ORANGE, "-")})
    axes.set_ylabel("loss")


def _accuracies(axes: Any, summary: _Summary) -> None:
    lines = {
        "train_top1": ("training top-1", _BLUE, "-"),
        "eval_top1": ("evaluation top-1", _ORANGE, "-"),
        "eval_top5": ("evaluation top-5", _ORANGE, "--"),
    }
    _lines(axes, summary, lines)
    top1 = summary.column("eval_top1")
    # The saved model is the best one under the final method.
    top1[summary.epochs < max((first for _, first, _ in summary.phases()), default=-math.inf)] = math.nan
    if np.isfinite(top1).any():
        best = int(np.nanargmax(top1))
        axes.plot(summary.epochs[best], top1[best], "o", ms=5, color=_ORANGE, label=f"best top-1: {top1[best]:.2f}")
    axes.set_ylabel("accuracy (%)")


def _average_precision(axes: Any, summary: _Summary) -> None:
    lines = {
        "eval_map": ("evaluation mAP", _ORANGE, "-"),
        "eval_micro_f1": ("evaluation micro F1", _BLUE, "-"),
        "eval_macro_f1": ("evaluation macro F1", _BLUE, "--"),
    }
    _lines(axes, summary, lines)
    axes.set_ylabel("mAP and F1 (%)")


def _learning_rate(axes: Any, summary: _Summary) -> None:
    _lines(axes, summary, {"lr": ("", _GREEN, "-")})
    if (summary.column("lr") > 0).any():
        axes.set_yscale("log")
    axes.set_ylabel("learning rate")


def _conditioning(axes: Any, summary: _Summary) -> None:
    _lines(axes, summary, {"kappa": ("", _PURPLE, "-")})
    if (summary.column("kappa") > 0).any():
        axes.set_yscale("log")
    axes.set_ylabel("κ of Σ (median)", color=_PURPLE if summary.has("rank") else "black")
    if summary.has("rank"):
        right = axes.twinx()
        _lines(right, summary, {"rank": ("", _BLUE, "-")})
        right.set_ylabel("rank of Σ (median)", color=_BLUE)
        right.set_ylim(bottom=0)
        right.margins(y=0.1)
        right.yaxis.set_major_locator(integer_locator())
        right.spines["top"].set_visible(False)


# A panel is drawn if the summary has one of its columns.
_PANELS: Sequence[tuple[Sequence[str], Callable[[Any, _Summary], None]]] = (
    (("train_loss", "eval_loss"), _losses),
    (("train_top1", "eval_top1", "eval_top5"), _accuracies),
    (("eval_map", "eval_micro_f1", "eval_macro_f1"), _average_precision),
    (("lr",), _learning_rate),
    (("kappa", "rank"), _conditioning),
)


def _lines(axes: Any, summary: _Summary, lines: Mapping[str, tuple[str, str, str]]) -> None:
    for name, (label, colour, style) in lines.items():
        if summary.has(name):
            values = summary.column(name)
            present = np.isfinite(values)
            # A single epoch has no line: mark it.
            marker = "." if present.sum() < 25 else ""
            axes.plot(summary.epochs[present], values[present], style, marker=marker, color=colour, label=label, lw=1.6)


def _style(axes: Any) -> None:
    axes.grid(True, color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines["top"].set_visible(False)
    axes.spines["right"].set_visible(False)
    axes.xaxis.set_major_locator(integer_locator(steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize="small")


def _mark_switches(axes: Any, phases: Sequence[tuple[str, float, float]]) -> None:
    """A line where the method changes, half-way between the two epochs, and the methods' names above the axes."""
    for (before, _, last), (after, first, _) in itertools.pairwise(phases):
        at = (last + first) / 2
        axes.axvline(at, color="0.35", lw=1.1, ls=(0, (4, 3)), zorder=1)
        above = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "fontsize": "small"}
        axes.annotate(f"{before} ←", (at, 1.0), xytext=(-4, 3), ha="right", color="0.25", **above)
        axes.annotate(f"→ {after}", (at, 1.0), xytext=(4, 3), ha="left", color="0.25", **above)


def draw_curves(summary_csv: PathLike, out_png: PathLike, title: str | None = None) -> None:
    """Draws a run: loss, accuracy, learning rate and conditioning by epoch, and where the method switches.

    A panel whose columns the summary lacks is left out.

    Args:
        summary_csv: the run's ``summary.csv``.
        out_png: the picture; its folder must exist. Replaced at once when the new one is complete.
        title: a heading.

    Raises:
        GCPError: the summary cannot be read, or has no epoch or nothing to draw.
    """
    summary = _Summary(summary_csv)
    panels = _panels_of(summary, summary_csv)
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(figsize=(5.2 * columns, 3.3 * rows), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, draw in zip(grid, panels, strict=False):
        _draw_panel(axes, draw, summary)
    for axes in grid[len(panels) :]:
        axes.remove()
    methods = list(dict.fromkeys(method for method, _, _ in summary.phases()))
    heading = [title] if title else []
    # Without a switch no line names the method.
    heading += [f"method: {methods[0]}"] if len(methods) == 1 else []
    if heading:
        figure.suptitle(" · ".join(heading), fontsize="medium", fontweight="bold")
    save_figure(figure, out_png)


def curve_figures(summary_csv: PathLike) -> list["Figure"]:
    """The panels of `draw_curves`, each as a figure.

    Args:
        summary_csv: the run's ``summary.csv``.

    Raises:
        GCPError: as `draw_curves`.
    """
    summary, figures = _Summary(summary_csv), []
    for draw in _panels_of(summary, summary_csv):
        figure = new_figure(figsize=_PANEL_SIZE, layout="constrained")
        _draw_panel(figure.subplots(), draw, summary)
        figures.append(figure)
    return figures


def measured(summary_csv: PathLike) -> list[str]:
    """The columns of a summary that have a number.

    Raises:
        GCPError: the summary cannot be read, or has no epoch.
    """
    return _Summary(summary_csv).measured()


def _panels_of(summary: _Summary, path: PathLike) -> list[Callable[[Any, _Summary], None]]:
    panels = [draw for names, draw in _PANELS if any(summary.has(name) for name in names)]
    if not panels:
        raise GCPError(f"'{path}' has nothing to draw: no loss, accuracy, learning rate or conditioning.")
    return panels


def _draw_panel(axes: Any, draw: Callable[[Any, _Summary], None], summary: _Summary) -> None:
    draw(axes, summary)
    _style(axes)
    _mark_switches(axes, summary.phases())


def draw_comparison(
    runs: Mapping[str, PathLike | Sequence[PathLike]], out_png: PathLike, metric: str = "eval_top1"
) -> None:
    """Draws one metric of several runs on the same axes.

    Args:
        runs: label → a ``summary.csv``, or several (seeds): then the line is their mean, and the band one sample
            standard deviation to either side, at the epochs that all of them have.
        out_png: the picture; its folder must exist.
        metric: a column of the summaries.

    Raises:
        GCPError: a summary cannot be read or lacks the metric.
    """
    figure = comparison_figure(runs, metric, figsize=(6.4, 4.0))
    figure.set_facecolor("white")
    save_figure(figure, out_png)


def comparison_figure(
    runs: Mapping[str, PathLike | Sequence[PathLike]],
    metric: str,
    figsize: tuple[float, float] = _PANEL_SIZE,
    numbers: Mapping[str, int] | None = None,
) -> "Figure":
    """The figure of `draw_comparison`.

    Args:
        runs: as there.
        metric: as there.
        figsize: width and height, inches.
        numbers: label → number of its colour and line; None counts the runs.

    Raises:
        GCPError: as there.
    """
    if not runs:
        raise GCPError("There is no run to compare.")
    figure = new_figure(figsize=figsize, layout="constrained")
    axes = figure.subplots()
    positive = False
    for at, (label, given) in enumerate(runs.items()):
        i = numbers[label] if numbers else at
        paths = [given] if isinstance(given, str | os.PathLike) else list(given)
        epochs, values = _stack(paths, metric)
        mean = values.mean(0)
        positive |= bool((mean > 0).any())
        colour = PALETTE[i % len(PALETTE)]
        form = ".2f" if metric.endswith(_SHARES) else ".3g"
        last = f"{mean[-1]:{form}}"
        if len(paths) > 1:
            deviation = values.std(0, ddof=1)
            axes.fill_between(epochs, mean - deviation, mean + deviation, color=colour, alpha=0.18, lw=0)
            last += f" ± {deviation[-1]:{form}}, {len(paths)} runs"
        marker = "." if len(epochs) < 25 else ""
        style = ("-", "--", ":")[i // len(PALETTE) % 3]
        axes.plot(epochs, mean, style, marker=marker, color=colour, lw=1.8, label=f"{plain_text(label)} (last: {last})")
    part, _, name = metric.partition("_")
    parts = {"eval": "evaluation", "train": "training"}
    named = f"{parts[part]} {_NAMES.get(name, name)}" if part in parts else _NAMES.get(metric, metric)
    axes.set_ylabel(f"{named} (%)" if name in _SHARES else named)
    if metric in ("lr", "kappa") and positive:
        axes.set_yscale("log", nonpositive="mask")
    _style(axes)
    axes.legend(frameon=False, fontsize="small")
    return figure


def _stack(paths: Sequence[PathLike], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The epochs that all summaries have a value for, and the values, ``[runs, epochs]``."""
    series = []
    for path in paths:
        summary = _Summary(path)
        values = summary.column(metric)
        series.append({e: v for e, v in zip(summary.epochs, values, strict=True) if math.isfinite(v)})
    epochs = sorted(set.intersection(*map(set, series))) if series else []
    if not epochs:
        raise GCPError(f"There is no epoch at which all of {', '.join(map(str, paths))} have a value for '{metric}'.")
    return np.array(epochs), np.array([[run[epoch] for epoch in epochs] for run in series])
