"""Predictions of a multi-label classifier, image by image: kept while it is evaluated, and written to a CSV file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..predictions import image_names, names_by_label
from .average_precision import average_precisions
from .task import Recorder

__all__ = ["MultiLabelPredictions", "MultiLabelRecorder"]


@dataclass(frozen=True)
class MultiLabelPredictions:
    """What a classifier said of each of n images, in the order of the data set.

    Attributes:
        images: names of the images, with their split (`timm_gcp.predictions.image_names`).
        targets: whether the image has the class, ``[n, K]``, bool.
        logits: ``[n, K]``, float32.
        class_names: names by label.
    """

    images: list[str]
    targets: np.ndarray
    logits: np.ndarray
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def probabilities(self) -> np.ndarray:
        """Sigmoid of the logits, ``[n, K]``."""
        found: np.ndarray = torch.from_numpy(self.logits).sigmoid().numpy()
        return found

    @property
    def predicted(self) -> np.ndarray:
        """Whether the probability of the class is above 0.5, ``[n, K]``, bool."""
        return self.logits > 0

    @cached_property
    def average_precisions(self) -> np.ndarray:
        """Average precision of each class, ``[K]``, from 0 to 1; nan for a class without images."""
        return average_precisions(self.targets, self.logits)

    def table(self) -> tuple[list[str], Iterator[list[Any]]]:
        """Header and rows of a CSV file: image, its labels, the predicted ones, and the probability of each class."""
        names = np.array(self.class_names, dtype=object)
        rows = (
            [image, ";".join(names[true]), ";".join(names[guess]), *(f"{share:.6g}" for share in shares.tolist())]
            for image, true, guess, shares in zip(
                self.images, self.targets, self.predicted, self.probabilities, strict=True
            )
        )
        return ["image", "labels", "predicted", *(f"p:{name}" for name in self.class_names)], rows


class MultiLabelRecorder(Recorder):
    """Keeps the logits of batch after batch."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Keeps a batch.

        Args:
            logits: ``[B, K]``.
            targets: ``[B, K]``, 1 where the image has the class.
        """
        self.batches.append((logits.detach().float().cpu(), (targets > 0.5).cpu()))

    def rows(self) -> tuple[Tensor, Tensor]:
        """Logits and targets of all batches, ``[n, K]`` each."""
        logits, targets = (torch.cat(each) for each in zip(*self.batches, strict=True))
        return logits, targets

    def predictions(self, dataset: Any, split: str, class_names: Sequence[str] | None = None) -> MultiLabelPredictions:
        """The predictions of all batches, as `Recorder.predictions`."""
        logits, targets = self.rows()
        names = names_by_label(dataset, class_names, logits.shape[1])
        return MultiLabelPredictions(image_names(dataset, len(logits), split), targets.numpy(), logits.numpy(), names)
