"""The base reader of data sets that list their images, and the parser of their numbered lines."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from timm.data.readers.reader import Reader

from ..text_files import read_text

Listing = tuple[list[tuple[str, int]], list[str] | None]
"""``(path, label)`` of every image of a split, and the names of the classes by label (None: not known)."""


class ListedReader(Reader):
    """timm's reader of image files that are known by their paths.

    Attributes:
        root: folder of the data set, to which names are relative.
        samples: ``(path, label)`` of every image.
        class_names: names by label, or None.
        num_classes: number of classes.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        super().__init__()
        self.root = str(root)
        self.samples: list[tuple[str, int]] = []
        self.class_names: list[str] | None = None
        self.num_classes = 0

    def __getitem__(self, index: int) -> tuple[IO[bytes], int]:
        path, label = self.samples[index]
        return open(path, "rb"), label

    def __len__(self) -> int:
        return len(self.samples)

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        path = self.samples[index][0]
        if basename:
            return os.path.basename(path)
        return os.path.abspath(path) if absolute else os.path.relpath(path, self.root)


def numbered_lines(file: Path, strict: bool = True) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file (see ``read_text``) that are not blank, without spaces at their ends."""
    text = read_text(file, repr(str(file)), strict)
    yield from ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip())
