"""What data sets that list their images share: the reader of the listed files, numbered lines, and names of splits."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from timm.data.readers.reader import Reader

from ..errors import GCPError

SPLIT_SYNONYMS = [
    ("train", "training"),
    ("val", "validation", "valid", "eval", "evaluation"),
    ("test", "testing"),
]
"""Names that mean the same split: training, validation, test."""

Listing = tuple[list[tuple[str, int]], list[str] | None]
"""``(path, label)`` of every image of a split, and the names of the classes by label (None: not known)."""


def same_split(split: str) -> tuple[str, ...]:
    """The names under which a split may be found, its own first."""
    return split, *next((group for group in SPLIT_SYNONYMS if split in group), ())


def split_remedy(splits: Sequence[str], training: bool) -> str:
    """The option that names another split, for the end of a sentence: 'test' where there is one to evaluate on."""
    remedy = "test" if "test" in splits and not training else "NAME"
    return f"--train-split {remedy}" if training else f"--val-split {remedy} (validate: --split {remedy})"


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
    """Numbered lines that are not blank; the mark that Windows editors put first is taken off."""
    try:
        with open(file, encoding="utf-8-sig", errors="strict" if strict else "replace") as text:
            yield from ((number, line.strip()) for number, line in enumerate(text, 1) if line.strip())
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise GCPError(f"{str(file)!r} cannot be read ({reason}): save it as a plain text file.") from error
