"""Reads data sets whose images are listed in text files, as those of the Grocery Store Dataset."""

import csv
import os
import re
from collections import Counter
from itertools import islice
from pathlib import Path, PureWindowsPath

from ..errors import GCPError
from ..text import shortened
from ..text_files import numbered_lines
from .reader import SampleReader
from .splits import entry_of, is_training_split, same_split, split_remedy

_NAME_FILES = ("classes.csv", "classes.txt")
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


class ReaderImageList(SampleReader):
    """Reads ``<split>.txt``, one line per image: ``path, label[, coarse label]``.

    The path is relative to the folder (in double quotes if it contains a comma), labels count from 0; the coarse label
    must be a number and is not used. The names of the classes come from ``classes.csv`` (columns ``Class Name (str)``
    and ``Class ID (int)``) or ``classes.txt`` (one line per name, in the order of the labels) if one of them exists.
    Otherwise the number of classes follows from the largest label in the lists of the folder.

    Args:
        root: the folder.
        split: the name of a list, with or without ``.txt``, or a synonym of it ('validation' finds ``val.txt``).
        is_training: the list is for training, so every class must have an image. Implied if ``split`` is 'train' or
            'training'.

    Attributes:
        list_file: path of the list read.
        samples: ``(absolute path, label)`` of every image, in the order of the list.
        class_names: names by label, or None.
        num_classes: number of classes.

    Raises:
        GCPError: the folder or list is missing, a line is malformed, a label is out of range, a path does not exist
            or leaves the folder, the list is empty, or a class has no image to train on.
    """

    def __init__(self, root: str | os.PathLike[str], split: str = "train", is_training: bool = False) -> None:
        super().__init__(root)
        folder = Path(root)
        if not folder.is_dir():
            raise GCPError(f"--data-dir {str(root)!r} is not a folder: give the one that holds the lists.")
        self.list_file = _find_list(folder, split)
        self.class_names = _read_names(folder)
        for number, line in numbered_lines(self.list_file):
            where = f"{str(self.list_file)!r}, line {number}"
            path, label = _parse(line, where)
            if self.class_names is not None and label >= len(self.class_names):
                raise GCPError(
                    f"{where}: label {label} is outside the {len(self.class_names)} classes that "
                    f"{_names_file(folder)!r} names (labels count from 0): correct the label or add the class."
                )
            self.samples.append((locate_image(folder, path, where), label))
        if not self.samples:
            raise GCPError(f"{str(self.list_file)!r} lists no image: write one line 'path, label' per image.")
        if self.class_names is not None:
            self.num_classes = len(self.class_names)
        else:
            others = (_largest_label(file) for file in _list_files(folder))
            self.num_classes = 1 + max([label for _, label in self.samples] + [label for label in others if label])
        if is_training or is_training_split(self.list_file.stem):
            self._check_every_class()

    def _check_every_class(self) -> None:
        have = {label for _, label in self.samples}
        if number := self.num_classes - len(have):
            # A wrong label may be huge: stop after the labels that the message names.
            first = list(islice((label for label in range(self.num_classes) if label not in have), 5))
            named = [self.class_names[label] if self.class_names else str(label) for label in first]
            more = f" and {number - len(first)} more" if number > len(first) else ""
            raise GCPError(
                f"{str(self.list_file)!r} has no image of class {', '.join(map(repr, named))}{more}: add images, or "
                "take the class out (labels count from 0 without gaps)."
            )


def _find_list(folder: Path, split: str) -> Path:
    stem = split.removesuffix(".txt")
    if stem and os.path.basename(stem) == stem:
        for name in same_split(stem):
            if (file := entry_of(folder, f"{name}.txt")).is_file():
                return file
    found = [file.stem for file in _list_files(folder)]
    if not found:
        raise GCPError(
            f"{str(folder)!r} holds no list '{stem}.txt': write one, with one line 'path, label' per image, or leave "
            "--dataset out if the images lie in class folders."
        )
    option = split_remedy(found, training=is_training_split(stem))
    raise GCPError(
        f"{str(folder)!r} holds no list for split {split!r}, only {', '.join(f'{name}.txt' for name in found)}: choose "
        f"one with {option}."
    )


def _list_files(folder: Path) -> list[Path]:
    """The text files of a folder whose first line is that of a list."""
    found = []
    for file in sorted(folder.glob("*.txt")):
        if file.name not in _NAME_FILES and file.is_file():
            first = next((line for _, line in numbered_lines(file, strict=False)), "")
            if _label(first) is not None:
                found.append(file)
    return found


def _largest_label(file: Path) -> int | None:
    """The largest label of a list's well-formed lines. The others are an error only in the list that is read."""
    labels = (_label(line) for _, line in numbered_lines(file, strict=False))
    return max((label for label in labels if label is not None), default=None)


def _fields(line: str) -> list[str]:
    try:
        return [field.strip() for field in next(csv.reader([line], skipinitialspace=True), [""])]
    except csv.Error:  # a line that is far too long for a list
        return [""]


def _label(line: str) -> int | None:
    """The label of a well-formed line; None for any other line."""
    path, *labels = _fields(line)
    well_formed = path and len(labels) in (1, 2) and all(map(_NUMBER.fullmatch, labels))
    return int(labels[0]) if well_formed else None


def _parse(line: str, where: str) -> tuple[str, int]:
    path, *labels = _fields(line)
    if not path or len(labels) not in (1, 2):
        raise GCPError(
            f"{where}: {shortened(line)} is not 'path, label' or 'path, label, coarse label': correct the line (a path "
            "with a comma goes in double quotes)."
        )
    for name, value in zip(("label", "coarse label"), labels, strict=False):
        if not _NUMBER.fullmatch(value):
            raise GCPError(f"{where}: {name} {value!r} is not a whole number from 0: correct it.")
    return path, int(labels[0])


def locate_image(folder: Path, path: str, where: str) -> str:
    """The absolute path of an image that a list names.

    Args:
        folder: of the list.
        path: relative to it, as the list has it.
        where: the line of the list, as a message calls it.

    Raises:
        GCPError: the path leaves the folder, or there is no such file.
    """
    if not os.path.isfile(os.path.join(folder, path)):
        path = path.replace("\\", "/")  # written on Windows
    normal = os.path.normpath(path)
    if os.path.isabs(path) or PureWindowsPath(path).drive or normal.split(os.sep)[0] == os.pardir:
        raise GCPError(f"{where}: path {path!r} leaves the data set: write it relative to the list's folder.")
    full = os.path.join(folder, normal)
    if not os.path.isfile(full):
        raise GCPError(f"{where}: there is no file {path!r}: correct the path (it is relative to the list's folder).")
    return full


def _names_file(folder: Path) -> str | None:
    return next((name for name in _NAME_FILES if (folder / name).is_file()), None)


def _read_names(folder: Path) -> list[str] | None:
    name = _names_file(folder)
    if name is None:
        return None
    file = folder / name
    names = [line for _, line in numbered_lines(file)] if name == "classes.txt" else _read_table(file)
    if not names:
        raise GCPError(f"{str(file)!r} names no class: name them or remove the file.")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise GCPError(f"{str(file)!r} names the class {twice[0]!r} twice: give every class a name of its own.")
    return names


def _read_table(file: Path) -> list[str]:
    names: dict[int, str] = {}
    table = csv.DictReader((line for _, line in numbered_lines(file)), skipinitialspace=True)
    columns = ("Class Name (str)", "Class ID (int)")
    if not set(columns) <= set(table.fieldnames or ()):
        raise GCPError(f"{str(file)!r} has no columns {columns[0]!r} and {columns[1]!r}: add them to its first line.")
    for row in table:
        name, label = ((row[column] or "").strip() for column in columns)
        if not name or not _NUMBER.fullmatch(label) or int(label) in names:
            raise GCPError(
                f"{str(file)!r}: the row {name!r}, {label!r} is not a class name and a new whole number: correct it."
            )
        names[int(label)] = name
    missing = [label for label in range(len(names)) if label not in names]
    if missing:
        raise GCPError(f"{str(file)!r} names no class {missing[0]}: number the classes from 0 without gaps.")
    return [names[label] for label in range(len(names))]
