"""The result of an evaluation: metrics and predictions of images with one label or with several."""

from pathlib import Path
from typing import Any

import numpy as np

from ..commands.validate import Validated
from ..errors import GCPError
from ..predictions import TOP, Predictions
from ..reports.metrics import LEVEL, Interval, mean_average_precision, metrics_of
from ..reports.notebook import Fact, Table, show
from ..reports.report import class_table
from ..tasks import MultiLabelPredictions

__all__ = ["EvaluationResult"]

_ROWS = 200  # of the table in a notebook
_SHARES = {"precision": "precision", "recall": "recall", "f1": "F1", "average_precision": "average precision"}


class EvaluationResult:
    """What an evaluation measured.

    Args:
        validated: what came out of the command.

    Attributes:
        metrics: ``top1`` and ``top5``, per cent; ``map``, ``micro_f1`` and ``macro_f1`` where an image has any number
            of labels; and ``loss``, the mean cross-entropy.
        count: number of images.
        row: the result as one line of a results file: model, data, metrics, preprocessing.
        predictions: image by image.
        report: the page of ``report=DIR``, None without it.
    """

    def __init__(self, validated: Validated) -> None:
        found = validated.evaluation
        self.metrics: dict[str, float] = {**found.metrics, "loss": found.loss}
        self.count: int = found.count
        self.row: dict[str, Any] = validated.row
        self.predictions: Predictions | MultiLabelPredictions = found.predictions
        self.report: Path | None = validated.report
        self._names = found.task.metrics

    @property
    def top1(self) -> float:
        """Accuracy, per cent.

        Raises:
            GCPError: an image has any number of labels.
        """
        return self._accuracy("top1")

    @property
    def top5(self) -> float:
        """Share of the images whose class is among the five most probable ones, per cent.

        Raises:
            GCPError: as `top1`.
        """
        return self._accuracy("top5")

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return self.metrics["loss"]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of ``top1``, or of ``map`` where an image has any number of labels, per cent."""
        predictions = self.predictions
        if isinstance(predictions, MultiLabelPredictions):
            found = mean_average_precision(predictions)
        else:
            found = metrics_of(predictions).top1
        return 100 * found.low, 100 * found.high

    def per_class(self) -> list[dict[str, Any]]:
        """One dictionary for each class, worst first; ``pandas.DataFrame`` makes a table of them.

        They have the class and its number of images. With one label per image: precision, recall with its interval, F1
        (from 0 to 1) and the class for which it is taken most often, for each class that has an image or is predicted.
        With any number of labels: average precision, from 0 to 1, for each class that has an image.
        """
        if isinstance(self.predictions, MultiLabelPredictions):
            return _average_precisions(self.predictions)
        return sorted(class_table(self.predictions), key=lambda row: (row["f1"], row["label"]))

    def _accuracy(self, name: str) -> float:
        if name not in self.metrics:
            raise GCPError(f"`{name}` is for one label per image; `metrics` has {', '.join(self._names)}.")
        return self.metrics[name]

    def _title(self) -> str:
        data = Path(self.row["data_dir"]).resolve().name if self.row["data_dir"] else ""
        return f"{self.row['model']} on {data or self.row['dataset']}, {self.row['split']}"

    def _facts(self) -> list[Fact]:
        if isinstance(self.predictions, MultiLabelPredictions):
            notes = {"map": _ends(mean_average_precision(self.predictions))}
            facts = [Fact(name, f"{self.metrics[key]:.2f} %", notes.get(key, "")) for key, name in self._names.items()]
            classes = len(self.predictions.class_names)
        else:
            facts, classes = _with_intervals(self.predictions)
        facts.append(Fact("loss", f"{self.loss:.4f}"))
        facts.append(Fact("images", f"{self.count}", f"of {classes} classes"))
        if self.row["method"]:
            facts.append(Fact("method", self.row["method"]))
        if self.report is not None:
            facts.append(Fact("report", str(self.report)))
        return facts

    def __repr__(self) -> str:
        lines = (f"  {fact.name:<17} {fact.value}{f'  ({fact.note})' * bool(fact.note)}" for fact in self._facts())
        return "\n".join([self._title(), *lines])

    def _repr_html_(self) -> str:
        classes = self.per_class()
        shown = f", the {_ROWS} worst" if len(classes) > _ROWS else ""
        measured = {key: name for key, name in _SHARES.items() if key in classes[0]}
        columns = ["class", "images", *measured.values(), "most often taken for" * ("taken_for" in classes[0])]
        rows = [_cells(row, list(measured)) for row in classes[:_ROWS]]
        return show(self._title(), facts=self._facts(), table=Table(f"Classes ({len(classes)}{shown})", columns, rows))


def _with_intervals(predictions: Predictions) -> tuple[list[Fact], int]:
    """The lines of the metrics that have an interval, and the number of classes that have an image."""
    found = metrics_of(predictions)
    measured = {"top-1": found.top1}
    if len(predictions.class_names) > TOP:
        measured["top-5"] = found.top5
    measured |= {"balanced accuracy": found.balanced_accuracy, "macro F1": found.macro_f1}
    return [Fact(name, f"{100 * each.value:.2f} %", _ends(each)) for name, each in measured.items()], found.classes


def _ends(interval: Interval) -> str:
    return f"{100 * LEVEL:.0f} % interval {100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _average_precisions(predictions: MultiLabelPredictions) -> list[dict[str, Any]]:
    images = predictions.targets.sum(0)
    found = predictions.average_precisions
    rows = [
        {
            "label": int(label),
            "class": predictions.class_names[label],
            "images": int(images[label]),
            "average_precision": float(found[label]),
        }
        for label in np.flatnonzero(images)
    ]
    return sorted(rows, key=lambda row: (row["average_precision"], row["label"]))


def _cells(row: dict[str, Any], measured: list[str]) -> list[str]:
    taken = f"{row['taken_for']} ({row['taken_for_images']})" if row.get("taken_for") else ""
    shares = ("–" if np.isnan(row[name]) else f"{100 * row[name]:.1f}" for name in measured)
    return [row["class"], str(row["images"]), *shares, taken]
