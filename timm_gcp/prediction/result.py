"""The predictions of images: a list that prints as a table, shows itself in a notebook and is written as a CSV file."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from rich import box
from rich.table import Table
from rich.text import Text

from ..data import UnreadableImageError
from ..errors import GCPError
from ..output import as_text
from ..reports.notebook import Picture, show
from ..reports.thumbnails import data_uri
from ..text import printable
from .sources import Source

__all__ = ["Prediction", "PredictionList"]

_LINES, _PICTURES, _SIZE = 20, 24, 160
"""How many images `repr` and a notebook show, and the largest side of a thumbnail there, pixels."""


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image. It unpacks: ``image, label, probability = prediction``.

    Attributes:
        name: path of the file, or the number of a PIL image.
        image: path of the file, or the PIL image that was given.
        classes: names and probabilities, the most probable class first.
        labels: of a multi-label model, names and probabilities of all classes above the threshold, the most probable
            first; None for one class for each image.
    """

    name: str
    image: Path | Image.Image = field(compare=False, repr=False)
    classes: list[tuple[str, float]]
    labels: list[tuple[str, float]] | None = None

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[0][0]

    @property
    def probability(self) -> float:
        """Of the most probable class, from 0 to 1."""
        return self.classes[0][1]

    def __iter__(self) -> Iterator[Path | Image.Image | str | float]:
        return iter((self.image, self.label, self.probability))


class PredictionList(list[Prediction]):
    """Predictions in the order of the images.

    Attributes:
        unreadable: errors of the images that could not be read.
    """

    def __init__(self, predictions: list[Prediction] | tuple[()] = ()) -> None:
        super().__init__(predictions)
        self.unreadable: list[UnreadableImageError] = []

    @property
    def _multi_label(self) -> bool:
        return any(each.labels is not None for each in self)

    def csv_text(self) -> str:
        """The content of a CSV file: a line for each image, with class and probability of every rank.

        Those of a multi-label model begin with all labels above the threshold, in one cell.
        """
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        ranks = range(1, max((len(each.classes) for each in self), default=0) + 1)
        named = ["labels"] if self._multi_label else []
        titles = (f"{column}_{rank}" for rank in ranks for column in ("class", "probability"))
        writer.writerow(["image", *named, *titles])
        for each in self:
            cells = (cell for name, share in each.classes for cell in (name, f"{share:.6f}"))
            labels = [";".join(name for name, _ in each.labels or ())] if self._multi_label else []
            writer.writerow([printable(each.name), *labels, *cells])
        return buffer.getvalue()

    def __rich__(self) -> Table:
        """A table, with a line for each class of an image."""
        table = Table(box=box.SIMPLE)
        table.add_column("image", overflow="fold")
        table.add_column("class", overflow="fold")
        table.add_column("probability", justify="right")
        if self._multi_label:
            table.add_column("label")
        for each in self:
            above = each.labels or []
            rows = list(dict.fromkeys([*each.classes, *above]))
            for rank, (name, share) in enumerate(rows):
                mark = [("yes" if (name, share) in above else "no")] if self._multi_label else []
                last = rank == len(rows) - 1
                table.add_row(Text("" if rank else each.name), Text(name), f"{share:.1%}", *mark, end_section=last)
        return table

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        """The table of the first images."""
        return "\n".join([str(PredictionList(self[:_LINES])).rstrip(), *self._left_out(_LINES)])

    def _repr_html_(self) -> str:
        pictures = [Picture(_thumbnail(each), each.name, _lines(each)) for each in self[:_PICTURES]]
        return show(_count(len(self)), pictures=pictures, notes=self._left_out(_PICTURES))

    def _left_out(self, shown: int) -> list[str]:
        """Sentences on images that are not shown, or could not be read."""
        notes = [f"{len(self) - shown} more are not shown."] if len(self) > shown else []
        return notes + ([f"{len(self.unreadable)} could not be read."] if self.unreadable else [])


def _count(number: int) -> str:
    return f"Predictions of {number} image{'s' * (number != 1)}"


def _lines(prediction: Prediction) -> list[tuple[str, str, bool]]:
    """What is below a picture; the predicted class stands out, or all labels of a multi-label model."""
    chosen = prediction.classes[:1] if prediction.labels is None else prediction.labels
    rows = dict.fromkeys([*prediction.classes, *chosen])
    return [(name, f"{share:.1%}", (name, share) in chosen) for name, share in rows]


def _thumbnail(prediction: Prediction) -> str | None:
    """A small picture, upright; None where the file is gone."""
    try:
        image = Source(Path(prediction.name), prediction.image).read("RGB")
    except GCPError:
        return None
    image.thumbnail((_SIZE, _SIZE))
    return data_uri(image)
