"""What depends on whether an image has one class or any number of labels: probabilities, metrics, predictions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Meter", "Recorder", "Task"]


class Meter(ABC):
    """Measures the logits of an evaluation, batch after batch."""

    @abstractmethod
    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Takes a batch.

        Args:
            logits: ``[B, K]``, float32.
            targets: of the task.

        Raises:
            GCPError: the targets do not fit the model's classes.
        """

    @abstractmethod
    def result(self, device: torch.device) -> dict[str, float]:
        """The metrics over the batches of all processes; every process has to call it.

        Args:
            device: of this process.

        Returns:
            ``count`` of images; where it is not 0, also ``loss`` and the metrics of the task.
        """


class Recorder(ABC):
    """Keeps the predictions of an evaluation, batch after batch."""

    @abstractmethod
    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Takes a batch, as `Meter.add`."""

    @abstractmethod
    def predictions(self, dataset: Any, split: str, class_names: Sequence[str] | None = None) -> Any:
        """The predictions of all batches.

        Args:
            dataset: that the batches came from, in its order.
            split: of the data set.
            class_names: by label; None takes those of the data set. A class without a name gets its number.
        """


class Task(ABC):
    """A kind of classification.

    Attributes:
        name: 'single-label' or 'multi-label'.
        problem_type: its name in configurations of transformers.
        metrics: of an evaluation beside the loss, in per cent, key → name; the first one ranks the epochs.
        loss: name of the loss.
        activation: the call that makes logits ``[B, K]`` probabilities, as code.
        smoothing: label smoothing of training, where none is asked for.
    """

    name: str
    problem_type: str
    metrics: Mapping[str, str]
    loss: str
    activation: str
    smoothing: float

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """The probabilities of the classes, ``[..., K]``."""

    @abstractmethod
    def meter(self, device: torch.device) -> Meter:
        """A meter of logits on a device."""

    @abstractmethod
    def recorder(self) -> Recorder:
        """A recorder of predictions."""

    def describe(self, metrics: Mapping[str, float]) -> str:
        """The metrics as a phrase: 'top-1 63.20, top-5 89.10, loss 1.3050'."""
        shown = [f"{name} {metrics[key]:.2f}" for key, name in self.metrics.items()]
        return ", ".join([*shown, f"loss {metrics['loss']:.4f}"])
