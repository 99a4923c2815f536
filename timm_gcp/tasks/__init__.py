"""Kinds of classification: one class for each image, or any number of labels."""

from .average_precision import average_precisions
from .mark import mark_task, notes_of, task_of_model, task_of_notes, task_of_problem
from .multi_label import MULTI_LABEL, MultiLabel
from .multi_label_predictions import MultiLabelPredictions
from .single_label import SINGLE_LABEL, SingleLabel, check_labels
from .task import Meter, Recorder, Task

__all__ = [
    "MULTI_LABEL",
    "SINGLE_LABEL",
    "Meter",
    "MultiLabel",
    "MultiLabelPredictions",
    "Recorder",
    "SingleLabel",
    "Task",
    "average_precisions",
    "check_labels",
    "mark_task",
    "notes_of",
    "task_of_model",
    "task_of_notes",
    "task_of_problem",
]
