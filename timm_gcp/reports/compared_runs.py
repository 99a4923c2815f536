"""Reads what the folders of runs say: predictions, curves, result and settings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..data.options import DatasetOptions
from ..errors import GCPError
from ..predictions import FILE, Predictions, read_predictions
from ..tasks import MULTI_LABEL, SINGLE_LABEL, Task
from ..text import one_line

__all__ = ["ComparedRun", "read_runs"]

_OWN = ("experiment", "output", "resume", "config", "recipe", "no_report", "debug", "log", "log_interval")
"""Settings that say nothing about a model."""


@dataclass(frozen=True)
class ComparedRun:
    """A run, as its folder tells.

    Attributes:
        label: its name on the page.
        folder: of the run.
        predictions: of its evaluation; None where there was none, or an earlier version wrote the folder.
        summary: ``summary.csv`` of a training; None for others.
        result: content of ``result.json``; empty without it.
        settings: content of ``args.yaml`` of a training; empty for others.
        task: whether an image has one label or several.
    """

    label: str
    folder: Path
    predictions: Predictions | None
    summary: Path | None
    result: dict[str, Any]
    settings: dict[str, Any]
    task: Task = SINGLE_LABEL


def read_runs(folders: Sequence[Path]) -> list[ComparedRun]:
    """Reads the folders of runs.

    Args:
        folders: of ``timm-gcp train``, ``probe`` or ``validate --report``.

    Raises:
        GCPError: a folder that is none of these or is given twice, a file that cannot be read, or runs with one label
            an image beside runs with several.
    """
    resolved = [folder.resolve() for folder in folders]
    if twice := next((each for each in folders if resolved.count(each.resolve()) > 1), None):
        raise GCPError(f"The run {str(twice)!r} is given twice; leave one out.")
    runs = [_read(folder, label) for folder, label in zip(folders, _labels(resolved), strict=True)]
    kinds = {run.task: run.label for run in runs}
    if len(kinds) > 1:
        raise GCPError(
            f"{kinds[MULTI_LABEL]!r} is of multi-label data and {kinds[SINGLE_LABEL]!r} of one label per image, so "
            "they have no metric in common; compare runs of one kind."
        )
    return runs


def _labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths by which the folders differ."""
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        labels = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(labels)) == len(labels):
            return labels
    return [str(folder) for folder in folders]


def _read(folder: Path, label: str) -> ComparedRun:
    predictions, summary = folder / FILE, folder / "summary.csv"
    if not predictions.is_file() and not summary.is_file():
        what = "does not exist" if not folder.exists() else "is no folder" if not folder.is_dir() else "is no run"
        raise GCPError(
            f"{str(folder)!r} {what}: give folders of timm-gcp train, probe or validate --report, which "
            f"hold {FILE} or summary.csv."
        )
    result = _mapping(folder / "result.json", json.loads)
    settings = _settings(folder / "args.yaml")
    task = DatasetOptions(dataset=str(settings.get("dataset") or "")).task
    if "map" in result:  # also without settings, from validate
        task = MULTI_LABEL
    return ComparedRun(
        label=label,
        folder=folder,
        # Only those of one label per image have a paired test.
        predictions=read_predictions(predictions) if predictions.is_file() and task is SINGLE_LABEL else None,
        summary=summary if summary.is_file() else None,
        task=task,
        result=result,
        settings=settings,
    )


def _settings(path: Path) -> dict[str, Any]:
    return {name: value for name, value in _mapping(path, yaml.safe_load).items() if name not in _OWN}


def _mapping(path: Path, parse: Any) -> dict[str, Any]:
    """The content of a file; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise GCPError(f"Cannot read {str(path)!r} ({one_line(error)}); remove it or restore it.") from error
    return content if isinstance(content, dict) else {}
