"""Rules of the switch: when the hybrid protocol goes from the warm method to the final one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import GCPError

__all__ = [
    "DEFAULT_SWITCH",
    "AtEpoch",
    "ConditioningSettles",
    "History",
    "LastDecay",
    "LearningRateFraction",
    "SwitchRule",
    "last_decay",
    "last_part",
]

# Schedulers recompute a rate by a recurrence: equal rates differ in the last digits.
TOLERANCE = 1e-6

# The share of a run that the final method gets where the rule of the switch would not be reached.
_LAST_PART = 0.2

# A learning rate that falls this many times in a row falls all along and not in steps.
_FALLS_IN_A_ROW = 3


@dataclass
class History:
    """The course of the run up to now: all that a rule looks at.

    Attributes:
        epoch: the epoch that runs or is about to start, from 0.
        position: the same, with the part of the epoch that is done.
        lr: learning rate of the base group in force now; nan where it is not known yet.
        highest: the highest learning rate so far.
        peak: the highest learning rate of the whole run, where a preview gave it.
        peak_at: the position at which the preview has that peak first.
        last_decay: the position of the last decay of the whole run, where a preview gave one that falls in steps.
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
    last_decay: float | None = None
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
        return self.highest >= self.peak * (1 - TOLERANCE) or self.position >= self.peak_at

    def fallen_to(self, fraction: float) -> bool:
        """Whether the rate is at or under a fraction of its peak, after the peak."""
        return self.past_peak and self.reference > 0 and self.lr <= fraction * self.reference * (1 + TOLERANCE)

    def record(self, lr: float, epoch: int, update: int | None = None) -> None:
        """Records the learning rate in force from here on."""
        self.lr, self.epoch, self.position = lr, epoch, float(epoch)
        if update is not None and self.updates_per_epoch:
            self.position = update / self.updates_per_epoch
        if lr > self.highest:
            self.highest = lr
        if not self.past_peak or not lr < self.reference * (1 - TOLERANCE):
            self.below_since = None
        elif self.below_since is None:
            self.below_since = math.ceil(self.position)


class SwitchRule(Protocol):
    """When to switch. A rule has no state of its own; it looks at the `History`."""

    def reached(self, history: History) -> bool:
        """Whether the moment has come."""

    def describe(self) -> str:
        """The rule as the end of a sentence that starts with 'switches'."""

    def foreseen(self, lrs_known: bool) -> bool:
        """Whether the previewed learning rates alone tell the moment."""

    def refusal(self, lrs: Sequence[float] | None, epochs: int) -> str:
        """One sentence for a run in which the moment never comes: why, and the remedy."""


def epochs_in_words(number: float) -> str:
    return f"{number:.4g} epoch{'' if number == 1 else 's'}"


def _remedy(epochs: int) -> str:
    """What to do about a switch that would not come."""
    alone = "train with the final method alone (`hybrid=False`; without HybridSchedule in your own loop)"
    if epochs == 1:
        return (
            "one epoch without a step of the learning rate in it has no moment for a switch: train longer "
            "(`epochs=2`), step at every update and have more than one (`sched_on_updates`, a smaller `batch_size`; "
            f"updates_per_epoch), or {alone}."
        )
    own = "latest_epoch in your own loop"
    return f"give an epoch for the switch under {epochs} (`switch_epoch`; {own}), or {alone}."


def _check_latest(latest_epoch: float | None) -> None:
    if latest_epoch is not None and not latest_epoch > 0:
        raise GCPError(
            f"The latest epoch for the switch is {latest_epoch}, but the warm method has to train before it: give 1 or "
            "more, or train with the final method alone (`hybrid=False`; without HybridSchedule in your own loop)."
        )


def _due(latest_epoch: float | None, history: History) -> bool:
    # A position, not an epoch: `last_part` may begin within an epoch.
    latest = history.last_part if latest_epoch is None else latest_epoch
    return latest is not None and history.position >= latest


def at_the_latest(latest_epoch: float | None) -> str:
    return "" if latest_epoch is None else f", after {epochs_in_words(latest_epoch)} at the latest"


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


def last_decay(lrs: Sequence[float], updates_per_epoch: int | None = None) -> float | None:
    """Where the learning rate of a step schedule falls for the last time.

    Args:
        lrs: the base group's learning rate, one per epoch, or one per update if `updates_per_epoch` is given.
        updates_per_epoch: optimiser updates in an epoch, for rates by update.

    Returns:
        The position in epochs, from 0. None where the rate does not fall after its peak, or falls all along (three
        times in a row, as a cosine does) and not in steps.
    """
    falls = _falls(lrs)
    if not falls or _falls_all_along(falls, updates_per_epoch):
        return None
    return falls[-1] / (updates_per_epoch or 1)


def _falls(lrs: Sequence[float]) -> list[int]:
    """The indices, after the peak, at which the rate is lower than at the one before."""
    peak = max(lrs)
    first = next(i for i, lr in enumerate(lrs) if lr >= peak * (1 - TOLERANCE))
    return [i for i in range(first + 1, len(lrs)) if lrs[i] < lrs[i - 1] * (1 - TOLERANCE)]


def _falls_all_along(falls: Sequence[int], updates_per_epoch: int | None) -> bool:
    updates = updates_per_epoch or 1
    # A scheduler that steps on epochs, previewed by update, falls at the epochs' boundaries only.
    unit = updates if all(i % updates == 0 for i in falls) else 1
    span = unit * (_FALLS_IN_A_ROW - 1)
    return any(later - first == span for first, later in zip(falls, falls[_FALLS_IN_A_ROW - 1 :], strict=False))


@dataclass(frozen=True)
class LastDecay:
    """Switches at the last decay of a learning rate that falls in steps: the rule of the paper's poster.

    The whole course of the rate has to be known: `HybridSchedule.check` takes it from a preview.
    """

    def reached(self, history: History) -> bool:
        """Whether the moment of the switch has come.

        Raises:
            GCPError: the course of the learning rate is not known.
        """
        if history.peak is None:
            raise GCPError(
                "The last decay of the learning rate cannot be told before training: a metric drives the schedule "
                "(plateau), or no preview was given to HybridSchedule.check; give a schedule of fixed steps "
                "(`sched=multistep`), or another rule (`switch_lr_fraction=0.1`)."
            )
        return history.last_decay is not None and history.position >= history.last_decay

    def describe(self) -> str:
        """The rule as the end of a sentence that starts with 'switches'."""
        return "at the last decay of the learning rate"

    def foreseen(self, lrs_known: bool) -> bool:
        """Whether the previewed learning rates alone tell the moment."""
        return lrs_known

    def refusal(self, lrs: Sequence[float] | None, epochs: int) -> str:
        """One sentence for a run in which the moment would never come: why, and the remedy."""
        course = "falls all along and not in steps" if lrs and _falls(lrs) else "does not fall after its peak"
        return (
            f"The hybrid protocol has no last decay to switch at: within the {epochs_in_words(epochs)} the learning "
            f"rate {course}; give a schedule with steps within the run (`sched=multistep`), or another rule "
            "(`switch_lr_fraction=0.1`)."
        )


@dataclass(frozen=True)
class LearningRateFraction:
    """Switches when the base group's learning rate has fallen to a fraction of its peak, after the peak.

    Args:
        fraction: of the peak, between 0 and 1.
        latest_epoch: switches at the start of this epoch (from 0) even if the rate has not fallen so far; what a
            metric-driven schedule (plateau) needs, whose rates are not known beforehand.
    """

    fraction: float = 0.1
    latest_epoch: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise GCPError(
                f"The fraction of the peak learning rate at which the method switches is {self.fraction:g}, but it has "
                "to lie between 0 and 1 (`switch_lr_fraction=0.1`)."
            )
        _check_latest(self.latest_epoch)

    def reached(self, history: History) -> bool:
        """Whether the moment of the switch has come."""
        return history.fallen_to(self.fraction) or _due(self.latest_epoch, history)

    def describe(self) -> str:
        """The rule as the end of a sentence that starts with 'switches'."""
        return (
            f"when the learning rate has fallen to {100 * self.fraction:.4g} % of its peak"
            f"{at_the_latest(self.latest_epoch)}"
        )

    def foreseen(self, lrs_known: bool) -> bool:
        """Whether the previewed learning rates alone tell the moment."""
        return lrs_known

    def refusal(self, lrs: Sequence[float] | None, epochs: int) -> str:
        """One sentence for a run in which the moment would never come: why, and the remedy."""
        return f"The hybrid protocol would never switch: {self.missed(lrs, epochs)}; {_remedy(epochs)}"

    def missed(self, lrs: Sequence[float] | None, epochs: int) -> str:
        """Why the rule may not be reached, as a clause."""
        if lrs is None:
            return "a metric drives the schedule (plateau), so it is not known how far the learning rate will fall"
        peak = max(lrs)
        after = lrs[lrs.index(peak) :]
        low = min(after) / peak if peak > 0 else 1.0
        if low < 1 - TOLERANCE:
            course = f"falls to {low:.3g} of its peak at the lowest"
        elif len(lrs) > 1 and lrs[0] < peak * (1 - TOLERANCE) and len(after) == 1:
            course = "rises to the end (its warm-up is as long as the run)"
        else:
            course = "stays at its peak"
        return (
            f"within the {epochs_in_words(epochs)} the learning rate {course}, and the switch waits for "
            f"{self.fraction:g} of it"
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
                "the final method alone (`hybrid=False`)."
            )

    def reached(self, history: History) -> bool:
        """Whether the moment of the switch has come."""
        return _due(self.epoch, history)

    def describe(self) -> str:
        """The rule as the end of a sentence that starts with 'switches'."""
        return f"after {epochs_in_words(self.epoch)}"

    def foreseen(self, lrs_known: bool) -> bool:
        """Whether the previewed learning rates alone tell the moment."""
        return True

    def refusal(self, lrs: Sequence[float] | None, epochs: int) -> str:
        """One sentence for a run in which the moment would never come: why, and the remedy."""
        sooner = (
            f"give `switch_epoch={epochs - 1}` or less (AtEpoch), or train longer" if epochs > 1 else "train longer"
        )
        return (
            f"The hybrid protocol would never switch: epoch {self.epoch}, counted from 0, lies beyond the end of a "
            f"training of {epochs_in_words(epochs)}; {sooner} (`epochs`)."
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
            since it is not known beforehand whether κ settles.
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
        """Whether the moment of the switch has come."""
        return self._settled(history) or _due(self.latest_epoch, history)

    def _settled(self, history: History) -> bool:
        since = history.below_since
        if since is None:
            return False
        logs = [math.log10(kappa) for epoch, kappa in history.conditioning if epoch >= since][-self.window :]
        return len(logs) == self.window and max(logs) - min(logs) < self.tolerance

    def describe(self) -> str:
        """The rule as the end of a sentence that starts with 'switches'."""
        return (
            f"when log10 of the median condition number changes by less than {self.tolerance:g} over {self.window} "
            f"epochs{at_the_latest(self.latest_epoch)}"
        )

    def foreseen(self, lrs_known: bool) -> bool:
        """Whether the previewed learning rates alone tell the moment."""
        return False

    def refusal(self, lrs: Sequence[float] | None, epochs: int) -> str:
        """One sentence for a run in which the moment would never come: why, and the remedy."""
        return f"The hybrid protocol might never switch: {self.missed(lrs, epochs)}; {_remedy(epochs)}"

    def missed(self, lrs: Sequence[float] | None, epochs: int) -> str:
        """Why the rule may not be reached, as a clause."""
        return "it is not known beforehand whether the conditioning settles"


DEFAULT_SWITCH = LearningRateFraction(0.1)
