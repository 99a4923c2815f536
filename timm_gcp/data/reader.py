"""The base class of our readers: timm's reader of image files whose paths and labels are known."""

import os
from typing import IO, Any

from timm.data.readers.reader import Reader

__all__ = ["Listing", "SampleReader"]

Listing = tuple[list[tuple[str, int]], list[str] | None]
"""``(path, label)`` of every image of a split, and the names of the classes by label (None: not known)."""


class SampleReader(Reader):
    """Opens image files by a list of paths and labels; subclasses fill the list.

    Args:
        root: folder of the data set.

    Attributes:
        root: folder of the data set, to which names are relative.
        samples: ``(path, label)`` of every image; with several labels per image, a tuple of them.
        class_names: names by label, or None.
        num_classes: number of classes.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__()
        self.root = str(root)
        self.samples: list[tuple[str, Any]] = []
        self.class_names: list[str] | None = None
        self.num_classes = 0

    def __getitem__(self, index: int) -> tuple[IO[bytes], Any]:
        path, label = self.samples[index]
        return open(path, "rb"), label

    def __len__(self) -> int:
        return len(self.samples)

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        path = self.samples[index][0]
        if basename:
            return os.path.basename(path)
        return os.path.abspath(path) if absolute else os.path.relpath(path, self.root)
