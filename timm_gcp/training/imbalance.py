"""Corrections for classes with few images: weights and logit adjustment in the loss, and balanced sampling."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.balanced_sampler import BalancedSampler
from ..data.class_counts import class_counts, class_labels
from ..data.class_weights import balanced_weights, read_class_weights
from ..distributed import Processes
from ..errors import GCPError
from ..text import some_quoted
from .data import Data
from .options import TrainOptions

__all__ = ["BALANCED", "CorrectedCrossEntropy", "check_imbalance", "make_corrected_loss", "make_sampler"]

BALANCED = "balanced"
"""The value of ``class_weights`` that takes them from the numbers of images."""


class CorrectedCrossEntropy(nn.Module):
    """Cross-entropy with weights of the classes and adjusted logits.

    The loss of an image with target distribution t, smoothed where asked for, is −Σₖ wₖ tₖ log softmax(z + a)ₖ, and
    that of a batch its mean over the images: it is not divided by the sum of the weights, so that accumulation and
    several processes make the same gradient as one batch.

    Args:
        weights: w, ``[K]``, or None for 1.
        adjustment: a, ``[K]``, or None for 0: τ log πₖ with the shares πₖ of the classes (Menon et al., *Long-tail
            learning via logit adjustment*, ICLR 2021, equation 10).
        smoothing: label smoothing.
    """

    def __init__(self, weights: Tensor | None, adjustment: Tensor | None, smoothing: float) -> None:
        super().__init__()
        self.weights: Tensor | None
        self.adjustment: Tensor | None
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("adjustment", adjustment, persistent=False)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits ``[B, K]`` and labels ``[B]`` or distributions ``[B, K]``: a scalar."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if targets.dim() == 1:
            targets = F.one_hot(targets, logits.shape[1])
        if self.adjustment is not None:
            logits = logits + self.adjustment.to(logits.dtype)
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        return F.cross_entropy(logits, targets.to(logits.dtype), weight=weights, label_smoothing=self.smoothing)


def check_imbalance(options: TrainOptions) -> None:
    """Refuses options that contradict each other.

    Raises:
        GCPError: the contradiction, and the way out of it.
    """
    given = {
        "--class-weights balanced": options.class_weights == BALANCED,
        "--balanced-sampling": options.balanced_sampling,
        "--logit-adjustment": options.logit_adjustment is not None,
    }
    chosen = [name for name, is_given in given.items() if is_given]
    if len(chosen) > 1:
        raise GCPError(f"{chosen[0]} and {chosen[1]} each correct the imbalance, together too much; choose one.")
    if options.bce_loss and (options.class_weights or options.logit_adjustment is not None):
        name = "--class-weights" if options.class_weights else "--logit-adjustment"
        raise GCPError(f"{name} is defined for the cross-entropy; leave --bce-loss out, or use --balanced-sampling.")


def make_corrected_loss(options: TrainOptions, data: Data) -> nn.Module | None:
    """The loss that the options ask for, None where they leave the loss as it is.

    Args:
        options: of the run.
        data: its data sets.

    Raises:
        GCPError: classes without training images, a data set that does not tell its labels, or an unusable file.
    """
    weights = adjustment = None
    if options.class_weights == BALANCED:
        weights = torch.from_numpy(balanced_weights(_counts(data, "--class-weights balanced"))).float()
    elif options.class_weights:
        names = data.class_names or [str(label) for label in range(data.num_classes)]
        weights = torch.from_numpy(read_class_weights(options.class_weights, names)).float()
    if options.logit_adjustment is not None:
        counts = _counts(data, "--logit-adjustment")
        adjustment = torch.from_numpy(options.logit_adjustment * np.log(counts / counts.sum())).float()
    if weights is None and adjustment is None:
        return None
    # Mixup smooths the targets itself.
    return CorrectedCrossEntropy(weights, adjustment, 0.0 if options.mixes else options.smoothing)


def make_sampler(options: TrainOptions, data: Data, processes: Processes) -> BalancedSampler | None:
    """The sampler of the training images, None for timm's own.

    Raises:
        GCPError: the data set does not tell its labels.
    """
    if not options.balanced_sampling:
        return None
    labels = class_labels(data.train)
    if labels is None or not len(labels):
        raise GCPError(f"--balanced-sampling {_UNKNOWN}; leave it out.")
    return BalancedSampler(labels, options.seed, processes.rank, processes.world_size)


_UNKNOWN = "needs the labels before the images are read, and this data set does not tell them"


def _counts(data: Data, option: str) -> np.ndarray:
    counts = class_counts(data.train, data.num_classes)
    if counts is None or len(counts) != data.num_classes:
        raise GCPError(f"{option} {_UNKNOWN}; give --class-weights FILE.")
    names = data.class_names or [str(label) for label in range(data.num_classes)]
    if empty := [str(names[label]) for label in np.flatnonzero(counts == 0)]:
        raise GCPError(
            f"{option} needs training images of every class, and there is none of {some_quoted(empty)}: add images, "
            "take the class out, or give --class-weights FILE."
        )
    return counts
