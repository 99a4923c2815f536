"""The CSV files behind a page."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import save_text

__all__ = ["save_rows", "save_table"]


def save_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file, aside and renamed.

    Args:
        path: the file.
        columns: their names.
        rows: of cells; a number that is not defined is left empty.

    Raises:
        GCPError: the file cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    save_text(path, buffer.getvalue())


def save_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file of dictionaries with the same keys, which name the columns; as `save_table`.

    Args:
        path: the file.
        rows: at least one.
    """
    save_table(path, list(rows[0]), (list(row.values()) for row in rows))


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return "" if value is None else value
    return "" if math.isnan(value) else f"{value:.6g}"
