"""The parts of one training run."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.data import Mixup
from timm.utils import ModelEmaV3, unwrap_model
from torch import nn

from ..hybrid.monitor import ConditioningMonitor
from ..hybrid.schedule import HybridSchedule
from ..pooling import find_pools
from .epoch_position import Position
from .faults import Faults
from .progress import Progress
from .step import Stepper


@dataclass
class Run:
    """All that one training run consists of."""

    args: argparse.Namespace
    device: torch.device
    folder: Path
    model: nn.Module
    data_config: dict[str, Any]
    class_names: list[str] | None
    train_loader: Any
    eval_loader: Any
    eval_dataset: Any
    mixup: Mixup | None
    loss: nn.Module
    stepper: Stepper
    scheduler: Any
    epochs: int
    start_epoch: int
    schedule: HybridSchedule | None
    monitor: ConditioningMonitor | None
    ema: ModelEmaV3 | None
    resumed: dict[str, Any] | None
    progress: Progress
    autocast: Callable[[], Any]
    faults: Faults
    position: Position = field(default_factory=Position)
    seconds: float = 0.0
    command: str = ""
    arguments: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)
    started_from: Any = None

    @property
    def trains(self) -> bool:
        """Whether there is an epoch left to train."""
        return self.start_epoch < self.epochs

    @property
    def plain(self) -> nn.Module:
        """The model without wrappers."""
        return unwrap_model(self.model)

    @property
    def method(self) -> str | None:
        """The method in force, None without covariance pooling."""
        pools = find_pools(self.model)
        return pools[0].method if pools else None

    @property
    def final_method(self) -> str | None:
        """The method under which the model is saved."""
        return self.schedule.final if self.schedule else self.method

    @property
    def metric(self) -> str:
        """What ranks the epochs; without a validation split, the training loss."""
        return self.args.eval_metric if self.eval_loader is not None else "loss"
