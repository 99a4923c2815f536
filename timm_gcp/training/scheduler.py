"""The learning-rate scheduler of a run: made by timm, previewed for the switch, and moved to where the run starts."""

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.scheduler import create_scheduler_v2, scheduler_kwargs

from ..errors import GCPError
from ..hybrid import HybridSchedule, preview_learning_rates
from ..text import first_line
from .options import SchedulerOptions, TrainOptions

__all__ = ["Scheduler", "fill_in_course", "make_scheduler", "rate_ratio", "warn_of_warmup"]

_logger = logging.getLogger(__name__)

# timm's warm-up in epochs, and the largest share of a run that it takes where it is not given.
_WARMUP_EPOCHS, _WARMUP_SHARE = 5, 0.2
# The schedules of timm that end in a decay of their own.
_STABLE_DECAY = ("wsd", "rsqrt")
# timm's length of the decay: epochs between two falls, and the share of the schedule in which those decay.
_DECAY_EPOCHS, _DECAY_SHARE = 90, 0.2
# A cosine over fewer epochs does not come near zero in steps of an epoch: its rate changes at every update.
_EPOCHS_FOR_STEPS = 6

# The settings of torch's ReduceLROnPlateau, which its state_dict holds among the state.
_PLATEAU_SETTINGS = ("factor", "patience", "cooldown", "mode", "threshold", "threshold_mode", "min_lrs", "eps")


def fill_in_course(options: SchedulerOptions, before: Mapping[str, Any] | None = None) -> None:
    """Fills in ``sched_on_updates``, ``warmup_epochs`` and ``decay_epochs``, where they are not given.

    Under 6 epochs the rate changes at every update (except plateau's, which cannot). The warm-up has timm's 5 epochs,
    but at most a fifth of the run; it is a whole number where the rate changes between epochs, and where the warm-up
    comes before the epochs of the schedule (``warmup_prefix``). The decay has timm's length.

    Args:
        options: of the scheduler.
        before: options of the run that this one continues, or None. Under the same scheduler its values are taken, so
            that another ``epochs`` leaves the warm-up as it was.
    """
    if before is not None and before.get("sched") == options.sched:
        for name in ("sched_on_updates", "warmup_epochs", "decay_epochs"):
            if getattr(options, name) is None:
                setattr(options, name, before.get(name))
    if options.sched_on_updates is None:
        options.sched_on_updates = options.epochs < _EPOCHS_FOR_STEPS and options.sched != "plateau"
    if options.warmup_epochs is None:
        share = _WARMUP_SHARE * options.epochs
        options.warmup_epochs = min(_WARMUP_EPOCHS, share if options.sched_on_updates else int(share))
    if options.warmup_prefix:
        options.warmup_epochs = int(options.warmup_epochs)
    if options.decay_epochs is None:
        options.decay_epochs = _DECAY_SHARE if options.sched in _STABLE_DECAY else _DECAY_EPOCHS


def warn_of_warmup(warmup_epochs: float, epochs: int) -> None:
    """Warns of a run that ends before its warm-up does.

    Args:
        warmup_epochs: length of the warm-up in epochs.
        epochs: length of the whole run, with a warm-up that precedes the schedule.
    """
    if warmup_epochs >= epochs:
        _logger.warning(
            "The whole run is warm-up (--warmup-epochs %g, and %d epochs in all), so the learning rate never reaches "
            "--lr: give a shorter warm-up, or train longer (--epochs).",
            warmup_epochs,
            epochs,
        )


def rate_ratio(lr: float, before: Mapping[str, Any] | None) -> float:
    """The learning rate of this run over that of the run that it continues; 1 where that is not known.

    Args:
        lr: peak of the learning rate of this run.
        before: options of the run that it continues, or None.
    """
    old = (before or {}).get("lr")
    return lr / old if isinstance(old, float) and old > 0 and old != lr else 1.0


@dataclass
class Scheduler:
    """timm's scheduler of a run.

    Attributes:
        scheduler: timm's object; None for a constant rate.
        epochs: length of the whole run, with warm-up and cool-down that come on top.
        make: makes the same scheduler for another optimiser, for a preview.
        updates_per_epoch: optimiser updates in an epoch; None where the rate changes between epochs only.
    """

    scheduler: Any
    epochs: int
    make: Callable[[torch.optim.Optimizer], Any]
    updates_per_epoch: int | None

    def check_switch(self, optimizer: torch.optim.Optimizer, schedule: HybridSchedule) -> None:
        """Makes sure that the switch of the hybrid protocol comes.

        Raises:
            GCPError: it would not come before the end of the run.
        """
        lrs = preview_learning_rates(optimizer, self.make, self.epochs, self.updates_per_epoch)
        schedule.check(lrs, self.epochs, self.updates_per_epoch)

    def go_to(self, epoch: int, update: int) -> None:
        """Moves the scheduler to the place where a resumed run starts.

        Args:
            epoch: first epoch of this run, from 0.
            update: updates done since the start of the whole run.
        """
        if self.scheduler is None or not (epoch or update):
            return
        if self.updates_per_epoch:
            self.scheduler.step_update(update)
        else:
            self.scheduler.step(epoch)

    def after_update(self, update: int, metric: float) -> None:
        """Tells the scheduler how many updates are done since the start of the whole run, and the loss so far."""
        if self.scheduler is not None:
            self.scheduler.step_update(num_updates=update, metric=metric)

    def after_epoch(self, epoch: int, metric: float) -> None:
        """Tells the scheduler how many epochs are done, and the metric of the last one."""
        if self.scheduler is not None:
            self.scheduler.step(epoch, metric)

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """The state of a metric-driven scheduler for a checkpoint; None for others, which have none."""
        if not hasattr(self.scheduler, "lr_scheduler"):
            return None
        return {
            "state": self.scheduler.lr_scheduler.state_dict(),
            "lrs": [group["lr"] for group in optimizer.param_groups],
            "without_noise": self.scheduler.restore_lr,
        }

    def load_state(self, saved: Mapping[str, Any] | None, optimizer: torch.optim.Optimizer, ratio: float) -> None:
        """Takes up a metric-driven schedule from a checkpoint; its settings are those of this run.

        Args:
            saved: what `state` gave, or None.
            optimizer: of this run.
            ratio: learning rate of this run over that of the run that wrote the checkpoint.

        Raises:
            GCPError: the parameter groups of the optimiser are others.
        """
        if saved is None or not hasattr(self.scheduler, "lr_scheduler"):
            return
        if len(saved["lrs"]) != len(optimizer.param_groups):
            raise GCPError(
                f"The checkpoint holds a plateau schedule of {len(saved['lrs'])} parameter groups, and this optimiser "
                f"has {len(optimizer.param_groups)}; give the run's own --weight-decay and --layer-decay."
            )
        plateau = self.scheduler.lr_scheduler
        plateau.load_state_dict({k: v for k, v in saved["state"].items() if k not in _PLATEAU_SETTINGS})
        for group, lr in zip(optimizer.param_groups, saved["lrs"], strict=True):
            group["lr"] = lr * ratio
        without_noise = saved.get("without_noise")  # older checkpoints lack it
        self.scheduler.restore_lr = None if without_noise is None else [lr * ratio for lr in without_noise]


def make_scheduler(options: TrainOptions, optimizer: torch.optim.Optimizer, updates: int) -> Scheduler:
    """timm's scheduler at the start of a run.

    Args:
        options: of the run.
        optimizer: its optimiser. A constant rate leaves its rates as they are.
        updates: optimiser updates in an epoch.

    Raises:
        GCPError: timm refuses the arguments, or does not know the scheduler.
    """
    settings = scheduler_kwargs(options, decreasing_metric=options.eval_metric == "loss" or not options.val_split)
    lrs = [group["lr"] for group in optimizer.param_groups]

    def make(target: torch.optim.Optimizer) -> Any:
        with warnings.catch_warnings():
            # timm warns that nobody saves the state of its plateau scheduler; our checkpoints hold it.
            warnings.simplefilter("ignore", FutureWarning)
            return create_scheduler_v2(target, **settings, updates_per_epoch=updates)

    try:
        scheduler, epochs = make(optimizer)
    except (ValueError, AssertionError) as error:
        raise GCPError(f"Scheduler '{options.sched}' cannot be made: {first_line(error)}.") from error
    if scheduler is None and options.sched != "none":
        raise GCPError(
            f"Scheduler '{options.sched}' is not known to timm {timm.__version__}; update timm or use cosine."
        )
    if options.sched in _STABLE_DECAY:
        # timm adds up the phases, and a warm-up of a part of an epoch may take their sum under the whole number.
        before = int(options.warmup_epochs or 0) if options.warmup_prefix else 0
        epochs = before + options.epochs + options.cooldown_epochs
    if scheduler is None:
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr
    else:
        warn_of_warmup(options.warmup_epochs or 0, epochs)
    return Scheduler(scheduler, epochs, make, updates if options.sched_on_updates else None)
