"""When a run ends before its last epoch: patience and time limit."""

from .options import RunOptions
from .resume import Start

__all__ = ["PATIENCE", "TIME_LIMIT", "reason_to_stop", "stopped_before"]

PATIENCE, TIME_LIMIT = "patience", "time limit"


def reason_to_stop(options: RunOptions, epoch: int, best_epoch: int | None, seconds: float) -> str:
    """Why a run ends after an epoch.

    It follows from what a checkpoint holds, so a resumed run ends where an unbroken one does.

    Args:
        options: of the run.
        epoch: the epoch that has ended, from 0.
        best_epoch: the best ranked epoch so far, from 0; None before the first one. From that one on all are ranked.
        seconds: spent on the epochs of all segments of the run, with their evaluation.

    Returns:
        `PATIENCE`, `TIME_LIMIT`, or '' where the run goes on.
    """
    if options.patience is not None and best_epoch is not None and epoch - best_epoch >= options.patience:
        return PATIENCE
    if options.time_limit is not None and seconds >= options.time_limit:
        return TIME_LIMIT
    return ""


def stopped_before(options: RunOptions, start: Start) -> str:
    """Why the run that is continued had ended when its checkpoint was written, under the options of now; '' if not."""
    checkpoint = start.checkpoint
    if checkpoint is None or "within" in checkpoint:
        return ""
    best_epoch = (checkpoint.get("best") or {}).get("epoch")
    return reason_to_stop(options, checkpoint["epoch"], best_epoch, float(start.record.get("seconds", 0.0)))
