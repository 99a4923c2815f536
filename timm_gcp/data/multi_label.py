"""Reads data sets whose images have any number of labels, listed in CSV files."""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ..errors import GCPError
from ..text import nearest, some_quoted
from ..text_files import numbered_lines, read_text
from .image_list import locate_image
from .reader import SampleReader
from .splits import TRAIN, entry_of, is_training_split, same_split, split_remedy

__all__ = ["MULTI_LABEL_SETS", "MultiLabelReader"]

MULTI_LABEL_SETS = ("multilabel",)
"""Names of ``create_dataset`` under which an image has any number of labels."""

_SEPARATOR = re.compile("[;|]")
_LISTED = ["image", "labels"]
_VALUES = {"0": False, "0.0": False, "1": True, "1.0": True}  # pandas writes 1.0 where a column had gaps


class MultiLabelReader(SampleReader):
    """Reads ``<split>.csv``, one line per image, in one of two layouts.

    - ``image,labels``: the names of the labels in one cell, separated by ``;`` or ``|``. An empty cell means that the
      image has none of them.
    - ``image,classA,classB,...``: a column for each label, with 1 where the image has it and 0 where not.

    The path of an image is relative to the folder. The classes are the lines of ``classes.txt``, in this order, if
    there is one. Otherwise they are those of ``train.csv``: its columns in their order, or all labels in it, sorted.

    Args:
        root: the folder.
        split: the name of a CSV file, with or without ``.csv``, or a synonym of it ('validation' finds ``val.csv``).

    Attributes:
        list_file: path of the file read.
        samples: ``(absolute path, labels)`` of every image, in the order of the file; labels are ascending class
            numbers.
        class_names: names by label.
        num_classes: number of classes.

    Raises:
        GCPError: the folder or file is missing, a line is malformed, names an unknown label, an image that does not
            exist, or one that another line names, or there is no image.
    """

    def __init__(self, root: str | os.PathLike[str], split: str = "train") -> None:
        super().__init__(root)
        folder = Path(root)
        if not folder.is_dir():
            raise GCPError(f"--data-dir {str(root)!r} is not a folder: give the one that holds the CSV files.")
        self.list_file = _find_table(folder, split)
        table = _Table(self.list_file)
        self.class_names: list[str] = _classes(folder, table)
        self.num_classes = len(self.class_names)
        known = {name: label for label, name in enumerate(self.class_names)}
        if table.columns:
            _check_columns(table, self.class_names)
        lines: dict[str, int] = {}
        for number, image, names in table.rows:
            where = f"{str(self.list_file)!r}, line {number}"
            path = locate_image(folder, image, where)
            if path in lines:
                raise GCPError(f"{where}: the image {image!r} stands in line {lines[path]} too: remove one of them.")
            lines[path] = number
            unknown = next((name for name in names if name not in known), None)
            if unknown is not None:
                raise GCPError(
                    f"{where}: the label {unknown!r} is no class of the data set: correct it, or add the class to "
                    f"classes.txt{nearest(unknown, self.class_names)}"
                )
            self.samples.append((path, tuple(sorted({known[name] for name in names}))))
        if not self.samples:
            raise GCPError(f"{str(self.list_file)!r} lists no image: write one line per image below its header.")

    def __getitem__(self, index: int) -> tuple[IO[bytes], Tensor]:
        path, labels = self.samples[index]
        target = torch.zeros(self.num_classes)
        target[list(labels)] = 1
        return open(path, "rb"), target


class _Table:
    """A CSV file of images and the names of their labels.

    Attributes:
        file: its path.
        columns: names of the classes of the layout with a column for each; empty for the other layout.
        rows: number of the line, image and names of its labels.
    """

    def __init__(self, file: Path) -> None:
        lines = csv.reader(io.StringIO(read_text(file, repr(str(file)))), skipinitialspace=True, strict=True)
        where = f"{str(file)!r}, line"
        self.file = file
        self.columns: list[str] = []
        self.rows: list[tuple[int, str, list[str]]] = []
        try:
            header = [cell.strip() for cell in next(lines, [])]
            listed = [cell.lower() for cell in header] == _LISTED
            if len(header) < 2 or header[0].lower() != "image":
                raise GCPError(
                    f"{str(file)!r} begins with {','.join(header)!r}: the first line is 'image,labels', or 'image' and "
                    "the names of the classes."
                )
            self.columns = [] if listed else _without_repetition(header[1:], file)
            for cells in lines:
                if any(cell.strip() for cell in cells):
                    self.rows.append(self._row(f"{where} {lines.line_num}", lines.line_num, cells))
        except csv.Error as error:
            raise GCPError(f"{where} {lines.line_num}: it is no line of a CSV file ({error}): correct it.") from error

    def _row(self, where: str, number: int, cells: Sequence[str]) -> tuple[int, str, list[str]]:
        width = 1 + (len(self.columns) or 1)
        if len(cells) == width and not cells[0].strip():
            raise GCPError(f"{where} names no image: fill its first cell, or take the line out.")
        if len(cells) != width:
            raise GCPError(
                f"{where} has {len(cells)} cells, not an image and {width - 1} more: correct it (a cell with a comma "
                "goes in double quotes)."
            )
        image, values = cells[0].strip(), [cell.strip() for cell in cells[1:]]
        if not self.columns:
            return number, image, [name.strip() for name in _SEPARATOR.split(values[0]) if name.strip()]
        for name, value in zip(self.columns, values, strict=True):
            if value not in _VALUES:
                raise GCPError(f"{where}: {name!r} is {value!r}, not 0 or 1: correct it, or take the line out.")
        return number, image, [name for name, value in zip(self.columns, values, strict=True) if _VALUES[value]]

    @property
    def classes(self) -> list[str]:
        """The columns in their order, or all labels, sorted."""
        return self.columns or sorted({name for _, _, names in self.rows for name in names})


def _find_table(folder: Path, split: str) -> Path:
    stem = split.removesuffix(".csv")
    if stem and os.path.basename(stem) == stem:
        for name in same_split(stem):
            if (file := entry_of(folder, f"{name}.csv")).is_file():
                return file
    found = sorted(file.stem for file in folder.glob("*.csv"))
    if not found:
        raise GCPError(
            f"{str(folder)!r} holds no '{stem}.csv': write one, with the header 'image,labels' and one line per image."
        )
    raise GCPError(
        f"{str(folder)!r} holds no CSV file for split {split!r}, only {some_quoted(found)}: choose one with "
        f"{split_remedy(found, training=is_training_split(stem))}."
    )


def _classes(folder: Path, table: _Table) -> list[str]:
    """The names of the classes by label."""
    file = folder / "classes.txt"
    if file.is_file():
        names = _without_repetition([line for _, line in numbered_lines(file)], file)
    else:
        trained = next((place for name in TRAIN if (place := entry_of(folder, f"{name}.csv")).is_file()), None)
        file = trained or file
        if trained is None:
            raise GCPError(
                f"{str(folder)!r} holds neither classes.txt nor train.csv, which name the classes: write classes.txt, "
                "one class per line."
            )
        names = table.classes if trained == table.file else _Table(trained).classes
    if not names:
        raise GCPError(f"{str(file)!r} names no class: give images labels, or write classes.txt, one class per line.")
    return names


def _without_repetition(names: list[str], file: Path) -> list[str]:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or "" in names:
        raise GCPError(
            f"{str(file)!r} names the class {twice[0]!r} twice: give every class a name of its own."
            if twice
            else f"{str(file)!r} has a column without a name: name it after its class, or remove it."
        )
    return names


def _check_columns(table: _Table, names: Sequence[str]) -> None:
    """Makes sure that a file with a column for each class has those of the data set, in any order."""
    if missing := [name for name in names if name not in table.columns]:
        raise GCPError(
            f"{str(table.file)!r} has no column for {some_quoted(missing)}: add it, with 0 or 1 in each line."
        )
    if unknown := [name for name in table.columns if name not in names]:
        raise GCPError(
            f"{str(table.file)!r} has a column for {some_quoted(unknown)}, no class of the data set: remove it, or add "
            "the class to classes.txt."
        )
