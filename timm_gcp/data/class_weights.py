"""Weights of the classes in the training loss: by the number of their images, or from a file."""

import csv
import io
import math
from collections.abc import Sequence

import numpy as np

from ..errors import GCPError
from ..text import nearest, some_quoted
from ..text_files import read_text

__all__ = ["balanced_weights", "read_class_weights"]

_COLUMNS = ["class", "weight"]


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """Weights N / (K nₖ), under which all classes weigh the same and the mean over the images is 1.

    Source: King and Zeng, *Logistic Regression in Rare Events Data*, Political Analysis 9 (2001); as scikit-learn.

    Args:
        counts: images of each class, ``[K]``, all positive.

    Returns:
        Weights ``[K]``, float64.
    """
    return counts.sum() / (len(counts) * counts.astype(np.float64))


def read_class_weights(path: str, names: Sequence[str]) -> np.ndarray:
    """Reads a CSV file with the columns ``class`` and ``weight``, one line for every class.

    Args:
        path: the file.
        names: of the classes, by label.

    Returns:
        Weights ``[K]``, float64.

    Raises:
        GCPError: the file cannot be read, or a line is not a class of the data set with a weight of its own.
    """
    where = f"--class-weights {path}"
    reader = csv.DictReader(io.StringIO(read_text(path, where)), skipinitialspace=True)
    if [name.strip() for name in reader.fieldnames or ()] != _COLUMNS:
        raise GCPError(f"{where} does not begin with the line 'class,weight': write it, then one line per class.")
    reader.fieldnames = _COLUMNS
    weights: dict[str, float] = {}
    for row in reader:
        line, name = f"{where}, line {reader.line_num}", (row["class"] or "").strip()
        if name not in names:
            raise GCPError(f"{line}: the data set has no class {name!r}{nearest(name, names)}")
        if name in weights:
            raise GCPError(f"{line}, names the class {name!r} a second time: remove the line.")
        weights[name] = _weight(row["weight"], line)
    if missing := [name for name in names if name not in weights]:
        raise GCPError(f"{where} has no weight for {some_quoted(missing)}: add a line for every class.")
    if not any(weights.values()):
        raise GCPError(f"{where} has only weights of 0: give at least one class a positive weight.")
    return np.array([weights[name] for name in names])


def _weight(text: str | None, line: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise GCPError(f"{line}: the weight {text!r} is not a number of at least 0: correct it.")
    return value
