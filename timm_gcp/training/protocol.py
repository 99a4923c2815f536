"""The hybrid protocol of a run: the schedule of the method, and the measurement of the conditioning."""

from dataclasses import dataclass

from torch import nn

from ..errors import GCPError
from ..hybrid import ConditioningMonitor, HybridSchedule
from ..pooling import find_pools
from .freezing import is_frozen
from .options import TrainOptions

__all__ = ["Protocol", "make_protocol"]


@dataclass
class Protocol:
    """The hybrid protocol of a run.

    Attributes:
        schedule: switches the method; None where one method trains throughout.
        monitor: measures the conditioning of the covariances, or None.
    """

    schedule: HybridSchedule | None
    monitor: ConditioningMonitor | None

    @property
    def ranks(self) -> bool:
        """Whether epochs are ranked now: the best model has to be one of the final method."""
        return self.schedule is None or self.schedule.switched


def make_protocol(options: TrainOptions, model: nn.Module) -> Protocol:
    """The protocol that the options ask for.

    Args:
        options: of the run.
        model: without wrappers.

    Raises:
        GCPError: options that have no effect, or that the model cannot follow.
    """
    schedule = options.schedule(model)
    monitor, pools = None, find_pools(model)
    if options.switch_conditioning and options.train_only and all(is_frozen(pool.reduce) for pool in pools):
        raise GCPError(
            f"--switch-conditioning has no effect with --train-only {options.train_only}: the features before the "
            "covariance stand still, so their conditioning is not measured; give --switch-epoch alone."
        )
    if options.monitor_every and pools:
        monitor = ConditioningMonitor(model, every=options.monitor_every).attach()
    return Protocol(schedule, monitor)
