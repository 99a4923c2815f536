"""The history of a run: one segment for each command that trained a part of it."""

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import timm
import torch

from ..files import json_text, save_text
from ..version import __version__

__all__ = ["closed", "describe_differences", "past_segments", "segment", "versions", "write_history"]

FILE = "history.json"


def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on."""
    return {
        "timm_gcp": __version__,
        "timm": timm.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def segment(
    first_epoch: int, first_batch: int, command: str, device: str, differences: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """A segment that begins now.

    Args:
        first_epoch: from 0, as in ``summary.csv``.
        first_batch: batches of that epoch that earlier segments trained.
        command: what was typed.
        device: that trains.
        differences: settings that differ from the segment before, name → before and now.
    """
    new = {
        "first_epoch": first_epoch,
        "first_batch": first_batch,
        "last_epoch": None,
        "command": command,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "device": device,
        "differences": {name: list(values) for name, values in differences.items()},
    }
    # Plain values only, which a checkpoint can hold as well.
    return json.loads(json.dumps(new, default=str))


def past_segments(checkpoint: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The segments that led to a checkpoint; a single one without a command where the checkpoint does not tell."""
    if checkpoint is None:
        return []
    record = checkpoint.get("gcp")
    kept = record.get("segments") if isinstance(record, Mapping) else None
    segments: list[Any] = [{"first_epoch": 0, "first_batch": 0, "command": None}]
    if isinstance(kept, list) and kept and all(isinstance(each, dict) for each in kept):
        segments = kept
    if "within" in checkpoint:
        return closed(segments, checkpoint["epoch"] + 1, checkpoint["within"]["position"]["batches"])
    return closed(segments, checkpoint["epoch"])


def closed(segments: Sequence[Mapping[str, Any]], epoch: int, batches: int | None = None) -> list[dict[str, Any]]:
    """Segments, the last of which ends after an epoch, or after so many batches of it."""
    end = {"last_epoch": epoch} if batches is None else {"last_epoch": epoch, "last_batch": batches}
    return [*map(dict, segments[:-1]), *({**each, **end} for each in segments[-1:])]


def write_history(folder: Path, segments: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``history.json`` of a run folder."""
    save_text(folder / FILE, json_text(segments))


def describe_differences(differences: Mapping[str, Sequence[Any]]) -> str:
    """The settings that differ as one line of a log: '--lr 0.05 → 0.01, --momentum 0.9 → 0.8'."""
    shown = (f"--{name.replace('_', '-')} {_short(old)} → {_short(new)}" for name, (old, new) in differences.items())
    return ", ".join(shown)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value) if isinstance(value, str) else str(value)
