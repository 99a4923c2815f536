"""The mark that a network is multi-label, in the configuration that timm saves and loads with its weights."""

from typing import Any

from torch import nn

from .multi_label import MULTI_LABEL
from .single_label import SINGLE_LABEL
from .task import Task

__all__ = ["mark_task", "notes_of", "task_of_model", "task_of_notes", "task_of_problem"]

_NOTE = "problem_type: "  # timm loads only its own entries of a configuration, of which `notes` takes any text


def task_of_problem(problem_type: str | None) -> Task:
    """The task of a name in configurations of transformers; single-label where there is none."""
    return MULTI_LABEL if problem_type == MULTI_LABEL.problem_type else SINGLE_LABEL


def notes_of(task: Task) -> list[str]:
    """The entry ``notes`` of a configuration that marks the task; empty for single-label, which needs no mark."""
    return [] if task is SINGLE_LABEL else [f"{_NOTE}{task.problem_type}"]


def task_of_model(model: nn.Module) -> Task:
    """The task that a model was trained for; single-label where it does not say.

    Args:
        model: of timm's.
    """
    return task_of_notes((getattr(model, "pretrained_cfg", None) or {}).get("notes"))


def task_of_notes(notes: Any) -> Task:
    """The task that the entry ``notes`` of a configuration marks; single-label where it does not say."""
    marks = [str(note) for note in ([notes] if isinstance(notes, str) else notes or ())]
    found = next((mark.removeprefix(_NOTE) for mark in marks if mark.startswith(_NOTE)), None)
    return task_of_problem(found)


def mark_task(model: Any, task: Task) -> None:
    """Marks a model with the task that it is trained for, so that a folder of it tells.

    Args:
        model: of timm's.
        task: of its classifier.
    """
    if task_of_model(model) is task:
        return
    config = dict(getattr(model, "pretrained_cfg", None) or {})
    config["notes"] = notes_of(task) or None
    model.pretrained_cfg = model.default_cfg = config
