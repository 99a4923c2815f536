"""The optimisation of a run: loss, gradient scaler, optimiser, scheduler and averaged weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.utils import ModelEmaV3
from torch import nn

from ..data.options import LoadingOptions
from .options import AugmentationOptions, AveragingOptions, TrainOptions
from .orthogonality import make_orthogonality
from .scheduler import Scheduler
from .step import Stepper

__all__ = ["Optimisation", "make_average", "make_loss", "make_scaler", "make_stepper"]


@dataclass
class Optimisation:
    """What turns batches into updates of the weights.

    Attributes:
        stepper: loss, optimiser with clipping and accumulation, gradient scaler and precision.
        scheduler: of the learning rate.
        average: exponential moving average of the weights, or None.
    """

    stepper: Stepper
    scheduler: Scheduler
    average: ModelEmaV3 | None

    @property
    def epochs(self) -> int:
        """Length of the whole run."""
        return self.scheduler.epochs


def make_scaler(options: LoadingOptions, device: torch.device) -> torch.amp.GradScaler | None:
    """The gradient scaler that float16 needs on a GPU, or None."""
    if options.amp and options.amp_dtype == "float16" and device.type == "cuda":
        return torch.amp.GradScaler(device.type)
    return None


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


def make_stepper(
    options: TrainOptions,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: nn.Module,
    scaler: torch.amp.GradScaler | None,
    frozen: Sequence[nn.Module],
    device: torch.device,
) -> Stepper:
    """What makes the updates of a run.

    Args:
        options: of the run.
        model: without wrappers.
        optimizer: of its parameters.
        loss: logits and targets to a scalar.
        scaler: of `make_scaler`.
        frozen: modules of the model that are not trained.
        device: of the model.
    """
    return Stepper(
        model,
        optimizer,
        loss.to(device),
        scaler=scaler,
        clip_grad=options.clip_grad,
        clip_mode=options.clip_mode,
        accumulate=options.grad_accum_steps,
        frozen=frozen,
        autocast=options.autocast(device),
        orthogonality=make_orthogonality(options, model),
    )
