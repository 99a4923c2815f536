"""The report on an evaluation with any number of labels for each image: a page and the CSV files behind it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import check_output_folder, remove_files
from ..tasks.average_precision import f1_scores
from ..tasks.multi_label import MULTI_LABEL, multi_label_metrics
from ..tasks.multi_label_predictions import MultiLabelPredictions
from .metrics import mean_average_precision, wilson
from .page import save_page
from .report import CLASSES, METRICS, MISTAKE_SIZE, MISTAKES, PAGE, REPORT_FILES, TABLE
from .subject import Subject
from .tables import save_rows, save_table
from .thumbnails import Thumbnails

__all__ = ["write_multi_label_report"]


def write_multi_label_report(folder: Path, predictions: MultiLabelPredictions, dataset: Any, subject: Subject) -> Path:
    """Writes the report on predictions of a multi-label model: ``report.html`` and its CSV files.

    Args:
        folder: where; it is made, and an earlier report there is removed.
        predictions: of at least one image that has a label.
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
    metrics = multi_label_metrics(torch.from_numpy(predictions.logits), torch.from_numpy(predictions.targets))
    metrics["exact"] = 100 * float((predictions.predicted == predictions.targets).all(1).mean())
    interval = mean_average_precision(predictions)
    metrics.update(map_low=100 * interval.low, map_high=100 * interval.high)
    rows = _class_rows(predictions)
    save_table(folder / METRICS, ("metric", "value"), metrics.items())
    save_rows(folder / CLASSES, rows)
    thumbnails = Thumbnails(dataset)
    save_page(
        folder / PAGE,
        "multi_label_report.html",
        subject=subject,
        facts=subject.known_facts,
        metrics=metrics,
        intervals={"map": interval},
        names={**MULTI_LABEL.metrics, "exact": "All labels right"},
        labels=int(predictions.targets.sum()),
        curves=subject.curves(),
        classes=sorted(rows, key=lambda row: (np.nan_to_num(row["average_precision"], nan=2.0), row["label"]))[:TABLE],
        all_classes=len(rows),
        wrong=_mistakes(predictions, thumbnails, missed=False),
        missed=_mistakes(predictions, thumbnails, missed=True),
        pictures=thumbnails.there,
    )
    return folder / PAGE


def _class_rows(predictions: MultiLabelPredictions) -> list[dict[str, Any]]:
    """One row for each class."""
    targets, predicted = predictions.targets, predictions.predicted
    precisions, (_, f1) = predictions.average_precisions, f1_scores(targets, predicted)
    rows = []
    for label, name in enumerate(predictions.class_names):
        images, guesses = int(targets[:, label].sum()), int(predicted[:, label].sum())
        right = int((targets & predicted)[:, label].sum())
        recall = wilson(right, images)
        rows.append(
            {
                "label": label,
                "class": name,
                "images": images,
                "predicted": guesses,
                "right": right,
                "average_precision": float(precisions[label]),
                "precision": wilson(right, guesses).value,
                "recall": recall.value,
                "recall_low": recall.low,
                "recall_high": recall.high,
                "f1": float(f1[label]),
            }
        )
    return rows


@dataclass(frozen=True)
class _Mistake:
    """A class that an image has and that is not predicted, or the other way round."""

    image: str
    picture: str | None
    name: str
    probability: float
    labels: str


def _mistakes(predictions: MultiLabelPredictions, thumbnails: Thumbnails, missed: bool) -> list[_Mistake]:
    """The surest mistakes: labels that are missed, or predicted without being there."""
    surest = -predictions.logits if missed else predictions.logits
    wrong = predictions.targets != predictions.predicted
    places = np.argwhere(wrong & (predictions.targets == missed))
    order = np.argsort(-surest[tuple(places.T)], kind="stable")[:MISTAKES]
    found = []
    for image, label in places[order].tolist():
        present = [predictions.class_names[each] for each in np.flatnonzero(predictions.targets[image])]
        found.append(
            _Mistake(
                predictions.images[image],
                thumbnails.uri(image, MISTAKE_SIZE),
                predictions.class_names[label],
                float(torch.tensor(predictions.logits[image, label]).sigmoid()),
                ", ".join(present) or "no label",
            )
        )
    return found
