"""One line of CSV a run, with what a reader needs to trust it; finished lines make a command resumable."""

import csv
import datetime
import io
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from timm_gcp.files import save_text


def machine() -> str:
    """The processor (or GPU) and the number of cores, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores"


def provenance() -> dict[str, str]:
    """Date, machine and versions of this run."""
    versions = " ".join(f"{name} {version(name)}" for name in ("torch", "timm", "timm-gcp"))
    return {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions}


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no file yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_values(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file with every number as a number."""
    return [{name: _number(text) for name, text in row.items()} for row in read_rows(path)]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Adds a row to a CSV file."""
    write_rows(path, [*read_rows(path), row])


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes a CSV file aside and renames it, so that a kill never leaves half a line."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    save_text(path, buffer.getvalue())
