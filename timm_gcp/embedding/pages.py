"""The pages of an embedding: neighbours and near-duplicates, and labels that are likely to be wrong, with tables."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import remove_files, save_text
from ..reports.page import save_page
from ..reports.thumbnails import Thumbnails
from .embed import Embedding
from .label_errors import LabelError
from .neighbours import Duplicates, Neighbours

__all__ = ["EmbeddingPages"]

_ERROR_PAGE, _ERROR_TABLE = "label-errors.html", "label-errors.csv"
_SIDE = 160  # pixels of a picture
_GROUPS, _OF_A_GROUP, _ROWS, _NEIGHBOURS, _ERRORS = 60, 12, 48, 7, 100
"""The most of everything on a page."""


class EmbeddingPages:
    """Writes the pages of an embedding.

    Args:
        embedding: the vectors, with their images.
        folder: of the pages; made if there is none.
    """

    def __init__(self, embedding: Embedding, folder: Path) -> None:
        self.embedding, self.folder = embedding, folder
        self._thumbnails = Thumbnails(embedding.dataset)
        remove_files(folder, (_ERROR_PAGE, _ERROR_TABLE))
        folder.mkdir(parents=True, exist_ok=True)

    def write_neighbours(self, neighbours: Neighbours, groups: Sequence[Duplicates], least: float) -> Path:
        """Writes ``neighbours.html``, and the pairs of near-duplicates in ``duplicates.csv``.

        Args:
            neighbours: of every image.
            groups: near-duplicates, in the order of the page.
            least: the cosine from which two images count as such.

        Returns:
            The page.
        """
        labels, count = self.embedding.labels, len(self.embedding.files)
        agreement = None if labels is None else float((labels[neighbours.index[:, 0]] == labels).double().mean())
        shown = np.unique(np.linspace(0, count - 1, min(_ROWS, count)).astype(int)).tolist()
        rows = [
            {
                "image": self._photo(image),
                "neighbours": [
                    self._photo(int(other), float(similarity))
                    for other, similarity in zip(
                        neighbours.index[image, :_NEIGHBOURS], neighbours.similarity[image, :_NEIGHBOURS], strict=True
                    )
                ],
            }
            for image in shown
        ]
        page = self.folder / "neighbours.html"
        save_page(
            page,
            "neighbours.html",
            images=count,
            least=f"{least:g}",
            groups=[self._group(group) for group in groups[:_GROUPS]],
            more_groups=max(0, len(groups) - _GROUPS),
            rows=rows,
            splits=self.embedding.splits is not None,
            agreement=agreement,
        )
        pairs = ((*pair, number) for number, group in enumerate(groups, 1) for pair in group.pairs)
        self._write_table(
            "duplicates.csv",
            ["group", "similarity", "image", "split", "label", "other", "other_split", "other_label"],
            (
                [number, f"{similarity:.4f}", *self._named(image), *self._named(other)]
                for image, other, similarity, number in pairs
            ),
        )
        return page

    def write_label_errors(self, errors: Sequence[LabelError]) -> Path:
        """Writes ``label-errors.html`` and ``label-errors.csv``; an earlier pair is removed when this object is made.

        Args:
            errors: most certain first.

        Returns:
            The page.
        """
        name = self.embedding.name_of
        page = self.folder / _ERROR_PAGE
        shown = [
            {
                "label": name(each.label),
                "suggested": name(each.suggested),
                "probability": each.probability,
                "suggested_probability": each.suggested_probability,
                "photo": self._photo(each.image),
                "of_label": self._nearest_in(each.image, each.label),
                "of_suggested": self._nearest_in(each.image, each.suggested),
            }
            for each in errors[:_ERRORS]
        ]
        single = self.embedding.single
        judged = len(self.embedding.files) - single
        save_page(page, "label_errors.html", errors=shown, total=len(errors), images=judged, single=single)
        self._write_table(
            _ERROR_TABLE,
            ["image", "split", "label", "suggested", "probability", "suggested_probability"],
            (
                [*self._named(e.image), name(e.suggested), f"{e.probability:.4f}", f"{e.suggested_probability:.4f}"]
                for e in errors
            ),
        )
        return page

    def _named(self, image: int) -> tuple[str, str, str]:
        """The file, the split and the label of an image; '' where there is none."""
        found = self.embedding
        label = "" if found.labels is None else found.name_of(int(found.labels[image]))
        return found.files[image], "" if found.splits is None else found.splits[image], label

    def _photo(self, image: int, similarity: float | None = None) -> dict[str, Any]:
        file, split, label = self._named(image)
        picture = self._thumbnails.uri(image, _SIDE)
        return {"picture": picture, "file": file, "split": split, "label": label, "similarity": similarity}

    def _group(self, group: Duplicates) -> dict[str, Any]:
        best: dict[int, float] = {}
        for image, other, similarity in group.pairs:  # most similar first
            best.setdefault(image, similarity)
            best.setdefault(other, similarity)
        photos = [self._photo(image, best[image]) for image in group.images[:_OF_A_GROUP]]
        return {
            "photos": photos,
            "differ": len({self._named(image)[2] for image in group.images}) > 1,
            "splits": self.embedding.splits_of(group.images),
            "more": max(0, len(group.images) - _OF_A_GROUP),
        }

    def _nearest_in(self, image: int, label: int) -> dict[str, Any] | None:
        """The nearest other image of a class; None where there is none."""
        assert self.embedding.labels is not None
        cosines = self.embedding.vectors @ self.embedding.vectors[image]
        cosines[self.embedding.labels != label] = -torch.inf
        cosines[image] = -torch.inf
        best = int(cosines.argmax())
        return self._photo(best) if cosines[best].isfinite() else None

    def _write_table(self, name: str, titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(titles)
        writer.writerows(rows)
        save_text(self.folder / name, buffer.getvalue())
