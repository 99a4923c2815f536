"""The CSV files of results: reading, appending and writing, and the machine, date and versions of each row."""

import datetime
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from timm_gcp.files import save_text

RESULTS = Path(__file__).parent / "results"
"""The recorded results."""


def machine() -> str:
    """Name of the GPU, or of the processor with its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores"


def provenance() -> dict[str, str]:
    """Date, machine and versions of this measurement, as columns of a row."""
    versions = " ".join(f"{name} {version(name)}" for name in ("torch", "timm", "timm-gcp"))
    return {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions}


def read_table(path: Path, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Reads a CSV file for analysis: numbers are parsed, empty cells are NaN.

    Args:
        path: the file.
        columns: columns of the empty table that is returned if the file does not exist.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(columns))
    return pd.read_csv(path)


def read_cells(path: Path, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Reads a CSV file as text: every cell is the string in the file, so that it can be written again unchanged.

    Args:
        path: the file.
        columns: columns of the empty table that is returned if the file does not exist.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(columns))
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Adds a row to a CSV file; the cells of the other rows keep their text."""
    write_table(path, [*read_cells(path).to_dict("records"), row])


def write_table(path: Path, rows: pd.DataFrame | Iterable[Mapping[str, object]]) -> None:
    """Writes a CSV file under a temporary name and renames it, so that an interruption leaves no partial row."""
    # As objects, integers stay integers in a column with empty cells. The line ends are those of the csv module.
    table = pd.DataFrame(rows if isinstance(rows, pd.DataFrame) else list(rows), dtype=object)
    save_text(path, table.to_csv(index=False, lineterminator="\r\n"))
