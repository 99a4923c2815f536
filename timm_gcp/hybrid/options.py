"""Options of the hybrid protocol, and the schedule that they ask for."""

from dataclasses import dataclass

from torch import nn

from ..errors import GCPError
from ..methods import get_method
from ..pooling import find_pools
from .rules import AtEpoch, ConditioningSettles, LastDecay, LearningRateFraction, SwitchRule
from .schedule import HybridSchedule

__all__ = ["SWITCHES", "HybridOptions"]

SWITCHES = ("switch_lr_fraction", "switch_epoch", "switch_conditioning", "switch_last_decay")
"""The options that choose a rule of the switch."""
_FRACTION = 0.1


@dataclass(kw_only=True)
class HybridOptions:
    """Whether a model trains by the hybrid protocol, and when it switches.

    Attributes:
        hybrid: True asks for the protocol, False turns it off; None takes it where the model's own method is a root
            other than the warm method, or another function of the covariance and a rule of the switch is given.
        warm_method: method until the switch.
        switch_lr_fraction: switch once the learning rate is at most this fraction of its peak; None is 0.1, unless
            another rule is given.
        switch_epoch: switch at this epoch, from 0; with another rule, at this epoch at the latest.
        switch_conditioning: switch once the conditioning of the covariances has settled.
        switch_last_decay: switch at the last decay of the learning rate, in a schedule that falls in steps.
    """

    hybrid: bool | None = None
    warm_method: str = "isqrt"
    switch_lr_fraction: float | None = None
    switch_epoch: int | None = None
    switch_conditioning: bool = False
    switch_last_decay: bool = False

    def check(self) -> None:
        """Refuses options that contradict each other.

        Raises:
            GCPError: the contradiction, and the way out of it.
        """
        get_method(self.warm_method)
        given = self._rules()
        idle = given if self.warm_method == type(self).warm_method else [*given, "warm_method"]
        if idle and self.hybrid is False:
            raise GCPError(f"`{idle[0]}` has no effect with `hybrid=False`; leave one of them out.")
        if self.switch_conditioning and self.switch_lr_fraction is not None:
            raise GCPError("`switch_conditioning` and `switch_lr_fraction` are two rules for one switch; choose one.")
        if self.switch_last_decay and (others := [name for name in given if name != "switch_last_decay"]):
            raise GCPError(f"`switch_last_decay` and `{others[0]}` are two rules for one switch; choose one.")
        if self.switch_lr_fraction is not None and not 0 < self.switch_lr_fraction < 1:
            raise GCPError(f"`switch_lr_fraction` must lie between 0 and 1, not {self.switch_lr_fraction:g}.")
        if self.switch_epoch is not None and self.switch_epoch < 1:
            raise GCPError(
                f"`switch_epoch={self.switch_epoch}` leaves no epoch for the warm method; use 1 or more, or "
                "`hybrid=False`."
            )

    def rule(self) -> SwitchRule:
        """The rule of the switch."""
        if self.switch_last_decay:
            return LastDecay()
        if self.switch_conditioning:
            return ConditioningSettles(latest_epoch=self.switch_epoch)
        if self.switch_epoch is not None and self.switch_lr_fraction is None:
            return AtEpoch(self.switch_epoch)
        return LearningRateFraction(self.switch_lr_fraction or _FRACTION, latest_epoch=self.switch_epoch)

    def schedule(self, model: nn.Module) -> HybridSchedule | None:
        """The schedule for a model, with the model's own method as the final one.

        Args:
            model: the model that is trained.

        Returns:
            None where the protocol is off or has nothing to do.

        Raises:
            GCPError: options that have no effect, or that the model cannot follow.
        """
        pools, given = find_pools(model), self._rules()
        if not pools:
            if self.hybrid or given:
                option = "hybrid" if self.hybrid else given[0]
                raise GCPError(
                    f"`{option}` needs a model with covariance pooling (resnet50_svdpade), and {_name(model)} has none."
                )
            return None
        own = get_method(pools[0].method)
        # The warm method is a root: a classifier that it has trained does not fit a function of another scale.
        asked = self.hybrid or (given and own.of_sigma is not None)
        if self.hybrid is False or not (asked or own.is_root):
            return None
        if own is get_method(self.warm_method) and not self.hybrid:
            if given:
                raise GCPError(
                    f"`{given[0]}` has no effect: {_name(model)} uses the warm method '{self.warm_method}' from the "
                    "start; leave it out or choose another model."
                )
            return None
        return HybridSchedule(model, warm=self.warm_method, switch=self.rule())

    def _rules(self) -> list[str]:
        """Names of the options that choose a rule and are given."""
        return [name for name in SWITCHES if getattr(self, name) not in (None, False)]


def _name(model: nn.Module) -> str:
    config = getattr(model, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(model).__name__)
