"""The optimisation of a run: loss, optimiser with clipping and accumulation, scheduler, averaged weights, precision."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.utils import ModelEmaV3
from torch import nn

from .options import AugmentationOptions, AveragingOptions
from .scheduler import Scheduler
from .step import Stepper

__all__ = ["Optimisation", "make_average", "make_loss"]


@dataclass
class Optimisation:
    """What turns batches into updates of the weights.

    Attributes:
        loss: logits and targets to a scalar.
        stepper: the optimiser with clipping, accumulation and gradient scaler.
        scheduler: of the learning rate.
        average: exponential moving average of the weights, or None.
        autocast: makes the context of a forward pass.
    """

    loss: nn.Module
    stepper: Stepper
    scheduler: Scheduler
    average: ModelEmaV3 | None
    autocast: Callable[[], Any]

    @property
    def epochs(self) -> int:
        """Length of the whole run."""
        return self.scheduler.epochs


def make_average(options: AveragingOptions, model: nn.Module) -> ModelEmaV3 | None:
    """The average of the weights, which starts from those of the model; None without ``model_ema``."""
    if not options.model_ema:
        return None
    return ModelEmaV3(model, decay=options.model_ema_decay, use_warmup=options.model_ema_warmup)


def make_loss(options: AugmentationOptions) -> nn.Module:
    """The loss that timm's ``train.py`` would choose."""
    loss: nn.Module = nn.CrossEntropyLoss()
    if options.bce_loss:
        loss = BinaryCrossEntropy(
            smoothing=0.0 if options.mixes else options.smoothing,
            target_threshold=options.bce_target_thresh,
            sum_classes=options.bce_sum,
            pos_weight=options.bce_pos_weight,
        )
    elif options.mixes:
        loss = SoftTargetCrossEntropy()
    elif options.smoothing:
        loss = LabelSmoothingCrossEntropy(smoothing=options.smoothing)
    return loss
