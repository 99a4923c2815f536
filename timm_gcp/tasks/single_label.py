"""Classification with one class for each image: softmax, cross-entropy, accuracy."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..distributed import summed
from ..errors import GCPError
from ..predictions import PredictionRecorder
from .task import Meter, Recorder, Task

__all__ = ["SINGLE_LABEL", "SingleLabel", "check_labels"]


class SingleLabel(Task):
    """One class for each image; targets are labels ``[B]``."""

    name = "single-label"
    problem_type = "single_label_classification"
    metrics = {"top1": "top-1", "top5": "top-5"}  # noqa: RUF012
    loss = "cross-entropy"
    activation = "softmax(-1)"
    smoothing = 0.1

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over the last dimension."""
        return logits.softmax(-1)

    def meter(self, device: torch.device) -> Meter:
        """Mean cross-entropy, and top-1 and top-5 accuracy.

        With five classes or fewer, top-5 is always right. An image whose logits are not all finite is wrong in both.
        """
        return _Accuracy(device)

    def recorder(self) -> Recorder:
        """Recorder of `timm_gcp.predictions.Predictions`."""
        return _Recorder()


class _Recorder(PredictionRecorder, Recorder):
    """Keeps the predictions of an evaluation; `PredictionRecorder` knows no task."""


class _Accuracy(Meter):
    def __init__(self, device: torch.device) -> None:
        # Apple's GPUs have no float64.
        self._sums = torch.zeros(4, dtype=torch.float64, device="cpu" if device.type == "mps" else device)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        if not len(targets):
            return
        low, high = torch.stack(targets.aminmax()).tolist()
        check_labels(low, high, logits.shape[1])
        losses = F.cross_entropy(logits, targets, reduction="none")
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
        top &= logits.isfinite().all(1, keepdim=True)  # topk ranks NaN first
        rows = torch.stack([losses, top[:, 0].float(), top.any(1).float(), torch.ones_like(losses)])
        self._sums += rows.double().sum(1).to(self._sums.device)

    def result(self, device: torch.device) -> dict[str, float]:
        loss, top1, top5, count = summed(self._sums, device).tolist()
        if not count:
            return {"count": 0}
        return {"loss": loss / count, "top1": 100 * top1 / count, "top5": 100 * top5 / count, "count": int(count)}


def check_labels(low: float, high: float, classes: int) -> None:
    """Makes sure that labels are among the model's classes.

    Args:
        low: smallest label.
        high: largest label.
        classes: of the model.

    Raises:
        GCPError: a label lies outside.
    """
    if low < 0 or high >= classes:
        raise GCPError(
            f"Label {int(low if low < 0 else high)} lies outside the model's {classes} classes (0 to {classes - 1}); "
            "correct the data set's labels, or give a model with more classes (train: --num-classes)."
        )


SINGLE_LABEL = SingleLabel()
