"""The learning rates of a run before it starts: a scheduler rehearsed on an optimiser that updates nothing."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..errors import GCPError

__all__ = ["base_learning_rate", "preview_learning_rates"]


def base_learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate of the base group: the first parameter group that no ``lr_scale`` changes.

    (timm's layer decay sets ``lr_scale``.) If every group is scaled, it is the one whose scale is nearest to 1.
    """
    return float(min(optimizer.param_groups, key=lambda group: abs(group.get("lr_scale", 1.0) - 1.0))["lr"])


class _Rehearsal(torch.optim.Optimizer):
    """An optimiser with the groups of another one and nothing to optimise, for a scheduler to play on."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        groups = []
        for group in optimizer.param_groups:
            # What a scheduler has changed already goes back to its start.
            lr = float(group.get("initial_lr", group["lr"]))
            own = ("params", "param_names", "initial_lr")
            options = {name: copy.deepcopy(value) for name, value in group.items() if name not in own}
            groups.append({**options, "params": [torch.zeros(())], "lr": lr})
        super().__init__(groups, copy.deepcopy(optimizer.defaults))

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing to do."""


def _metric_driven(scheduler: Any) -> bool:
    """Whether torch's ReduceLROnPlateau decides, itself or inside timm's plateau or a composed scheduler."""
    inner = [getattr(scheduler, "lr_scheduler", None), *getattr(scheduler, "_schedulers", ())]
    return isinstance(scheduler, ReduceLROnPlateau) or any(_metric_driven(s) for s in inner if s is not None)


def preview_learning_rates(
    optimizer: torch.optim.Optimizer,
    make_scheduler: Callable[[torch.optim.Optimizer], Any],
    epochs: int,
    updates_per_epoch: int | None = None,
) -> list[float] | None:
    """Rehearses a learning-rate schedule on a throw-away optimiser. The given optimiser is not touched.

    Args:
        optimizer: the optimiser of the run; its groups are copied without their parameters.
        make_scheduler: makes the scheduler for the optimiser it is given: one of timm's (``step(epoch)`` and
            ``step_update(n)``), one of torch's (``step()``, once an epoch, or once an update if `updates_per_epoch` is
            given), what timm's ``create_scheduler_v2`` returns, or None for a constant rate.
        epochs: length of the whole run, with warm-up and cool-down.
        updates_per_epoch: optimiser updates in an epoch, if the rate changes between updates.

    Returns:
        The base group's learning rate, one per epoch (or an update); None if a metric drives the schedule.

    Raises:
        GCPError: a timm scheduler steps on updates, and `updates_per_epoch` is missing.
    """
    rehearsal = _Rehearsal(optimizer)
    lrs: list[float] = []
    # The real run gives the schedulers' warnings; here they would come twice.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = make_scheduler(rehearsal)
        scheduler = made[0] if isinstance(made, tuple) else made
        if scheduler is None:
            return [base_learning_rate(optimizer)] * (epochs * (updates_per_epoch or 1))
        if _metric_driven(scheduler):
            return None
        of_timm = hasattr(scheduler, "step_update")
        if of_timm and not updates_per_epoch and not scheduler.t_in_epochs:
            raise GCPError("This scheduler steps on updates: give updates_per_epoch to preview it.")
        steps = updates_per_epoch or 1
        total = epochs * steps
        for done in range(1, total + 1):
            lrs.append(base_learning_rate(rehearsal))
            if done == total:
                continue
            if of_timm:
                scheduler.step_update(done)
                if done % steps == 0:
                    scheduler.step(done // steps)
            else:
                rehearsal.step()
                scheduler.step()
    return lrs
