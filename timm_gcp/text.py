"""Pieces of text: near matches of a mistyped name, 'a, b and 3 more', an error on one line, Markdown tables."""

import difflib
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = [
    "first_line",
    "markdown_table",
    "nearest",
    "one_line",
    "printable",
    "shortened",
    "some_of",
    "some_quoted",
    "without_places",
]


def one_line(error: BaseException) -> str:
    """The message of another package's error on one line, without its full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of another package's error message, and the next one after a colon, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    shown = 2 if lines and lines[0].endswith(":") else 1
    return " ".join(lines[:shown] or [type(error).__name__]).rstrip(".:")


def some_of(names: Sequence[str], shown: int = 5) -> str:
    """Joins the first names of a list and counts the others: 'a, b and 3 more'."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more}"


def some_quoted(names: Sequence[str], shown: int = 5) -> str:
    """Joins names as ``some_of`` does, each in quotes."""
    return some_of([repr(name) for name in names], shown)


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of an error message about a mistyped name: its near matches, or a full stop."""
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else "."


def shortened(value: object, length: int = 60) -> str:
    """How a message shows what a user gave: as Python writes it, on one line, without the end of a long text."""
    text = " ".join(repr(value).split())
    return text if len(text) <= length else f"{text[: length - 3]}..."


def markdown_table(titles: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table. The text of a cell is put on one line, and vertical bars in it are escaped."""

    def line(cells: Iterable[object]) -> str:
        texts = (" ".join(str(cell).split()).replace("|", r"\|") for cell in cells)
        return f"| {' | '.join(texts)} |"

    return "\n".join([line(titles), "|---" * len(titles) + "|", *map(line, rows)])


def printable(name: str | os.PathLike[str]) -> str:
    """The name of a file as text that can be written in UTF-8; bytes that are no text become U+FFFD."""
    return os.fspath(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def without_places(command: str) -> str:
    """Shortens the absolute paths in a command to their last part, because they are valid on one machine only."""
    words = []
    for word in shlex.split(command):
        name, equals, value = word.rpartition("=")
        words.append(f"{name}{equals}{Path(value).name}" if Path(value).is_absolute() else word)
    return shlex.join(words)
