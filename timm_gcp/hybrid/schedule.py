"""The schedule of the hybrid protocol: it switches the method of every covariance pool of a model once, for good."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from ..errors import GCPError
from ..methods import get_method
from ..pooling import find_pools
from .rules import (
    DEFAULT_SWITCH,
    TOLERANCE,
    ConditioningSettles,
    History,
    LastDecay,
    LearningRateFraction,
    SwitchRule,
    at_the_latest,
    epochs_in_words,
    last_decay,
    last_part,
)

__all__ = ["HybridSchedule"]

_logger = logging.getLogger(__name__)


class HybridSchedule:
    """Drives the method of a model's covariance pools: `warm` first, `final` once the rule says so, for good.

    Knows nothing of optimisers and schedulers: it is told the learning rate. Under distributed training every process
    sees the same rates and epochs, so all switch together (`ConditioningMonitor.summary` reduces over the processes).

    Args:
        model: a model with covariance pools, wrapped or not; its pools are set to `warm` at once.
        warm: method until the switch.
        final: method from the switch on; None takes the one that the model has now.
        switch: the rule; by default, a tenth of the peak learning rate.

    Attributes:
        warm, final: names of the two methods.
        switch: the rule.
        switched_at: ``{'epoch': int, 'update': int | None}`` of the switch, None before it.

    Raises:
        GCPError: the model has no covariance pool, a method is unknown, or both methods are the same.
    """

    def __init__(
        self, model: nn.Module, warm: str = "isqrt", final: str | None = None, switch: SwitchRule = DEFAULT_SWITCH
    ) -> None:
        own = sorted({pool.method for pool in _pools(model)})
        if final is None and len(own) > 1:
            raise GCPError(f"The model's pools use different methods ({', '.join(own)}): name the final method.")
        self.warm = get_method(warm).name
        self.final = get_method(own[0] if final is None else final).name
        if self.warm == self.final:
            raise GCPError(
                f"The hybrid protocol needs two methods, but '{self.warm}' is both the warm and the final one: give "
                "another `warm_method`, or train with one method (`hybrid=False`)."
            )
        self.switch = switch
        self.switched_at: dict[str, int | None] | None = None
        self._reason = ""
        self._history = History()
        self._models: list[nn.Module] = []
        self.add(model)

    @property
    def switched(self) -> bool:
        """Whether the final method is in force."""
        return self.switched_at is not None

    @property
    def method(self) -> str:
        """Name of the method in force."""
        return self.final if self.switched else self.warm

    def add(self, model: nn.Module) -> None:
        """Keeps another copy in step, such as an exponential moving average, and sets its method now.

        Raises:
            GCPError: the copy has no covariance pool.
        """
        _pools(model)
        self._models.append(model)
        self._apply()

    def check(self, lrs: Sequence[float] | None, epochs: int, updates_per_epoch: int | None = None) -> int | None:
        """Makes sure, before training, that the switch comes, and takes note of the peak and of the last decay.

        Where the learning rate does not fall far enough, or is not known, the rule gets a latest moment: the
        final method trains the last fifth of the run (`describe` says so).

        When resuming, load the state first: a run that has switched is not refused.

        Args:
            lrs: the base group's learning rate, one per epoch, or one per update if `updates_per_epoch` is given
                (`preview_learning_rates`); None for a metric-driven schedule, which cannot be known.
            epochs: length of the whole run.
            updates_per_epoch: optimiser updates in an epoch, for schedules that step on updates.

        Returns:
            The epoch of the switch (from 0; the one during which it comes, if that is between updates), None where
            it depends on what training brings.

        Raises:
            GCPError: the switch would not come before the end; the message names the remedy.
        """
        if epochs < 1:
            raise GCPError(f"A training of {epochs} epochs has nothing to train: give 1 or more (`epochs`).")
        if lrs is not None and len(lrs) != epochs * (updates_per_epoch or 1):
            raise GCPError(
                f"check() was given {len(lrs)} learning rates for {epochs} epochs of {updates_per_epoch or 1} steps."
            )
        if lrs:
            peak = max(lrs)
            first = next(i for i, lr in enumerate(lrs) if lr >= peak * (1 - TOLERANCE))
            plan = History(
                peak=peak,
                peak_at=first / (updates_per_epoch or 1),
                last_decay=last_decay(lrs, updates_per_epoch),
                updates_per_epoch=updates_per_epoch,
            )
        else:
            plan = History(updates_per_epoch=updates_per_epoch)
        self._history = _with_plan(self._history, plan)
        if self.switched_at is not None:
            return self.switched_at["epoch"]
        known = lrs is not None
        rehearsed = [math.nan] * (epochs * (updates_per_epoch or 1)) if lrs is None else lrs
        epoch = self._rehearse(plan, rehearsed)
        if epoch is None and self._take_last_part(lrs, epochs, updates_per_epoch):
            epoch = self._rehearse(_with_plan(History(), self._history), rehearsed)
        if epoch is None:
            raise GCPError(self.switch.refusal(lrs, epochs))
        return epoch if self.switch.foreseen(known) else None

    def _take_last_part(self, lrs: Sequence[float] | None, epochs: int, updates_per_epoch: int | None) -> bool:
        """Makes the last part of the run the latest moment of a rule that is not reached, if it has none of its own."""
        rule, begin = self.switch, last_part(epochs, updates_per_epoch)
        if begin is None or not isinstance(rule, (LearningRateFraction, ConditioningSettles)):
            return False
        if rule.latest_epoch is not None:
            return False
        self._reason = rule.missed(lrs, epochs)
        self._history.last_part = begin
        return True

    def _rehearse(self, history: History, lrs: Sequence[float]) -> int | None:
        """The epoch in which the rule is reached if the learning rates are these and κ never settles."""
        updates = history.updates_per_epoch
        for i, lr in enumerate(lrs):
            history.record(lr, i // (updates or 1), i if updates else None)
            if self.switch.reached(history):
                return history.epoch
        return None

    def observe(self, conditioning: float | Mapping[str, float], epoch: int) -> None:
        """Takes note of the conditioning of an epoch that has been trained.

        Call it before the checkpoint of that epoch is written: then a resumed run knows it too.

        Args:
            conditioning: the median κ, or what `ConditioningMonitor.summary` returns. Not finite: ignored.
            epoch: the epoch it was measured in. A second value for the same epoch replaces the first.
        """
        kappa = float(conditioning["kappa"] if isinstance(conditioning, Mapping) else conditioning)
        others = [(e, k) for e, k in self._history.conditioning if e != epoch]
        if math.isfinite(kappa) and kappa > 0:
            self._history.conditioning = sorted([*others, (int(epoch), kappa)])

    def step(
        self,
        lr: float,
        epoch: int,
        update: int | None = None,
        conditioning: float | Mapping[str, float] | None = None,
    ) -> bool:
        """Switches if the moment has come.

        Call it before each epoch, and also after each change of the learning rate if that changes between updates. A
        switch that falls on the boundary between two epochs happens at the start of the second one, so an epoch is
        evaluated under the method that trained it.

        Args:
            lr: learning rate of the base group in force from here on (`base_learning_rate`).
            epoch: the epoch about to start, or running, from 0.
            update: optimiser updates done since the start of the run.
            conditioning: of the epoch before this one; the same as `observe(conditioning, epoch - 1)`.

        Returns:
            True at the one moment of the switch, else False.
        """
        if conditioning is not None:
            self.observe(conditioning, epoch - 1)
        per_epoch = self._history.updates_per_epoch
        at_the_end = update is not None and per_epoch is not None and update >= (epoch + 1) * per_epoch
        if self.switched or at_the_end:
            return False
        self._history.record(float(lr), int(epoch), update)
        if not self.switch.reached(self._history):
            return False
        self.switched_at = {"epoch": int(epoch), "update": None if update is None else int(update)}
        self._apply()
        return True

    def describe(self) -> str:
        """One sentence for the log."""
        if self.switched_at is not None:
            after = epochs_in_words(int(self.switched_at["epoch"] or 0))
            return f"Hybrid protocol: switched from {self.warm} to {self.final} after {after}."
        more = f"{at_the_latest(self._history.last_part)} ({self._reason})" if self._reason else ""
        if isinstance(self.switch, LastDecay) and self._history.last_decay is not None:
            more = f", after {epochs_in_words(self._history.last_decay)}"
        return f"Hybrid protocol: {self.warm} first, switches to {self.final} {self.switch.describe()}{more}."

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint: plain numbers, strings, lists and dicts, which ``weights_only=True`` loads."""
        return {
            "warm": self.warm,
            "final": self.final,
            "switched_at": None if self.switched_at is None else dict(self.switched_at),
            "history": asdict(self._history),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes up a saved run and sets the method in force on every copy.

        The methods and the rule are those of this object, so a run may go on under another final method; a preview
        that `check` was given wins over the saved one.

        Raises:
            GCPError: this is not the state of a hybrid schedule.
        """
        try:
            history = History(**state_dict["history"])
            history.conditioning = [(int(epoch), float(kappa)) for epoch, kappa in history.conditioning]
            at = state_dict["switched_at"]
            switched_at = None if at is None else {"epoch": at["epoch"], "update": at["update"]}
            saved = state_dict["warm"], state_dict["final"]
        except (KeyError, TypeError, ValueError) as error:
            raise GCPError(
                "The checkpoint holds no readable state of a hybrid schedule: resume from a checkpoint of a hybrid "
                "run, or train without (`hybrid=False`)."
            ) from error
        if saved != (self.warm, self.final):
            _logger.warning(
                "The checkpoint was trained with %s then %s; this run goes on with %s then %s.",
                *saved,
                self.warm,
                self.final,
            )
        known = self._history.peak is not None
        self._history = _with_plan(history, self._history) if known else history
        self.switched_at = switched_at
        self._apply()

    def __repr__(self) -> str:
        methods = f"warm={self.warm!r}, final={self.final!r}"
        return f"HybridSchedule({methods}, switch={self.switch!r}, switched_at={self.switched_at})"

    def _apply(self) -> None:
        for model in self._models:
            for pool in _pools(model):
                pool.method = self.method


def _pools(model: nn.Module) -> list[Any]:
    pools = find_pools(model)
    if not pools:
        raise GCPError(
            f"{type(model).__name__} has no covariance pool, so there is no method to switch: choose a model whose "
            "name ends in a method (resnet50_svdpade), or train with `hybrid=False`."
        )
    return pools


def _with_plan(history: History, plan: History) -> History:
    return replace(
        history,
        peak=plan.peak,
        peak_at=plan.peak_at,
        last_decay=plan.last_decay,
        updates_per_epoch=plan.updates_per_epoch,
        last_part=plan.last_part,
    )
