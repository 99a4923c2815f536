"""Training with any number of labels for each image: its loss, and the options that it refuses."""

import numpy as np
import torch
from timm.loss import BinaryCrossEntropy
from torch import Tensor, nn

from ..data.class_counts import class_counts
from ..data.class_weights import read_class_weights
from ..errors import GCPError
from ..text import some_quoted
from .data import Data
from .imbalance import BALANCED
from .options import TrainOptions

__all__ = ["MultiLabelLoss", "check_multi_label", "make_multi_label_loss"]


class MultiLabelLoss(nn.Module):
    """Binary cross-entropy of each class, smoothed where asked for: the mean over images and classes.

    The loss of logit z and target y is −w y' log σ(z) − (1 − y') log(1 − σ(z)) with y' = (1 − ε) y + ε/2. Without
    weights and smoothing it is that of ``torch.nn.BCEWithLogitsLoss``.

    Args:
        weights: w of the positives of each class, ``[K]``, or None for 1.
        smoothing: ε.
        threshold: mixed targets above it become 1, the others 0; None leaves them.
        sum_classes: the sum over the classes, not their mean.
    """

    def __init__(
        self,
        weights: Tensor | float | None = None,
        smoothing: float = 0.0,
        threshold: float | None = None,
        sum_classes: bool = False,
    ) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.loss = BinaryCrossEntropy(
            smoothing=0.0, target_threshold=threshold, sum_classes=sum_classes, pos_weight=weights
        )

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits ``[B, K]`` and targets ``[B, K]`` from 0 to 1: a scalar."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = targets.to(logits.dtype) * (1 - self.smoothing) + self.smoothing / 2
        loss: Tensor = self.loss(logits, targets)
        return loss


def check_multi_label(options: TrainOptions) -> None:
    """Refuses what is defined for one label per image only.

    Raises:
        GCPError: an option that does not apply, and the way out.
    """
    if options.balanced_sampling:
        raise GCPError(
            "--balanced-sampling draws an image by its class, and an image of multi-label data has any number of them; "
            "give --class-weights balanced."
        )
    if options.logit_adjustment is not None:
        raise GCPError(
            "--logit-adjustment is defined for the cross-entropy of one label per image; multi-label data takes "
            "--class-weights balanced."
        )
    if options.init_head == "probe":
        raise GCPError(
            "--init-head probe fits a classifier with one label per image, and this data is multi-label; leave it out, "
            "or give --train-only classifier for a first run."
        )
    if options.bce_pos_weight is not None and options.class_weights:
        raise GCPError("--class-weights and --bce-pos-weight both weigh the positives; choose one.")


def make_multi_label_loss(options: TrainOptions, data: Data) -> MultiLabelLoss:
    """The loss of a multi-label run, with ``--class-weights`` as weights of the positives.

    Args:
        options: of the run.
        data: its data sets.

    Raises:
        GCPError: classes that no or every training image has, under balanced weights, or an unusable file.
    """
    weights: Tensor | float | None = options.bce_pos_weight
    names = data.class_names or [str(label) for label in range(data.num_classes)]
    if options.class_weights == BALANCED:
        weights = torch.from_numpy(_balanced(data, names)).float()
    elif options.class_weights:
        weights = torch.from_numpy(read_class_weights(options.class_weights, names)).float()
    return MultiLabelLoss(weights, options.smoothing, options.bce_target_thresh, options.bce_sum)


def _balanced(data: Data, names: list[str]) -> np.ndarray:
    """(N − nₖ) / nₖ: the positives of a class weigh as much as its negatives."""
    counts = class_counts(data.train, data.num_classes)
    assert counts is not None  # a multi-label data set knows its labels
    images = len(data.train)
    for wrong, what in ((counts == 0, "none has"), (counts == images, "all have")):
        if wrong.any():
            found = some_quoted([names[label] for label in np.flatnonzero(wrong)])
            raise GCPError(
                f"--class-weights balanced needs training images with and without each label, and {what} {found}: "
                "take the class out, or give --class-weights FILE."
            )
    weights: np.ndarray = (images - counts) / counts.astype(np.float64)
    return weights
