"""The folder of an explanation: a picture of each image, a page of them all, and the numbers."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..files import remove_files, save_atomically, save_text
from ..text import printable
from .contributions import Explanation
from .figure import ExplainedClass, ExplainedImage, draw
from .heat_map import photograph
from .page import ExplanationPage

__all__ = ["ExplanationFolder"]

_PARTS = {"covariance": "covariance", "mean": "mean", "token": "class token", "bias": "bias"}
"""Attributes of an `Explanation` whose sums make a logit, with their names for people."""


_PAGE, _TOTALS, _ARRAYS = "index.html", "totals.csv", "contributions.npz"

_LONGEST_STEM = 60  # file systems allow 255 bytes


def _picture_name(index: int, file: Path) -> str:
    """Name of the picture of an image; `index` counts from zero."""
    return f"{index + 1:04d}-{file.stem[:_LONGEST_STEM]}.png"


def _earlier_files(folder: Path) -> list[str]:
    """Names of the files of an earlier explanation: its totals name its images, and so its pictures."""
    totals = folder / _TOTALS
    if not totals.is_file():
        return []
    with open(totals, newline="", encoding="utf-8", errors="replace") as file:
        images = [row.get("image", "") for row in csv.DictReader(file) if row.get("rank") == "1"]
    return [*(_picture_name(index, Path(image)) for index, image in enumerate(images)), _PAGE, _ARRAYS, _TOTALS]


class ExplanationFolder:
    """Writes explanations, batch by batch.

    - ``0001-<file>.png`` and so on: a picture of each image;
    - ``index.html``: a page of all images, which needs no other file and no network;
    - ``totals.csv``: the parts of every logit, a line for each image and class;
    - ``contributions.npz``: the contributions of the positions, as float64 arrays.

    Args:
        folder: made if there is none; what an earlier explanation wrote there is removed, and other files are kept.
        class_names: by label.
        mean: of the preprocessing, by channel.
        std: of the preprocessing, by channel.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> None:
        self.folder, self.class_names, self.mean, self.std = folder, class_names, mean, std
        self.files: list[str] = []
        self.found: list[Explanation] = []
        self.page = ExplanationPage()
        remove_files(folder, _earlier_files(folder))
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, files: Sequence[Path], images: Tensor, found: Explanation) -> None:
        """Adds a batch, and draws its pictures.

        Args:
            files: of the images.
            images: as the model got them, ``[B, C, H, W]``.
            found: of these images.
        """
        for index, file in enumerate(files):
            picture = photograph(images[index], self.mean, self.std)
            explained = ExplainedImage(printable(file), picture, self._classes(found, index))
            draw(explained, self.folder / _picture_name(len(self.files), file))
            self.page.add(explained)
            self.files.append(printable(file))
        self.found.append(found)

    def _classes(self, found: Explanation, index: int) -> list[ExplainedClass]:
        classes = []
        for rank, label in enumerate(found.classes[index].tolist()):
            given = {name: value[index, rank] for name in _PARTS if (value := getattr(found, name)) is not None}
            classes.append(
                ExplainedClass(
                    self.class_names[label],
                    float(found.probabilities[index, rank]),
                    float(found.logits[index, rank]),
                    {_PARTS[name]: float(value.sum()) for name, value in given.items()},
                    {_PARTS[name]: value for name, value in given.items() if value.dim() == 2},
                )
            )
        return classes

    def write(self) -> None:
        """Writes the page and the numbers of all batches."""
        self.page.write(self.folder / _PAGE)
        names = ["classes", "probabilities", "logits", *_PARTS]
        arrays = {
            name: np.concatenate([getattr(each, name).numpy() for each in self.found])
            for name in names
            if getattr(self.found[0], name) is not None
        }
        content: dict[str, Any] = {"files": np.array(self.files), "class_names": np.array(self.class_names), **arrays}
        save_atomically(self.folder / _ARRAYS, lambda out: np.savez_compressed(out, **content))
        self._write_totals(arrays)

    def _write_totals(self, arrays: dict[str, np.ndarray]) -> None:
        parts = {name: arrays[name] for name in _PARTS if name in arrays}
        parts = {name: value.sum((2, 3)) if value.ndim == 4 else value for name, value in parts.items()}
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["image", "rank", "class", "probability", "logit", *parts])
        for index, file in enumerate(self.files):
            for rank, label in enumerate(arrays["classes"][index]):
                numbers = [arrays["logits"], *parts.values()]
                shown = [f"{values[index, rank]:.6f}" for values in (arrays["probabilities"], *numbers)]
                writer.writerow([file, rank + 1, self.class_names[label], *shown])
        save_text(self.folder / _TOTALS, buffer.getvalue())
