"""Reads class maps, the text files that give every class its label."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import GCPError
from ..text_files import numbered_lines

__all__ = ["read_class_map"]


def read_class_map(class_map: str | Mapping[str, int], root: Any = None) -> dict[str, int]:
    """Reads a class map.

    Args:
        class_map: path of a text file with one class per line, in the order of the labels (blank lines are ignored),
            or a mapping; '' for none.
        root: folder of the data set, in which the file is looked for as well.

    Returns:
        Class → label.

    Raises:
        GCPError: the file cannot be read, is empty, or names a class twice.
    """
    if isinstance(class_map, Mapping) or not class_map:
        return dict(class_map or {})
    where = f"--class-map {str(class_map)!r}"
    if not str(class_map).endswith(".txt"):  # timm would unpickle a .pkl
        raise GCPError(f"{where} is not a .txt file: write one with one class per line.")
    places = [Path(class_map), *([Path(root, class_map)] if root else [])]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise GCPError(f"{where} cannot be read (there is no such file): give a text file with one class per line.")
    lines = list(numbered_lines(file))
    if not lines:
        raise GCPError(f"{where} names no class: write one class per line.")
    counts = Counter(name for _, name in lines)
    twice = [(number, name) for number, name in lines if counts[name] > 1]
    if twice:
        (_, name), (number, _) = twice[0], next(line for line in twice[1:] if line[1] == twice[0][1])
        raise GCPError(f"{where}, line {number}, names the class {name!r} a second time: remove the line.")
    return {name: label for label, (_, name) in enumerate(lines)}
