"""Predictions of a classifier, image by image: kept while it is evaluated, written to and read from a CSV file."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import GCPError
from .files import save_text
from .text import one_line, printable

__all__ = [
    "FILE",
    "TOP",
    "PredictionRecorder",
    "Predictions",
    "image_names",
    "names_by_label",
    "read_predictions",
    "save_predictions",
]

FILE = "predictions.csv"
TOP = 5
"""Ranks that are told apart."""
_COLUMNS = ["image", "label", "class", "prediction", "predicted_class", "confidence", "loss", "rank"]


@dataclass(frozen=True)
class Predictions:
    """What a classifier said of each of n images, in the order of the data set.

    Attributes:
        images: names of the images, with their split (`image_names`).
        labels: true classes, ``[n]``.
        predicted: most probable classes, ``[n]``.
        confidence: probability of the most probable class (softmax), ``[n]``.
        loss: cross-entropy, −log of the true class's probability, ``[n]``.
        rank: place of the true class among the five most probable ones, from 1; 0 where it is not one of them, ``[n]``.
        class_names: names by label, of all classes of the model.
    """

    images: list[str]
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    loss: np.ndarray
    rank: np.ndarray
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def right(self) -> np.ndarray:
        """Whether the most probable class is the true one, ``[n]``."""
        return self.predicted == self.labels

    def table(self) -> tuple[list[str], Iterator[list[Any]]]:
        """Header and rows of a CSV file: one row for each image, classes by number and name."""
        names = self.class_names
        columns = (self.labels, self.predicted, self.confidence, self.loss, self.rank)
        rows = (
            [image, label, names[label], guess, names[guess], f"{confidence:.6f}", f"{loss:.6g}", rank]
            for image, label, guess, confidence, loss, rank in zip(
                self.images, *(column.tolist() for column in columns), strict=True
            )
        )
        return list(_COLUMNS), rows


class _Tabular(Protocol):
    def table(self) -> tuple[list[str], Iterator[list[Any]]]: ...


class PredictionRecorder:
    """Keeps predictions of batch after batch: a few numbers per image, not its logits."""

    def __init__(self) -> None:
        self._batches: list[tuple[np.ndarray, ...]] = []
        self._classes = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Keeps the predictions of a batch.

        An image whose logits are not all finite counts as wrong: it is taken for the class after its own, with
        confidence 0 and rank 0.

        Args:
            logits: ``[B, K]``.
            labels: ``[B]``.
        """
        logits = logits.detach()
        self._classes = logits.shape[1]
        top = logits.topk(min(TOP, self._classes), dim=1).indices
        finite = logits.isfinite().all(1)  # topk ranks NaN first
        found = (top == labels[:, None]) & finite[:, None]
        rank = torch.where(found.any(1), found.int().argmax(1) + 1, 0)
        predicted = torch.where(finite, top[:, 0], (labels + 1) % self._classes)
        confidence = torch.where(finite, logits.softmax(1).gather(1, top[:, :1])[:, 0], 0)
        loss = F.cross_entropy(logits, labels, reduction="none")
        columns = (labels, predicted, confidence, loss, rank)
        self._batches.append(tuple(column.cpu().numpy() for column in columns))

    def predictions(self, dataset: Any, split: str, class_names: Sequence[str] | None = None) -> Predictions:
        """The predictions of all batches.

        Args:
            dataset: that the batches came from, in its order.
            split: of the data set.
            class_names: by label; None takes those of the data set. A class without a name gets its number.
        """
        labels, predicted, confidence, loss, rank = (np.concatenate(each) for each in zip(*self._batches, strict=True))
        names = names_by_label(dataset, class_names, self._classes)
        images = image_names(dataset, len(labels), split)
        return Predictions(images, labels, predicted, confidence, loss, rank, names)


def names_by_label(dataset: Any, class_names: Sequence[str] | None, classes: int) -> list[str]:
    """A name for each class of a model that can be written in UTF-8; a class without one gets its number.

    Args:
        dataset: in timm's form.
        class_names: by label; None takes those of the data set.
        classes: number of classes.
    """
    names = [printable(str(name)) for name in class_names or getattr(dataset, "class_names", None) or []]
    return names + [str(label) for label in range(len(names), classes)]


def image_names(dataset: Any, count: int, split: str) -> list[str]:
    """Names by which the images of two evaluations are compared, so images of two splits never have the same.

    Args:
        dataset: in timm's form.
        count: how many images.
        split: of the data set.

    Returns:
        For files, the path from the folder above that of the split or list; else split and name. The number of an
        image stands for its name where the data set has none, or the same for two images.
    """
    reader = getattr(dataset, "reader", None)
    files = isinstance(getattr(reader, "samples", None), list) and hasattr(reader, "root")
    above = Path(os.path.abspath(reader.root)).name if files and reader is not None else split
    try:
        names = [_printable(dataset.filename(index)) for index in range(count)]
    except Exception:  # packages behind streamed data sets raise errors of many classes
        names = []
    if len(set(names)) != count:
        names = [str(index) for index in range(count)]
    return [f"{_printable(above)}/{name}" if above else name for name in names]


def _printable(name: Any) -> str:
    return printable(name).replace(os.sep, "/")


def save_predictions(predictions: _Tabular, path: str | os.PathLike[str]) -> None:
    """Writes predictions as a CSV file, aside and renamed: one line for each image.

    Args:
        predictions: of a model.
        path: the file.

    Raises:
        GCPError: the file cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    header, rows = predictions.table()
    writer.writerow(header)
    writer.writerows(rows)
    save_text(path, buffer.getvalue())


def read_predictions(path: str | os.PathLike[str]) -> Predictions:
    """Reads a file of `save_predictions`.

    Classes that no line names have their number for a name.

    Args:
        path: the file.

    Raises:
        GCPError: it cannot be read, is no such file or has no line.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header, rows = next(reader, []), list(reader)
        if header != _COLUMNS or not rows:
            raise ValueError("it is no table of predictions" if header != _COLUMNS else "it has no image")
        return _parsed(rows)
    except (OSError, ValueError, csv.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
        raise GCPError(
            f"Cannot read the predictions {str(Path(path))!r} ({reason}); write them again with timm-gcp validate "
            "--report DIR."
        ) from error


def _parsed(rows: list[list[str]]) -> Predictions:
    images, labels, true, guesses, guessed, confidence, loss, rank = (
        list(column) for column in zip(*rows, strict=True)
    )
    label, guess = np.array(labels, dtype=np.int64), np.array(guesses, dtype=np.int64)
    if min(label.min(), guess.min()) < 0:
        raise ValueError("it has a label below zero")
    names = [str(number) for number in range(1 + int(max(label.max(), guess.max())))]
    for numbers, texts in ((labels, true), (guesses, guessed)):
        for number, text in zip(numbers, texts, strict=True):
            names[int(number)] = text
    sure, losses = (np.array(column, dtype=np.float64) for column in (confidence, loss))
    return Predictions(images, label, guess, sure, losses, np.array(rank, dtype=np.int64), names)
