"""``timm_gcp.evaluate``: ``timm-gcp validate`` from Python."""

from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from ..commands.validate import Validated, read_validate_keywords, validate, validate_parser
from ..predictions import TOP, Predictions
from ..reports.metrics import LEVEL, Interval, Metrics, metrics_of
from ..reports.notebook import Fact, Table, show
from ..reports.report import class_table
from .function import takes_options_of
from .named_model import Model, split_model

__all__ = ["EvaluationResult", "evaluate"]

_ROWS = 200  # of the table in a notebook


class EvaluationResult:
    """What an evaluation measured.

    Args:
        validated: what came out of the command.

    Attributes:
        row: the result as one line of a results file: model, data, metrics, preprocessing.
        predictions: image by image.
        report: the page of ``report=DIR``, None without it.
    """

    def __init__(self, validated: Validated) -> None:
        self.row: dict[str, Any] = validated.row
        self.predictions: Predictions = validated.evaluation.predictions
        self.report: Path | None = validated.report
        self._evaluation = validated.evaluation

    @property
    def top1(self) -> float:
        """Accuracy, per cent."""
        return self._evaluation.top1

    @property
    def top5(self) -> float:
        """Share of the images whose class is among the five most probable ones, per cent."""
        return self._evaluation.top5

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return self._evaluation.loss

    @property
    def count(self) -> int:
        """Number of images."""
        return self._evaluation.count

    @cached_property
    def metrics(self) -> Metrics:
        """Top-1, top-5, balanced accuracy and macro F1, from 0 to 1, each with its 95 % confidence interval."""
        return metrics_of(self.predictions)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of `top1` (Wilson's), per cent."""
        return 100 * self.metrics.top1.low, 100 * self.metrics.top1.high

    def per_class(self) -> list[dict[str, Any]]:
        """One dictionary for each class that has an image or is predicted, worst F1 first.

        They have the class, its images, precision, recall with its interval, F1 (from 0 to 1) and the class for which
        it is taken most often; ``pandas.DataFrame`` makes a table of them.
        """
        return sorted(class_table(self.predictions), key=lambda row: (row["f1"], row["label"]))

    def _title(self) -> str:
        data = Path(self.row["data_dir"]).resolve().name if self.row["data_dir"] else ""
        return f"{self.row['model']} on {data or self.row['dataset']}, {self.row['split']}"

    def _facts(self) -> list[Fact]:
        measured = {"top-1": self.metrics.top1}
        if len(self.predictions.class_names) > TOP:
            measured["top-5"] = self.metrics.top5
        measured |= {"balanced accuracy": self.metrics.balanced_accuracy, "macro F1": self.metrics.macro_f1}
        facts = [Fact(name, f"{100 * each.value:.2f} %", _ends(each)) for name, each in measured.items()]
        facts.append(Fact("loss", f"{self.loss:.4f}"))
        facts.append(Fact("images", f"{self.count}", f"of {self.metrics.classes} classes"))
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
        shown = f", the {_ROWS} with the lowest F1" if len(classes) > _ROWS else ""
        table = Table(
            f"Classes ({len(classes)}{shown})",
            ("class", "images", "precision", "recall", "F1", "most often taken for"),
            [_cells(row) for row in classes[:_ROWS]],
        )
        return show(self._title(), facts=self._facts(), table=table)


def _ends(interval: Interval) -> str:
    return f"{100 * LEVEL:.0f} % interval {100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _cells(row: dict[str, Any]) -> list[str]:
    taken = f"{row['taken_for']} ({row['taken_for_images']})" if row["taken_for"] else ""
    shares = ("–" if row[name] != row[name] else f"{100 * row[name]:.1f}" for name in ("precision", "recall", "f1"))
    return [row["class"], str(row["images"]), *shares, taken]


@takes_options_of(validate_parser())
def evaluate(
    model: Model | None = None, data_dir: str | PathLike[str] | None = None, **options: Any
) -> EvaluationResult:
    """Evaluates a model on a data set, as ``timm-gcp validate`` does.

    Args:
        model: registered name, model folder, run folder, result of ``timm_gcp.train`` or ``hf-hub:`` id, loaded with
            its weights; or a timm model, which is moved to the device and left in evaluation mode.
        data_dir: folder of the data set.
        **options: the long options of the command with underscores, such as ``split="test"`` and ``report="page"``.
            None counts as not given.

    Returns:
        The metrics and predictions.

    Raises:
        GCPError: as the command: a model or data set that cannot be had, or that do not fit each other.

    Example::

        found = timm_gcp.evaluate("runs/a", "photos", split="test")
        print(found.top1, found.interval)
    """
    network, named = split_model(model, options)
    args = read_validate_keywords({**named, "data_dir": data_dir}, "timm_gcp.evaluate")
    return EvaluationResult(validate(args, network))
