"""The parts of one training run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..distributed import Processes
from ..pooling import find_pools
from .data import Data, Loaders
from .epoch_position import Position
from .faults import Faults
from .network import Network
from .optimisation import Optimisation
from .options import TrainOptions
from .progress import Progress
from .protocol import Protocol
from .range_curve import RangeCurve
from .resume import Start

__all__ = ["Run"]


@dataclass
class Run:
    """One training run: what ``prepare`` made of the options, and how far it is.

    Attributes:
        options: of the run, with what was left open filled in.
        arguments: the options as YAML, as the user gave them.
        command: the command line.
        processes: this process among those that train together.
        folder: the run folder.
        start: the checkpoint that the run continues, if any.
        data, loaders, network, optimisation, protocol: the stages of the preparation.
        progress: where lines are printed.
        faults: what is done about losses and gradients that are not finite.
        position: how far the present epoch is.
        trained: epochs trained to their end, by this command and those before it.
        stopped: why the run ends before its last epoch (see ``stopping``), '' while it goes on.
        seconds: spent on finished epochs.
        rows: of ``summary.csv``.
        segments: of ``history.json``.
        started_from: the weights that the run started from.
        range_test: the learning-rate range test that this command has made, or None.
    """

    options: TrainOptions
    arguments: str
    command: str
    processes: Processes
    folder: Path
    start: Start
    data: Data
    loaders: Loaders
    network: Network
    optimisation: Optimisation
    protocol: Protocol
    progress: Progress
    faults: Faults
    position: Position = field(default_factory=Position)
    trained: int = 0
    stopped: str = ""
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)
    started_from: Any = None
    range_test: RangeCurve | None = None

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.processes.device

    @property
    def epochs(self) -> int:
        """Length of the whole run."""
        return self.optimisation.epochs

    @property
    def goes_on(self) -> bool:
        """Whether there is an epoch left to train."""
        return self.trained < self.epochs and not self.stopped

    @property
    def trains(self) -> bool:
        """Whether this command trains an epoch, or has done so."""
        return self.goes_on or self.trained > self.start.epoch

    @property
    def model(self) -> nn.Module:
        """The model without wrappers."""
        return self.network.model

    @property
    def method(self) -> str | None:
        """The method in force, None without covariance pooling."""
        pools = find_pools(self.model)
        return pools[0].method if pools else None

    @property
    def final_method(self) -> str | None:
        """The method under which the model is saved."""
        schedule = self.protocol.schedule
        return schedule.final if schedule else self.method

    @property
    def metric(self) -> str:
        """What ranks the epochs; without an evaluation split, the training loss."""
        return self.options.eval_metric if self.data.evaluation is not None else "loss"
