"""A finished training run, read from its folder."""

import csv
import json
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from torch import nn

from ..commands.reporting import FOLDER
from ..errors import GCPError
from ..models.named import ModelChoice, load_model
from ..predictions import FILE, Predictions, read_predictions
from ..reports.notebook import Fact, show
from ..reports.report import PAGE
from ..tasks import MULTI_LABEL, SINGLE_LABEL
from ..training.curves import curve_figures
from ..training.progress import clock

__all__ = ["TrainResult"]

_WHOLE = ("epoch", "skipped", "fallbacks")
_TEXT = ("method",)
_CHARTS = 2  # loss and accuracy
_MEASURED = {**SINGLE_LABEL.metrics, **MULTI_LABEL.metrics, "loss": "loss"}


class TrainResult:
    """A finished training run. Wherever a path is taken, it stands for its folder: ``evaluate(model=result, ...)``.

    Args:
        folder: of the run, also one that ``timm-gcp train`` made.

    Attributes:
        folder: of the run.
        record: the content of its ``result.json``.
        history: one dictionary for each epoch, as in ``summary.csv`` (epochs from 0, what was not measured is None);
            ``pandas.DataFrame(result.history)`` makes a table of them.

    Raises:
        GCPError: the folder is not that of a run, or the run has not ended.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)
        self.record: dict[str, Any] = _read_record(self.folder)
        self.history: list[dict[str, Any]] = _read_history(self.folder / "summary.csv")

    @property
    def metrics(self) -> dict[str, float]:
        """Of the saved model on the evaluation split; empty without one."""
        return {name: self.record[name] for name in _MEASURED if self.record.get(name) is not None}

    @property
    def best_epoch(self) -> int:
        """Epoch of the saved model, counted from 0, as in ``history``; people count it from 1."""
        return int(self.record["epoch"])

    @property
    def best(self) -> dict[str, Any]:
        """The row of `history` of the best epoch."""
        return next((row for row in self.history if row["epoch"] == self.best_epoch), {})

    @property
    def last(self) -> dict[str, Any]:
        """The last row of `history`."""
        return self.history[-1] if self.history else {}

    @property
    def report(self) -> Path | None:
        """The page on the predictions; None without an evaluation split or with ``no_report``."""
        return _existing(self.folder / FOLDER / PAGE)

    @property
    def predictions(self) -> Predictions | None:
        """Of the saved model on the evaluation split; None without one, and where an image has any number of labels.

        The file ``predictions.csv`` of the run folder has those of several labels.
        """
        file = _existing(self.folder / FILE)
        return None if file is None or "top1" not in self.metrics else read_predictions(file)

    def model(self) -> nn.Module:
        """The best model with its weights, in evaluation mode.

        Raises:
            GCPError: it cannot be loaded.
        """
        return load_model(ModelChoice(model=fspath(self))).eval()

    def __fspath__(self) -> str:
        return str(self.folder)

    def _facts(self) -> list[Fact]:
        facts = [Fact("best epoch", f"{self.best_epoch + 1} of {self.record['epochs']}")]
        for name, value in self.metrics.items():
            facts.append(Fact(_MEASURED[name], f"{value:.4f}" if name == "loss" else f"{value:.2f} %"))
        if not self.metrics and self.best.get("train_loss") is not None:
            facts.append(Fact("training loss", f"{self.best['train_loss']:.4f}"))
        facts.append(Fact("method", self.record.get("method") or "none"))
        facts.append(Fact("training time", clock(self.record["wall_seconds"])))
        facts.append(Fact("folder", str(self.folder)))
        if self.report is not None:
            facts.append(Fact("report", str(self.report)))
        return facts

    def _title(self) -> str:
        split = f", evaluated on {self.record['split']}" if self.metrics else ""
        return f"{self.folder.name}: {self.record['model']}{split}"

    def __repr__(self) -> str:
        return "\n".join([self._title(), *(f"  {fact.name:<13} {fact.value}" for fact in self._facts())])

    def _repr_html_(self) -> str:
        figures = curve_figures(self.folder / "summary.csv")[:_CHARTS] if self.history else []
        return show(self._title(), facts=self._facts(), figures=figures)


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    if not path.is_file() and (folder / "last.pth.tar").is_file():
        raise GCPError(f"The run in {folder} has not ended: go on with `resume='{folder / 'last.pth.tar'}'`.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GCPError(f"{folder} is not the folder of a finished run: it has no result.json to read.") from error
    if not isinstance(record, dict) or not {"epoch", "epochs", "model", "wall_seconds"} <= set(record):
        raise GCPError(f"{folder} is not the folder of a training run; give one that timm-gcp train has written.")
    return record


def _read_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a summary with numbers; a column that was not measured is None."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: _value(name, text) for name, text in row.items()} for row in csv.DictReader(file)]


def _value(name: str, text: str) -> Any:
    if name in _TEXT or not text:
        return text or None
    return int(text) if name in _WHOLE else float(text)
