"""The comparison of several runs: a page and the CSV files behind it."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import check_output_folder, remove_files
from ..tasks import MULTI_LABEL, SINGLE_LABEL, Task
from ..training.curves import PALETTE, comparison_figure, measured
from .calibration import calibration_of
from .charts import inline_svg, interval_chart
from .compared_runs import ComparedRun
from .metrics import Metrics, class_counts, metrics_of
from .page import save_page
from .paired import Paired, aligned, compare_paired, holm
from .report import TABLE
from .tables import save_table

__all__ = ["PAGE", "Comparison", "Row", "compare_runs", "write_comparison"]

PAGE = "compare.html"
_RUNS, _PAIRS, _CLASSES = "runs.csv", "pairs.csv", "classes.csv"
_CURVES = (
    *("eval_top1", "eval_map", "eval_micro_f1", "eval_macro_f1", "eval_loss"),
    *("train_top1", "train_loss", "lr", "kappa"),
)


@dataclass(frozen=True)
class Row:
    """A run in the table.

    Attributes:
        label: of the run.
        number: from 0, of its colour.
        metrics: of its predictions; None without them.
        calibration_error: expected; nan without predictions.
        result: what its folder tells of it.
    """

    label: str
    number: int
    metrics: Metrics | None
    calibration_error: float
    result: dict[str, Any]

    @property
    def millions(self) -> float:
        """Parameters of the model in millions; nan where the folder does not tell."""
        found = self.result.get("parameters")
        return found / 1e6 if isinstance(found, int) else math.nan

    @property
    def colour(self) -> str:
        """CSS variable of its lines."""
        place = self.number % len(PALETTE)
        return f"var(--series-{place})" if place < len(PALETTE) - 1 else "var(--ink)"


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        runs: in the order in which they were given.
        rows: of the table, one for each run.
        pairs: two rows and their comparison, for all runs that were evaluated on the same images.
        apart: labels of two runs that were evaluated on different images.
        task: whether an image has one label or several; then there are no pairs.
    """

    runs: list[ComparedRun]
    rows: list[Row]
    pairs: list[tuple[Row, Row, Paired]]
    apart: list[tuple[str, str]]
    task: Task = SINGLE_LABEL


def compare_runs(runs: Sequence[ComparedRun]) -> Comparison:
    """Compares runs: metrics of each, and differences of all pairs that were evaluated on the same images.

    Args:
        runs: at least one.
    """
    rows, pairs, apart = [_row(run, number) for number, run in enumerate(runs)], [], []
    for (first, a), (second, b) in itertools.combinations(zip(runs, rows, strict=True), 2):
        if first.predictions is None or second.predictions is None:
            continue
        found = compare_paired(first.predictions, second.predictions)
        if found is None:
            apart.append((a.label, b.label))
        else:
            pairs.append((a, b, found))
    adjusted = holm([found for _, _, found in pairs])
    pairs = [(a, b, found) for (a, b, _), found in zip(pairs, adjusted, strict=True)]
    return Comparison(list(runs), rows, pairs, apart, runs[0].task)


def _row(run: ComparedRun, number: int) -> Row:
    if run.predictions is None:
        return Row(run.label, number, None, math.nan, run.result)
    error = calibration_of(run.predictions).error
    return Row(run.label, number, metrics_of(run.predictions), error, run.result)


def write_comparison(folder: Path, comparison: Comparison) -> Path:
    """Writes a comparison: ``compare.html`` and its CSV files.

    Args:
        folder: where; it is made, and an earlier comparison there is removed.
        comparison: of the runs.

    Returns:
        The page.

    Raises:
        GCPError: a file cannot be written, or a summary cannot be read.
    """
    check_output_folder(folder)
    remove_files(folder, (PAGE, _RUNS, _PAIRS, _CLASSES))
    folder.mkdir(parents=True, exist_ok=True)
    classes, (trained, settings) = _classes(comparison.runs), _settings(comparison.runs)
    _save_tables(folder, comparison, classes)
    save_page(
        folder / PAGE,
        "compare.html",
        comparison=comparison,
        accuracies=_accuracies(comparison.rows),
        curves=_curves(comparison.runs),
        trained=trained,
        settings=settings,
        class_runs=classes[0],
        classes=classes[1][:TABLE],
        all_classes=len(classes[1]),
    )
    return folder / PAGE


def _accuracies(rows: Sequence[Row]) -> Any:
    shown = [(row.label, row.metrics.top1, row.number) for row in rows if row.metrics is not None]
    return inline_svg(interval_chart(shown), "Top-1 accuracy with its confidence interval") if shown else None


def _curves(runs: Sequence[ComparedRun]) -> list[Any]:
    """A figure for each column of the summaries that a run has."""
    numbers = {run.label: number for number, run in enumerate(runs)}
    columns = {run.label: set(measured(run.summary)) for run in runs if run.summary is not None}
    figures = []
    for metric in _CURVES:
        shown = {run.label: run.summary for run in runs if run.summary and metric in columns[run.label]}
        if shown:
            figures.append(inline_svg(comparison_figure(shown, metric, numbers=numbers), metric))
    return figures


def _settings(runs: Sequence[ComparedRun]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Settings in which the trainings differ.

    Returns:
        Labels of the trainings; name of each setting and its value in each training.
    """
    trained = {run.label: run.settings for run in runs if run.settings}
    first = next(iter(trained.values()), {})
    names = sorted(set().union(*trained.values())) if len(trained) > 1 else []
    differ = [name for name in names if any(each.get(name) != first.get(name) for each in trained.values())]
    return list(trained), [(name, [_shown(each, name) for each in trained.values()]) for name in differ]


def _shown(settings: dict[str, Any], name: str) -> str:
    value = settings.get(name)
    return "–" if value in (None, "", [], {}) else str(value)


def _classes(runs: Sequence[ComparedRun]) -> tuple[list[str], list[dict[str, Any]]]:
    """Recall of each class, for the runs that were evaluated on the images of the first one.

    Returns:
        Labels of the runs, and the classes with the largest differences first.
    """
    evaluated = [(run.label, run.predictions) for run in runs if run.predictions is not None]
    same = [(label, each) for label, each in evaluated if aligned(evaluated[0][1], each) is not None]
    if len(same) < 2:
        return [], []
    columns: list[dict[str, tuple[int, float]]] = []
    for _, predictions in same:
        counts, names = class_counts(predictions), predictions.class_names
        each = zip(counts.labels.tolist(), counts.images.tolist(), counts.recall.tolist(), strict=True)
        columns.append({names[label]: (images, recall) for label, images, recall in each if images})
    rows = []
    for name, (images, _) in columns[0].items():
        recalls = [column[name][1] for column in columns]
        rows.append({"class": name, "images": images, "recalls": recalls, "spread": max(recalls) - min(recalls)})
    return [label for label, _ in same], sorted(rows, key=lambda row: (-row["spread"], row["class"]))


def _save_tables(folder: Path, comparison: Comparison, classes: tuple[list[str], list[dict[str, Any]]]) -> None:
    if comparison.task is MULTI_LABEL:
        keys = [*MULTI_LABEL.metrics, "loss", "count"]
        runs = zip(comparison.rows, comparison.runs, strict=True)
        results = ([row.label, str(run.folder), *map(row.result.get, keys)] for row, run in runs)
        save_table(folder / _RUNS, ["run", "folder", *keys], results)
        return
    names = ("top1", "top5", "balanced_accuracy", "macro_f1")
    lines = []
    for row, run in zip(comparison.rows, comparison.runs, strict=True):
        intervals = [getattr(row.metrics, name) for name in names] if row.metrics else []
        cells = [end for each in intervals for end in (each.value, each.low, each.high)] or [None] * 3 * len(names)
        loss, images = (row.metrics.loss, row.metrics.images) if row.metrics else (None, None)
        lines.append([row.label, str(run.folder), *cells, loss, row.calibration_error, images])
    titles = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    save_table(folder / _RUNS, ["run", "folder", *titles, "loss", "calibration_error", "images"], lines)
    save_table(
        folder / _PAIRS,
        ("first", "second", "images", "only_first", "only_second", "difference", "low", "high", "p", "p_holm"),
        (
            (
                a.label,
                b.label,
                found.images,
                found.only_first,
                found.only_second,
                *_ends(found),
                found.p,
                found.adjusted,
            )
            for a, b, found in comparison.pairs
        ),
    )
    save_table(
        folder / _CLASSES,
        ["class", "images", *classes[0]],
        ([row["class"], row["images"], *row["recalls"]] for row in classes[1]),
    )


def _ends(found: Paired) -> tuple[float, float, float]:
    return found.difference.value, found.difference.low, found.difference.high
