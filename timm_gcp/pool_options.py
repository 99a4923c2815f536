"""The options of the pooling layer besides the method: their names, defaults and checks."""

from dataclasses import dataclass, fields
from typing import Any, TypeGuard

from .channel_dropout import ADAPTIVE
from .errors import GCPError

__all__ = ["REDUCTIONS", "PoolOptions", "check_reduce", "check_whole", "is_whole"]

REDUCTIONS = ("conv", "linear", "linear_norm")
"""The kinds of reduction, see ``reduction.py``."""

_FIRST_ORDERS = ("mean", "class", "mean+class")


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """The options of a ``GlobalCovariancePool``, which ``graft`` and ``timm.create_model`` take as keywords too.

    A new option is a field here and a keyword of ``GlobalCovariancePool`` and ``graft``; ``create_model``, saved
    folders and timm's ``config.json`` read this list.

    Attributes:
        reduction: kind of the reduction: 1×1 convolution, batch norm and ReLU (``'conv'``), a linear map alone
            (``'linear'``), or a linear map and LayerNorm over the channels of each position (``'linear_norm'``).
        first_order: what comes before the second-order part: ``'mean'`` of the incoming map, ``'class'`` token,
            ``'mean+class'`` both, None nothing.
        groups: number G of groups of channels; each has a covariance of its own.
        count_sketch: length N of a count sketch of the triangle; None keeps the triangle.
        channel_dropout: probability of a reduced channel to be dropped in training, or ``'adaptive'``, as in DropCov;
            None drops nothing.
        normalize_parts: whether the vectors of ``first_order`` and the second-order part are scaled to one length.
    """

    reduction: str = "conv"
    first_order: str | None = None
    groups: int = 1
    count_sketch: int | None = None
    channel_dropout: float | str | None = None
    normalize_parts: bool = False

    def __post_init__(self) -> None:
        """Refuses values that no pool can have."""
        if self.reduction not in REDUCTIONS:
            raise GCPError(f"Unknown reduction '{self.reduction}'; there are {', '.join(REDUCTIONS)}.")
        if self.first_order is not None and self.first_order not in _FIRST_ORDERS:
            names = ", ".join(_FIRST_ORDERS)
            raise GCPError(f"Unknown first_order '{self.first_order}'; there are {names}, or None for none.")
        check_whole("groups", self.groups, "of groups of channels, 1 for no groups")
        if self.count_sketch is not None:
            check_whole("count_sketch", self.count_sketch, "of numbers to keep, or None for no sketch")
        if not _is_dropout(self.channel_dropout):
            raise GCPError(
                f"channel_dropout is a probability above 0 and under 1, '{ADAPTIVE}', or None for no dropout, not "
                f"{self.channel_dropout!r}."
            )
        if not isinstance(self.normalize_parts, bool):
            raise GCPError(f"normalize_parts is True or False, not {self.normalize_parts!r}.")

    @property
    def first_order_parts(self) -> tuple[str, ...]:
        """The vectors before the second-order part, in their order: 'mean', 'class'."""
        return tuple(self.first_order.split("+")) if self.first_order else ()

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults, by name: what a saved folder records."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) != each.default}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all options."""
        return tuple(each.name for each in fields(cls))


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_whole(name: str, value: object, what: str) -> None:
    """Checks that an option is a whole number of at least 1.

    Args:
        name: of the option.
        value: of the option.
        what: the number is, for the message.

    Raises:
        GCPError: it is none.
    """
    if not is_whole(value) or value < 1:
        raise GCPError(f"{name} is the whole number {what}, not {value!r}.")


def check_reduce(reduce: Any, channels: int, *, most: int | None = None) -> None:
    """Checks the number of channels after the reduction.

    Args:
        reduce: the number; 0 and None stand for all channels.
        channels: of the feature map.
        most: the largest number that is allowed; None allows any.

    Raises:
        GCPError: no such number.
    """
    if reduce is None:
        return
    if not is_whole(reduce) or reduce < 0 or (most is not None and reduce > most):
        raise GCPError(
            f"reduce={reduce} does not fit a feature map of {channels} channels; give a whole number up to {channels}, "
            "or 0 for all."
        )


def _is_dropout(value: object) -> bool:
    if value is None or value == ADAPTIVE:
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1
