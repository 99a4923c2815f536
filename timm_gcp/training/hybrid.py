"""The hybrid protocol: one method while the learning rate is large, another once it is small.

Song, Sebe and Wang (ICCV 2021) train with Newton–Schulz until the learning rate is small and the covariances are
well-conditioned, then go on with the exact root. `HybridSchedule` does that inside one run: a *rule* says when, the
schedule switches every pool of every copy of the model, once and for good.

Example, with a timm scheduler::

    def make_scheduler(optimizer):
        return create_scheduler_v2(optimizer, sched='cosine', num_epochs=epochs)[0]

    hybrid = HybridSchedule(model, warm='isqrt', switch=LearningRateFraction(0.1))
    hybrid.check(preview_learning_rates(optimizer, make_scheduler, epochs), epochs)
    scheduler = make_scheduler(optimizer)
    for epoch in range(epochs):
        if hybrid.step(base_learning_rate(optimizer), epoch):
            print(f'epoch {epoch}: {hybrid.method} from here on')
        train_one_epoch(model)
        scheduler.step(epoch + 1)
"""

import copy
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..errors import GCPError
from ..methods import get_method
from ..pooling import find_pools

__all__ = [
    "AtEpoch",
    "ConditioningSettles",
    "History",
    "HybridSchedule",
    "LearningRateFraction",
    "SwitchRule",
    "base_learning_rate",
    "preview_learning_rates",
]

_logger = logging.getLogger(__name__)

# Schedulers recompute a rate by a recurrence: equal rates differ in the last digits.
_TOLERANCE = 1e-6

# The share of a run that the final method gets where the rule of the switch would not be reached.
_LAST_PART = 0.2


@dataclass
class History:
    """What a rule may look at: the course of the run up to now.

    Attributes:
        epoch: the epoch that runs or is about to start, from 0.
        position: the same, with the part of the epoch that is done.
        lr: learning rate of the base group in force now; nan where nobody can know it yet.
        highest: the highest learning rate so far.
        peak: the highest learning rate of the whole run, where a preview gave it.
        peak_at: the position at which the preview has that peak first.
        updates_per_epoch: updates in an epoch, where the preview has one rate an update.
        last_part: the position from which the final method trains in any case, where `HybridSchedule.check` found that
            the rule may not be reached.
        below_since: the first epoch of the present stretch that ran below the peak from its start.
        conditioning: pairs of epoch and median condition number κ.
    """

    epoch: int = 0
    position: float = 0.0
    lr: float = math.nan
    highest: float = 0.0
    peak: float | None = None
    peak_at: float | None = None
    updates_per_epoch: int | None = None
    last_part: float | None = None
    below_since: int | None = None
    conditioning: list[tuple[int, float]] = field(default_factory=list)

    @property
    def reference(self) -> float:
        """The peak: of the whole run where it is known, else of what has been seen."""
        return self.highest if self.peak is None else self.peak

    @property
    def past_peak(self) -> bool:
        """Whether the peak has been reached. The position counts too: a resumed run has not seen its past."""
        if self.peak is None or self.peak_at is None:
            return self.highest > 0
        return self.highest >= self.peak * (1 - _TOLERANCE) or self.position >= self.peak_at

    def fallen_to(self, fraction: float) -> bool:
        """Whether the rate is at or under a fraction of its peak, after the peak."""
        return self.past_peak and self.reference > 0 and self.lr <= fraction * self.reference * (1 + _TOLERANCE)

    def record(self, lr: float, epoch: int, update: int | None = None) -> None:
        """Takes in the learning rate in force from here on."""
        self.lr, self.epoch, self.position = lr, epoch, float(epoch)
        if update is not None and self.updates_per_epoch:
            self.position = update / self.updates_per_epoch
        if lr > self.highest:
            self.highest = lr
        if not self.past_peak or not lr < self.reference * (1 - _TOLERANCE):
            self.below_since = None
        elif self.below_since is None:
            self.below_since = math.ceil(self.position)


class SwitchRule(Protocol):
    """When to switch. A rule has no state of its own: all it knows is the `History`."""

    def reached(self, history: History) -> bool:
        """Whether the moment has come."""

    def describe(self) -> str:
        """The rule as the end of a sentence that starts with 'switches'."""

    def foreseen(self, lrs_known: bool) -> bool:
        """Whether a rehearsal over the previewed rates finds the very moment, not only the latest one."""

    def refusal(self, lrs: Sequence[float] | None, epochs: int) -> str:
        """One sentence for a run in which the moment never comes: why, and the remedy."""


def _epochs(number: float) -> str:
    return f"{number:.4g} epoch{'' if number == 1 else 's'}"


def _remedy(epochs: int) -> str:
    """What to do about a switch that does not come, by the names on the command line and in a loop of one's own."""
    alone = "train with the final method alone (--no-hybrid; without HybridSchedule in a loop of your own)"
    if epochs == 1:
        return (
            "one epoch without a step of the learning rate in it has no moment for a switch: train longer "
            "(--epochs 2), step at every update and have more than one (--sched-on-updates, a smaller batch; "
            f"updates_per_epoch), or {alone}."
        )
    own = "latest_epoch in a loop of your own"
    return f"give an epoch for the switch under {epochs} (--switch-epoch N; {own}), or {alone}."


def _check_latest(latest_epoch: float | None) -> None:
    if latest_epoch is not None and not latest_epoch > 0:
        raise GCPError(
            f"The latest epoch for the switch is {latest_epoch}, but the warm method has to train before it: give 1 or "
            "more, or train with the final method alone (--no-hybrid; without HybridSchedule in a loop of your own)."
        )


def _due(latest_epoch: float | None, history: History) -> bool:
    # A position, not an epoch: `last_part` may begin within an epoch.
    latest = history.last_part if latest_epoch is None else latest_epoch
    return latest is not None and history.position >= latest


def _at_the_latest(latest_epoch: float | None) -> str:
    return "" if latest_epoch is None else f", after {_epochs(latest_epoch)} at the latest"


def last_part(epochs: int, updates_per_epoch: int | None = None) -> float | None:
    """Where the last part of a run begins, for a switch that the learning rate does not bring.

    Args:
        epochs: length of the whole run.
        updates_per_epoch: where the method can change between updates; None where it changes between epochs only.

    Returns:
        The position in epochs, from 0; whole where it is between epochs. None where the run has one step alone.
    """
    steps = epochs * (updates_per_epoch or 1)
    begin = steps - max(1, round(_LAST_PART * steps))
    if begin < 1:
        return None
    return begin / updates_per_epoch if updates_per_epoch else begin


@dataclass(frozen=True)
class LearningRateFraction:
    """Switches when the base group's learning rate has fallen to a fraction of its peak, after the peak.

    Args:
        fraction: of the peak, between 0 and 1.
        latest_epoch: switches at the start of this epoch (from 0) even if the rate has not fallen so far; what a
            metric-driven schedule (plateau) needs, since nobody knows beforehand how far it falls.
    """

    fraction: float = 0.1
    latest_epoch: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise GCPError(
                f"The fraction of the peak learning rate at which the method switches is {self.fraction:g}, but it has "
                "to lie between 0 and 1 (--switch-lr-fraction 0.1)."
            )
        _check_latest(self.latest_epoch)

    def reached(self, history: History) -> bool:
        return history.fallen_to(self.fraction) or _due(self.latest_epoch, history)

    def describe(self) -> str:
        return (
            f"when the learning rate has fallen to {100 * self.fraction:.4g} % of its peak"
            f"{_at_the_latest(self.latest_epoch)}"
        )

    def foreseen(self, lrs_known: bool) -> bool:
        return lrs_known

    def refusal(self, lrs: Sequence[float] | None, epochs: int) -> str:
        return f"The hybrid protocol would never switch: {self.missed(lrs, epochs)}; {_remedy(epochs)}"

    def missed(self, lrs: Sequence[float] | None, epochs: int) -> str:
        if lrs is None:
            return "a metric drives the schedule (plateau), and nobody knows how far the learning rate will fall"
        peak = max(lrs)
        after = lrs[lrs.index(peak) :]
        low = min(after) / peak if peak > 0 else 1.0
        if low < 1 - _TOLERANCE:
            course = f"falls to {low:.3g} of its peak at the lowest"
        elif len(lrs) > 1 and lrs[0] < peak * (1 - _TOLERANCE) and len(after) == 1:
            course = "rises to the end (its warm-up is as long as the run)"
        else:
            course = "stays at its peak"
        return (
            f"within the {_epochs(epochs)} the learning rate {course}, and the switch waits for {self.fraction:g} of it"
        )


@dataclass(frozen=True)
class AtEpoch:
    """Switches at the start of an epoch.

    Args:
        epoch: the first epoch under the final method, from 0; 1 or more.
    """

    epoch: int

    def __post_init__(self) -> None:
        if self.epoch < 1:
            raise GCPError(
                f"A switch at epoch {self.epoch} leaves no epoch for the warm method: give 1 or more, or train with "
                "the final method alone (--no-hybrid)."
            )

    def reached(self, history: History) -> bool:
        return _due(self.epoch, history)

    def describe(self) -> str:
        return f"after {_epochs(self.epoch)}"

    def foreseen(self, lrs_known: bool) -> bool:
        return True

    def refusal(self, lrs: Sequence[float] | None, epochs: int) -> str:
        sooner = (
            f"give --switch-epoch {epochs - 1} or less (AtEpoch), or train longer" if epochs > 1 else "train longer"
        )
        return (
            f"The hybrid protocol would never switch: epoch {self.epoch}, counted from 0, lies beyond the end of a "
            f"training of {_epochs(epochs)}; {sooner} (--epochs)."
        )


@dataclass(frozen=True)
class ConditioningSettles:
    """Switches when the conditioning of the covariances has settled.

    Settled: the base-10 logarithms of the median κ of the last `window` epochs lie within `tolerance` of each other.
    Only epochs that ran below the peak learning rate count; a restart of the schedule starts the count anew.

    Args:
        window: epochs to compare, 2 or more.
        tolerance: spread of log10 κ under which they count as equal.
        latest_epoch: switches at the start of this epoch (from 0) even if nothing has settled. Needed for training,
            since nobody knows beforehand whether κ settles.
    """

    window: int = 3
    tolerance: float = 0.1
    latest_epoch: float | None = None

    def __post_init__(self) -> None:
        if self.window < 2 or not self.tolerance > 0:
            raise GCPError(
                f"Conditioning settles over a window of at least 2 epochs and a tolerance above 0, not over "
                f"{self.window} epochs and {self.tolerance:g}."
            )
        _check_latest(self.latest_epoch)

    def reached(self, history: History) -> bool:
        return self._settled(history) or _due(self.latest_epoch, history)

    def _settled(self, history: History) -> bool:
        since = history.below_since
        if since is None:
            return False
        logs = [math.log10(kappa) for epoch, kappa in history.conditioning if epoch >= since][-self.window :]
        return len(logs) == self.window and max(logs) - min(logs) < self.tolerance

    def describe(self) -> str:
        return (
            f"when log10 of the median condition number changes by less than {self.tolerance:g} over {self.window} "
            f"epochs{_at_the_latest(self.latest_epoch)}"
        )

    def foreseen(self, lrs_known: bool) -> bool:
        return False

    def refusal(self, lrs: Sequence[float] | None, epochs: int) -> str:
        return f"The hybrid protocol might never switch: {self.missed(lrs, epochs)}; {_remedy(epochs)}"

    def missed(self, lrs: Sequence[float] | None, epochs: int) -> str:
        return "nobody knows beforehand whether the conditioning settles"


DEFAULT_SWITCH = LearningRateFraction(0.1)


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
                "another --warm-method, or train with one method (--no-hybrid)."
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
        """Makes sure, before training, that the switch comes, and takes note of the peak.

        Where the learning rate does not fall far enough, or nobody can know it, the rule gets a latest moment: the
        final method trains the last fifth of the run (`describe` says so).

        When resuming, load the state first: a run that has switched is not refused.

        Args:
            lrs: the base group's learning rate, one an epoch, or one an update if `updates_per_epoch` is given
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
            raise GCPError(f"A training of {epochs} epochs has nothing to train: give 1 or more (--epochs).")
        if lrs is not None and len(lrs) != epochs * (updates_per_epoch or 1):
            raise GCPError(
                f"check() was given {len(lrs)} learning rates for {epochs} epochs of {updates_per_epoch or 1} steps."
            )
        if lrs:
            peak = max(lrs)
            first = next(i for i, lr in enumerate(lrs) if lr >= peak * (1 - _TOLERANCE))
            plan = History(peak=peak, peak_at=first / (updates_per_epoch or 1), updates_per_epoch=updates_per_epoch)
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
            after = _epochs(int(self.switched_at["epoch"] or 0))
            return f"Hybrid protocol: switched from {self.warm} to {self.final} after {after}."
        why = f"{_at_the_latest(self._history.last_part)} ({self._reason})" if self._reason else ""
        return f"Hybrid protocol: {self.warm} first, switches to {self.final} {self.switch.describe()}{why}."

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
                "run, or train without (--no-hybrid)."
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
            "name ends in a method (resnet50_svdpade), or train with --no-hybrid."
        )
    return pools


def _with_plan(history: History, plan: History) -> History:
    return replace(
        history,
        peak=plan.peak,
        peak_at=plan.peak_at,
        updates_per_epoch=plan.updates_per_epoch,
        last_part=plan.last_part,
    )


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
        The base group's learning rate, one an epoch (or an update); None if a metric drives the schedule.

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
        if _metric_driven(scheduler):
            return None
        of_timm = hasattr(scheduler, "step_update")
        if of_timm and not updates_per_epoch and not scheduler.t_in_epochs:
            raise GCPError("This scheduler steps on updates: give updates_per_epoch to preview it.")
        steps = updates_per_epoch or 1
        total = epochs * steps
        for done in range(1, total + 1):
            lrs.append(base_learning_rate(rehearsal))
            if done == total or scheduler is None:
                continue
            if of_timm:
                scheduler.step_update(done)
                if done % steps == 0:
                    scheduler.step(done // steps)
            else:
                rehearsal.step()
                scheduler.step()
    return lrs
