"""Resumes a run: finds its checkpoint, compares the settings, and loads its state."""

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..distributed import Processes
from ..errors import GCPError
from ..hybrid import ConditioningMonitor, HybridSchedule
from ..hybrid.options import SWITCHES
from ..weights.file import EXTENSION, load_training_checkpoint, load_weights, weights_of
from .checkpoint import SCALER, numbered_checkpoints
from .epoch_position import Position
from .optimizer_state import load_optimizer
from .options import RunOptions, TrainOptions
from .run_folder import named_folder
from .scheduler import rate_ratio

__all__ = [
    "Start",
    "differences",
    "find_checkpoint",
    "load_resumed",
    "load_start",
    "newest_checkpoint",
    "resumed_position",
]

_logger = logging.getLogger(__name__)

# Settings that say where a run lies, what it prints or on which data it was found.
_NOT_COMPARED = (
    *("resume", "no_resume_opt", "output", "experiment", "debug", "log_interval", "dataset_download"),
    *("no_report", "log", "find_lr"),
    *("num_classes", "held_out"),
)
# What an epoch's order and division into updates follow from.
_ONE_EPOCH = ("batch_size", "grad_accum_steps", "seed", "world_size", "dataset", "train_split", "balanced_sampling")

_SWITCH = ("warm_method", *SWITCHES)


@dataclass(frozen=True)
class Start:
    """Where a run starts: at the beginning, or from a checkpoint of its own.

    Attributes:
        path: the checkpoint; '' at the beginning.
        checkpoint: its content, or None.
    """

    path: str = ""
    checkpoint: dict[str, Any] | None = None

    @property
    def epoch(self) -> int:
        """First epoch of this run, from 0."""
        return self.checkpoint["epoch"] + 1 if self.checkpoint else 0

    @property
    def settings(self) -> dict[str, Any] | None:
        """The options of the run that wrote the checkpoint; None where there is none or it does not tell."""
        args = (self.checkpoint or {}).get("args")
        return vars(args) if isinstance(args, argparse.Namespace) else None

    @property
    def record(self) -> Mapping[str, Any]:
        """What our checkpoints hold beside timm's; empty where there is nothing."""
        record = (self.checkpoint or {}).get("gcp")
        return record if isinstance(record, Mapping) else {}


def find_checkpoint(options: RunOptions, processes: Processes) -> str:
    """The checkpoint that ``resume`` means; '' starts from the beginning. The first process decides for all.

    Raises:
        GCPError: 'auto', and no checkpoint of the run folder can be read.
    """
    if options.resume != "auto":
        return options.resume
    return str(processes.by_first(lambda: str(newest_checkpoint(named_folder(options)) or "")))


def load_start(path: str) -> Start:
    """Loads the checkpoint that a run continues; '' starts from the beginning.

    Raises:
        GCPError: no such checkpoint, or one that cannot be read.
    """
    return Start(path, load_training_checkpoint(path)) if path else Start()


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest readable checkpoint of a run folder; a damaged one is skipped with a warning.

    Returns:
        None if the folder has no checkpoint.

    Raises:
        GCPError: there are checkpoints, but none can be read.
    """
    if not folder.is_dir():
        return None
    named = (folder / f"{name}{EXTENSION}" for name in ("last", "previous"))
    files = [file for file in (*named, *reversed(numbered_checkpoints(folder).values())) if file.exists()]
    for file in files:
        try:
            load_training_checkpoint(file)
        except GCPError as error:
            _logger.warning("%s Trying the checkpoint before it.", error)
            continue
        return file
    if files:
        raise GCPError(f"No checkpoint in {folder} can be read; remove the folder to start again.")
    return None


def differences(before: Mapping[str, Any] | None, options: TrainOptions) -> dict[str, tuple[Any, Any]]:
    """The settings of two runs that differ, name → (before, now). A setting that only one of them has is left out.

    Args:
        before: options of the run that wrote the checkpoint, None where it does not tell.
        options: of this run, with the learning rate and the number of classes filled in.
    """
    old, new = before or {}, vars(options)
    names = [name for name in new if name in old and name not in _NOT_COMPARED]
    return {name: (old[name], new[name]) for name in names if _plain(name, old[name]) != _plain(name, new[name])}


def _plain(name: str, value: Any) -> Any:
    if name in ("data_dir", "class_map", "class_weights", "model") and isinstance(value, str) and Path(value).exists():
        return str(Path(value).resolve())
    return list(value) if isinstance(value, tuple) else value


def check_differences(options: TrainOptions, start: Start) -> None:
    """Makes sure that the run can continue under the settings that differ from the checkpoint's.

    Raises:
        GCPError: one of them cannot change within a run; the message names it.
    """
    changed, checkpoint = differences(start.settings, options), start.checkpoint or {}

    def refuse(name: str, why: str) -> None:
        before, now = (repr(value) for value in changed[name])
        option = f"--{name.replace('_', '-')}"
        raise GCPError(f"{start.path} was trained with {option} {before}, and this command gives {now}: {why}.")

    if "train_only" in changed:
        refuse("train_only", "give the same, or start a new run from its weights with --initial-checkpoint")
    _check_held_out(options, start)
    ranked = (checkpoint.get("best") or {}).get("metric") is not None
    if ranked and (others := [name for name in ("eval_metric", "val_split") if name in changed]):
        refuse(others[0], "the epochs so far are ranked by the former, so give that, or start a new run")
    at = (checkpoint.get("hybrid") or {}).get("switched_at")
    if at and (late := [name for name in _SWITCH if name in changed and changed[name][1] not in (None, False)]):
        before = f"; to change that, resume from checkpoint-{at['epoch'] - 1}{EXTENSION}" if at["epoch"] else ""
        refuse(late[0], f"the method switched after epoch {at['epoch']}, so leave it as it was{before}")
    if "within" in checkpoint and (inside := [name for name in _ONE_EPOCH if name in changed]):
        refuse(
            inside[0],
            "the checkpoint lies within an epoch, which has to end as it began; give the same value, or resume from "
            "the end of an epoch (a checkpoint-N.pth.tar)",
        )


def _check_held_out(options: TrainOptions, start: Start) -> None:
    """Refuses to continue with other images held out: the run would be evaluated on some that it has trained on."""

    def described(of: Mapping[str, Any]) -> str:
        if not of.get("held_out", False):
            return "no image held out"
        return f"--val-fraction {of['val_fraction']:g} --val-seed {of['val_seed']} of {of['train_split']!r} held out"

    before, now = start.settings, vars(options)
    if before is not None and described(before) != described(now):
        raise GCPError(
            f"{start.path} was trained with {described(before)}, and this run would have {described(now)}, so that it "
            "would be evaluated on images that are trained on: give the same splits, or start a new run."
        )


def resumed_position(start: Start, batches: int, monitor: ConditioningMonitor | None, first: bool) -> Position:
    """How far the first epoch of this run is.

    Args:
        start: the checkpoint that the run continues, if any.
        batches: in an epoch.
        monitor: takes up what was measured in the epoch.
        first: whether this is the first process.

    Raises:
        GCPError: the checkpoint lies within an epoch of another length.
    """
    within = (start.checkpoint or {}).get("within")
    if within is None:
        return Position()
    if within["of"] != batches:
        raise GCPError(
            f"{start.path} was written within an epoch of {within['of']} batches, and this run's epochs have "
            f"{batches}; give the run's own --batch-size, data and number of processes, or resume from the end of an "
            "epoch (a checkpoint-N.pth.tar)."
        )
    position = Position(**within["position"])
    if monitor is not None and within["monitor"] is not None:
        monitor.load_state_dict(within["monitor"], first=first)
    if not first:
        # The first process has the sums of all.
        position = Position(batches=position.batches, skipped=position.skipped, seconds=position.seconds)
    return position


def load_resumed(
    start: Start,
    options: TrainOptions,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    schedule: HybridSchedule | None,
) -> None:
    """Loads a checkpoint into the parts of a run. Settings that have changed since are those of this run.

    Raises:
        GCPError: the checkpoint does not fit, or a setting that has changed cannot change within a run.
    """
    checkpoint = start.checkpoint
    if checkpoint is None:
        return
    check_differences(options, start)
    load_weights(model, weights_of(checkpoint, start.path), start.path)
    if not options.no_resume_opt:
        load_optimizer(options, start.settings, model, optimizer, checkpoint.get("optimizer"), start.path)
        if scaler is not None and SCALER in checkpoint:
            scaler.load_state_dict(checkpoint[SCALER])
    _load_schedule(start, schedule, rate_ratio(options.lr or 0.0, start.settings), model)


def _load_schedule(start: Start, schedule: HybridSchedule | None, ratio: float, model: nn.Module) -> None:
    state = (start.checkpoint or {}).get("hybrid")
    before, now = start.record.get("architecture"), (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if (schedule is None) != (state is None) and before and before != now:
        raise GCPError(
            f"{start.path} is of a run of {before}, and this command trains {now}: give --model {before}, or another "
            "--experiment for a new run."
        )
    if schedule is not None and state is None:
        raise GCPError(
            f"{start.path} was trained without the hybrid protocol; add --no-hybrid, or start from its weights with "
            "--initial-checkpoint."
        )
    if schedule is None and state is not None:
        raise GCPError(f"{start.path} was trained with the hybrid protocol; leave --no-hybrid out, or add --hybrid.")
    if schedule is not None and state is not None:
        schedule.load_state_dict(_with_rate(state, ratio))


def _with_rate(state: Mapping[str, Any], ratio: float) -> Mapping[str, Any]:
    """The state of a hybrid schedule, as it would be had the run had this run's learning rate from the start."""
    history = state.get("history") if isinstance(state, Mapping) else None
    if ratio == 1 or not isinstance(history, Mapping) or not isinstance(history.get("highest"), float):
        return state
    # Without this, a lower rate would look like one that has fallen, and the method would switch at once.
    return {**state, "history": {**history, "highest": history["highest"] * ratio}}
