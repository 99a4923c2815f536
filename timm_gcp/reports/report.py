"""The report on one evaluation: a page and the CSV files behind it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import check_output_folder, remove_files
from ..predictions import TOP, Predictions
from .calibration import Calibration, calibration_of
from .charts import inline_svg, reliability_diagram
from .confusion import Cells, ConfusedPair, clustered_order, confusion_cells, most_confused
from .metrics import ClassCounts, Metrics, class_counts, metrics_of, wilson
from .page import save_page
from .subject import Subject
from .tables import save_rows, save_table
from .thumbnails import Thumbnails

__all__ = ["PAGE", "REPORT_FILES", "Subject", "class_table", "write_report"]

PAGE = "report.html"
METRICS, CLASSES, CONFUSION, CALIBRATION = "metrics.csv", "classes.csv", "confusion.csv", "calibration.csv"
REPORT_FILES = (PAGE, METRICS, CLASSES, CONFUSION, CALIBRATION)
"""All that a report of either kind may consist of."""
MISTAKES, MISTAKE_SIZE = 24, 200
PAIRS, EXAMPLES, EXAMPLE_SIZE = 12, 3, 136
TABLE = 2000
"""Most classes of the table on the page; the file has all."""


def write_report(folder: Path, predictions: Predictions, dataset: Any, subject: Subject) -> Path:
    """Writes the report on predictions: ``report.html`` and its CSV files.

    Args:
        folder: where; it is made, and an earlier report there is removed.
        predictions: of at least one image.
        dataset: the images that they are of, in the same order, for the pictures.
        subject: what the report is about.

    Returns:
        The page.

    Raises:
        GCPError: a file cannot be written.
    """
    check_output_folder(folder)
    remove_files(folder, REPORT_FILES)
    folder.mkdir(parents=True, exist_ok=True)
    metrics, counts, calibration = metrics_of(predictions), class_counts(predictions), calibration_of(predictions)
    cells = confusion_cells(predictions)
    rows = _class_rows(predictions.class_names, counts, cells)
    _save_tables(folder, predictions.class_names, metrics, calibration, cells, rows)
    thumbnails = Thumbnails(dataset)
    save_page(
        folder / PAGE,
        "report.html",
        subject=subject,
        facts=subject.known_facts,
        metrics=metrics,
        top5=len(predictions.class_names) > TOP,
        calibration=calibration,
        reliability=inline_svg(reliability_diagram(calibration), "Reliability diagram"),
        curves=subject.curves(),
        classes=sorted(rows, key=lambda row: (row["f1"], row["label"]))[:TABLE],
        all_classes=len(rows),
        pairs=[_pair(pair, predictions, counts, thumbnails) for pair in most_confused(cells, PAIRS)],
        mistakes=_mistakes(predictions, thumbnails),
        matrix=_matrix(predictions.class_names, counts, cells),
        pictures=thumbnails.there,
    )
    return folder / PAGE


def class_table(predictions: Predictions) -> list[dict[str, Any]]:
    """One row for each class that has an image or is predicted, as in ``classes.csv`` of a report.

    Args:
        predictions: of at least one image.

    Returns:
        Rows with the class, its images, precision, recall with its interval, F1 (all from 0 to 1; nan where they are
        not defined) and the class for which it is taken most often.
    """
    return _class_rows(predictions.class_names, class_counts(predictions), confusion_cells(predictions))


def _class_rows(names: Sequence[str], counts: ClassCounts, cells: Cells) -> list[dict[str, Any]]:
    """One row for each class that has an image or is predicted."""
    off, rows = cells.mistakes, []
    taken_for: dict[int, tuple[int, int]] = {}
    for label, guess, number in zip(off.true.tolist(), off.predicted.tolist(), off.count.tolist(), strict=True):
        taken_for[label] = max(taken_for.get(label, (0, 0)), (number, guess))
    columns = (counts.labels, counts.images, counts.predicted, counts.right)
    measures = (counts.precision.tolist(), counts.recall.tolist(), counts.f1.tolist())
    for label, images, predicted, right, precision, recall, f1 in zip(
        *(column.tolist() for column in columns), *measures, strict=True
    ):
        interval, (number, other) = wilson(right, images), taken_for.get(label, (0, -1))
        rows.append(
            {
                "label": label,
                "class": names[label],
                "images": images,
                "predicted": predicted,
                "right": right,
                "precision": precision,
                "recall": recall,
                "recall_low": interval.low,
                "recall_high": interval.high,
                "f1": f1,
                "taken_for": names[other] if number else "",
                "taken_for_images": number,
            }
        )
    return rows


def _save_tables(
    folder: Path,
    names: Sequence[str],
    metrics: Metrics,
    calibration: Calibration,
    cells: Cells,
    rows: Sequence[Mapping[str, Any]],
) -> None:
    measured = {name: getattr(metrics, name) for name in ("top1", "top5", "balanced_accuracy", "macro_f1")}
    lines: list[Sequence[Any]] = [(name, each.value, each.low, each.high) for name, each in measured.items()]
    lines += [("loss", metrics.loss, None, None), ("calibration_error", calibration.error, None, None)]
    lines += [("images", metrics.images, None, None), ("classes", metrics.classes, None, None)]
    save_table(folder / METRICS, ("metric", "value", "low", "high"), lines)
    save_rows(folder / CLASSES, rows)
    pairs = zip(cells.true.tolist(), cells.predicted.tolist(), cells.count.tolist(), strict=True)
    save_table(
        folder / CONFUSION,
        ("label", "class", "prediction", "predicted_class", "images"),
        ((label, names[label], guess, names[guess], number) for label, guess, number in pairs),
    )
    bins = (calibration.edges[:-1], calibration.edges[1:], calibration.images)
    save_table(
        folder / CALIBRATION,
        ("low", "high", "images", "confidence", "accuracy"),
        zip(*(each.tolist() for each in (*bins, calibration.confidence, calibration.accuracy)), strict=True),
    )


def _mistakes(predictions: Predictions, thumbnails: Thumbnails) -> list[dict[str, Any]]:
    """The wrong predictions with the highest confidence, most confident first."""
    wrong = np.flatnonzero(~predictions.right)
    order = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:MISTAKES]
    return [_example(int(index), predictions, thumbnails, MISTAKE_SIZE) for index in order]


def _example(index: int, predictions: Predictions, thumbnails: Thumbnails, size: int) -> dict[str, Any]:
    names = predictions.class_names
    return {
        "image": predictions.images[index],
        "picture": thumbnails.uri(index, size),
        "class": names[predictions.labels[index]],
        "predicted": names[predictions.predicted[index]],
        "confidence": float(predictions.confidence[index]),
        "right": bool(predictions.right[index]),
    }


def _pair(pair: ConfusedPair, predictions: Predictions, counts: ClassCounts, thumbnails: Thumbnails) -> dict[str, Any]:
    """Two classes that are taken for each other, with images of both: first mistakes, then recognised ones."""
    sides = []
    images = dict(zip(counts.labels.tolist(), counts.images.tolist(), strict=True))
    for label, other, taken in ((pair.first, pair.second, pair.forth), (pair.second, pair.first, pair.back)):
        own = predictions.labels == label
        confused = _surest(predictions, own & (predictions.predicted == other))
        rest = [*_surest(predictions, own & predictions.right), *_surest(predictions, own)]
        chosen = list(dict.fromkeys([*confused[: EXAMPLES - 1], *rest]))[:EXAMPLES]
        sides.append(
            {
                "class": predictions.class_names[label],
                "images": images[label],
                "taken": taken,
                "examples": [_example(index, predictions, thumbnails, EXAMPLE_SIZE) for index in chosen],
                "other": predictions.class_names[other],
            }
        )
    return {"count": pair.count, "sides": sides}


def _surest(predictions: Predictions, which: np.ndarray) -> list[int]:
    """The images of a selection with the highest confidence, at most `EXAMPLES`."""
    indices = np.flatnonzero(which)
    return indices[np.argsort(-predictions.confidence[indices], kind="stable")][:EXAMPLES].tolist()


def _matrix(names: Sequence[str], counts: ClassCounts, cells: Cells) -> dict[str, Any]:
    """The confusion matrix for the script of the page: classes by their place in the list."""
    clustered = np.searchsorted(counts.labels, clustered_order(cells, counts.labels))
    places = (np.searchsorted(counts.labels, each).tolist() for each in (cells.true, cells.predicted))
    return {
        "names": [names[label] for label in counts.labels],
        "images": counts.images.tolist(),
        "clustered": clustered.tolist(),
        "cells": [list(cell) for cell in zip(*places, cells.count.tolist(), strict=True)],
    }
