"""Refuses options of training that would have no effect beside the others."""

from ..errors import GCPError
from ..tasks import MULTI_LABEL
from ..training.options import TrainOptions
from .optimisation_options import EMA_DECAY

__all__ = ["check_effects"]

_WITH_COOLDOWN = ("cosine", "tanh", "poly", "wsd", "rsqrt")
"""The schedules that timm lengthens by ``cooldown_epochs``."""


def check_effects(options: TrainOptions) -> None:
    """Refuses an option without the one that it belongs to.

    Raises:
        GCPError: the option, and the one that is missing.
    """
    if not (options.bce_loss or options.task is MULTI_LABEL):
        _refuse(
            "--bce-loss",
            {
                "--bce-sum": options.bce_sum,
                "--bce-target-thresh": options.bce_target_thresh is not None,
                "--bce-pos-weight": options.bce_pos_weight is not None,
            },
        )
    if not options.model_ema:
        _refuse(
            "--model-ema",
            {
                "--model-ema-decay": options.model_ema_decay != EMA_DECAY,
                "--model-ema-warmup": options.model_ema_warmup,
            },
        )
    if options.cooldown_epochs and options.sched not in _WITH_COOLDOWN:
        raise GCPError(
            f"--cooldown-epochs has no effect with --sched {options.sched}: leave it out, or use "
            f"{', '.join(_WITH_COOLDOWN[:-1])} or {_WITH_COOLDOWN[-1]}."
        )


def _refuse(needed: str, given: dict[str, bool]) -> None:
    for name, is_given in given.items():
        if is_given:
            raise GCPError(f"{name} has no effect without {needed}: add that, or leave {name} out.")
