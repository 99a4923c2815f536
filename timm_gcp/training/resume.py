"""Resumes a run: finds its checkpoint, compares the settings, and loads its state."""

import argparse
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.utils import is_primary
from torch import nn

from ..distributed import by_first
from ..errors import GCPError
from ..hybrid.monitor import ConditioningMonitor
from ..hybrid.schedule import HybridSchedule
from ..weights.file import EXTENSION, load_training_checkpoint, load_weights, weights_of
from .epoch_position import Position
from .optimizer import rate_ratio
from .optimizer_state import load_optimizer
from .run_folder import named_folder

__all__ = ["checkpoint_args", "differences", "load_resumed", "newest_checkpoint", "resume_from", "resumed_position"]

_logger = logging.getLogger(__name__)

# Settings that say where a run lies, what it prints or which process this is.
_NOT_COMPARED = (
    *("resume", "no_resume_opt", "output", "experiment", "debug", "log_interval", "dataset_download"),
    *("rank", "local_rank", "distributed", "num_classes", "held_out"),
)
# What an epoch's order and division into updates follow from.
_ONE_EPOCH = ("batch_size", "grad_accum_steps", "seed", "world_size", "dataset", "train_split")

_SWITCH = ("warm_method", "switch_epoch", "switch_lr_fraction", "switch_conditioning")


def resume_from(args: argparse.Namespace, device: torch.device) -> str:
    """What ``--resume`` means; '' to start from the beginning. The first process decides for all."""
    if args.resume != "auto":
        return args.resume
    return by_first(lambda: str(newest_checkpoint(named_folder(args)) or ""), is_primary(args), device)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run folder; None if it has none at all. A damaged one is skipped with a warning.

    Raises:
        GCPError: there are checkpoints, but none can be read.
    """
    numbered = {
        int(match[1]): file
        for file in folder.glob(f"checkpoint-*{EXTENSION}")
        if (match := re.fullmatch(rf"checkpoint-(\d+){re.escape(EXTENSION)}", file.name))
    }
    named = (folder / f"{name}{EXTENSION}" for name in ("last", "previous"))
    files = [file for file in (*named, *(numbered[epoch] for epoch in sorted(numbered, reverse=True))) if file.exists()]
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


def checkpoint_args(checkpoint: Mapping[str, Any] | None) -> argparse.Namespace | None:
    """The arguments of the run that wrote a checkpoint; None where it does not tell."""
    args = (checkpoint or {}).get("args")
    return args if isinstance(args, argparse.Namespace) else None


def differences(before: argparse.Namespace | None, now: argparse.Namespace) -> dict[str, tuple[Any, Any]]:
    """The settings of two commands that differ, name → (before, now). One that only one of them knows is left out.

    Args:
        before: arguments of the run that wrote the checkpoint, None where it does not tell.
        now: arguments of this run, with the learning rate and the number of classes filled in.
    """
    old, new = vars(before or argparse.Namespace()), vars(now)
    names = [name for name in new if name in old and name not in _NOT_COMPARED]
    return {name: (old[name], new[name]) for name in names if _plain(name, old[name]) != _plain(name, new[name])}


def _plain(name: str, value: Any) -> Any:
    if name in ("data_dir", "class_map", "model") and isinstance(value, str) and Path(value).exists():
        return str(Path(value).resolve())
    return list(value) if isinstance(value, tuple) else value


def check_differences(args: argparse.Namespace, checkpoint: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ from the checkpoint's, if the run can go on under them.

    Raises:
        GCPError: one of them cannot change within a run; the message names it.
    """
    changed = differences(checkpoint_args(checkpoint), args)

    def refuse(name: str, why: str) -> None:
        before, now = (repr(value) for value in changed[name])
        option = f"--{name.replace('_', '-')}"
        raise GCPError(f"{args.resume} was trained with {option} {before}, and this command gives {now}: {why}.")

    if "train_only" in changed:
        refuse("train_only", "give the same, or start a new run from its weights with --initial-checkpoint")
    _check_held_out(args, checkpoint_args(checkpoint))
    if "eval_metric" in changed and (checkpoint.get("best") or {}).get("metric") is not None:
        refuse("eval_metric", "the epochs so far are ranked by the former, so give that, or start a new run")
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
    return changed


def _check_held_out(args: argparse.Namespace, before: argparse.Namespace | None) -> None:
    """Refuses to go on with other images held out: the run would be evaluated on some that it has trained on."""

    def said(of: argparse.Namespace) -> str:
        if not getattr(of, "held_out", False):
            return "no image held out"
        return f"--val-fraction {of.val_fraction:g} --val-seed {of.val_seed} of {of.train_split!r} held out"

    if before is not None and said(before) != said(args):
        raise GCPError(
            f"{args.resume} was trained with {said(before)}, and this run would have {said(args)}, so that it would be "
            "evaluated on images that are trained on: give the same splits, or start a new run."
        )


def resumed_position(
    args: argparse.Namespace, resumed: Mapping[str, Any] | None, batches: int, monitor: ConditioningMonitor | None
) -> Position:
    """How far the first epoch of this run is.

    Args:
        args: arguments of the run.
        resumed: the checkpoint that it goes on from, or None.
        batches: in an epoch.
        monitor: takes up what it has measured in the epoch.

    Raises:
        GCPError: the checkpoint lies within an epoch of another length.
    """
    within = (resumed or {}).get("within")
    if within is None:
        return Position()
    if within["of"] != batches:
        raise GCPError(
            f"{args.resume} was written within an epoch of {within['of']} batches, and this run's epochs have "
            f"{batches}; give the run's own --batch-size, data and number of processes, or resume from the end of an "
            "epoch (a checkpoint-N.pth.tar)."
        )
    position = Position(**within["position"])
    if monitor is not None and within["monitor"] is not None:
        monitor.load_state_dict(within["monitor"], first=is_primary(args))
    if not is_primary(args):
        # The first process has the sums of all.
        position = Position(batches=position.batches, skipped=position.skipped, seconds=position.seconds)
    return position


def load_resumed(
    args: argparse.Namespace,
    checkpoint: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    schedule: HybridSchedule | None,
) -> None:
    """Loads a checkpoint into what a run consists of. Settings that have changed since are those of this run.

    Raises:
        GCPError: the checkpoint does not fit, or a setting that has changed cannot change within a run.
    """
    check_differences(args, checkpoint)
    before = checkpoint_args(checkpoint)
    load_weights(model, weights_of(checkpoint, args.resume), args.resume)
    if not args.no_resume_opt:
        load_optimizer(args, before, model, optimizer, checkpoint.get("optimizer"))
        if scaler is not None and scaler.state_dict_key in checkpoint:
            scaler.load_state_dict(checkpoint[scaler.state_dict_key])
    state = checkpoint.get("hybrid")
    if schedule is not None and state is None:
        raise GCPError(
            f"{args.resume} was trained without the hybrid protocol; add --no-hybrid, or start from its weights with "
            "--initial-checkpoint."
        )
    if schedule is None and state is not None:
        raise GCPError(f"{args.resume} was trained with the hybrid protocol; leave --no-hybrid out.")
    if schedule is not None and state is not None:
        schedule.load_state_dict(_with_rate(state, rate_ratio(args, before)))


def _with_rate(state: Mapping[str, Any], ratio: float) -> Mapping[str, Any]:
    """The state of a hybrid schedule, as it would be had the run had this run's learning rate from the start."""
    history = state.get("history") if isinstance(state, Mapping) else None
    if ratio == 1 or not isinstance(history, Mapping) or not isinstance(history.get("highest"), float):
        return state
    # Without this, a lower rate would look like one that has fallen, and the method would switch at once.
    return {**state, "history": {**history, "highest": history["highest"] * ratio}}
