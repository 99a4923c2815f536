"""Classification with any number of labels for each image: sigmoid, binary cross-entropy, mean average precision."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..distributed import gathered
from ..errors import GCPError
from .average_precision import average_precisions, f1_scores
from .multi_label_predictions import MultiLabelRecorder
from .task import Meter, Recorder, Task

__all__ = ["MULTI_LABEL", "MultiLabel"]


class MultiLabel(Task):
    """Any number of labels for each image; targets are vectors ``[B, K]`` of zeros and ones."""

    name = "multi-label"
    problem_type = "multi_label_classification"
    metrics = {"map": "mAP", "micro_f1": "micro F1", "macro_f1": "macro F1"}  # noqa: RUF012
    loss = "binary cross-entropy"
    activation = "sigmoid()"
    smoothing = 0.0

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoid: each class by itself."""
        return logits.sigmoid()

    def meter(self, device: torch.device) -> Meter:
        """Mean binary cross-entropy; mean average precision; F1 of the labels whose probability is above 0.5.

        Mean average precision is the mean over the classes that an image has; ``without_positives`` counts the
        others. Micro F1 is that of all images and classes together, macro F1 the mean over the classes that an image
        has or that are predicted.
        """
        return _AveragePrecision()

    def recorder(self) -> Recorder:
        """Recorder of `MultiLabelPredictions`."""
        return MultiLabelRecorder()


class _AveragePrecision(Meter):
    """Keeps all logits: average precision is a property of the whole ranking, not a mean over batches."""

    def __init__(self) -> None:
        self._rows = MultiLabelRecorder()

    def add(self, logits: Tensor, targets: Tensor) -> None:
        if targets.shape != logits.shape:
            raise GCPError(
                f"The data set has {targets.shape[1]} classes and the model {logits.shape[1]}; give a model of these "
                "classes."
            )
        self._rows.add(logits, targets)

    def result(self, device: torch.device) -> dict[str, float]:
        if not self._rows.batches:
            return {"count": 0}
        logits, targets = self._rows.rows()
        logits, targets = (
            gathered(logits, device),
            gathered(targets.byte(), device).bool(),
        )  # not all backends take bool
        return multi_label_metrics(logits, targets) if len(logits) else {"count": 0}


def multi_label_metrics(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """The metrics of all images.

    Args:
        logits: ``[n, K]``, float32.
        targets: ``[n, K]``, bool.

    Returns:
        ``loss``; ``map``, ``micro_f1`` and ``macro_f1`` in per cent; ``without_positives``, the number of classes that
        no image has; ``count`` of images.

    Raises:
        GCPError: no image has a label.
    """
    if not targets.any():
        raise GCPError("No image that is evaluated has a label, so there is no average precision; give another split.")
    precisions = average_precisions(targets.numpy(), logits.numpy())
    micro, each = f1_scores(targets.numpy(), logits.numpy() > 0)
    return {
        "loss": F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none").double().mean().item(),
        "map": 100 * float(np.nanmean(precisions)),
        "micro_f1": 100 * micro,
        "macro_f1": 100 * float(np.nanmean(each)),
        "without_positives": int(np.isnan(precisions).sum()),
        "count": len(logits),
    }


MULTI_LABEL = MultiLabel()
