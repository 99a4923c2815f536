"""Checkpoints of a run: written so that a kill at any moment loses nothing."""

import argparse
import contextlib
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.utils import CheckpointSaver, get_state_dict
from torch import nn

from ..errors import GCPError
from ..files import clear_scratch, put_in_place, save_atomically, sync_folder
from ..weights.file import EXTENSION, load_training_checkpoint
from .options import TrainOptions

__all__ = ["SCALER", "AtomicSaver", "RunSaver", "numbered_checkpoints"]

_logger = logging.getLogger(__name__)

SCALER = "amp_scaler"
"""Where a checkpoint holds the state of the gradient scaler, as in timm."""


class AtomicSaver(CheckpointSaver):
    """timm's saver without a moment in which a file that was there is missing."""

    def _replace(self, src: str, dst: str) -> None:
        put_in_place(src, dst)

    def _duplicate(self, src: str, dst: str) -> None:
        scratch = os.path.join(self.checkpoint_dir, f".link{self.extension}")
        if os.path.exists(scratch):
            os.unlink(scratch)
        try:
            os.link(src, scratch)
        except OSError:  # a file system without hard links
            save_atomically(dst, lambda file: _copy(Path(src), file))
            return
        put_in_place(scratch, dst)
        # A rename between two links of one file does nothing and leaves both.
        if os.path.exists(scratch):
            os.unlink(scratch)
        sync_folder(self.checkpoint_dir)


class RunSaver(AtomicSaver):
    """timm's saver for a run in two phases.

    Files in the run folder: ``last``, ``previous`` (the one before it), ``model_best`` and the ``checkpoint-<epoch>``
    of the history. Epochs saved without a metric (those of the warm phase) never count as the best; they fill the
    places of the history that ranked ones leave, newest first.

    Args:
        model: the model, wrapped or not.
        optimizer: its optimiser.
        options: of the run; they are saved as ``args``, as timm saves them.
        folder: the run folder.
        extra: what else a checkpoint holds, asked for at every save; plain values and tensors only.
        decreasing: a lower metric is better.
        model_ema: average of the weights, or None.
        scaler: gradient scaler, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        options: TrainOptions,
        folder: str | os.PathLike[str],
        extra: Callable[[], Mapping[str, Any]],
        *,
        decreasing: bool = False,
        model_ema: nn.Module | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        super().__init__(
            model,
            optimizer,
            args=argparse.Namespace(**vars(options)),
            model_ema=model_ema,
            checkpoint_dir=str(folder),
            recovery_dir=str(folder),
            decreasing=decreasing,
            max_history=options.checkpoint_hist,
        )
        self.extra = extra
        self.scaler = scaler
        self.unranked: list[str] = []
        self._within: Mapping[str, Any] | None = None
        clear_scratch(folder)
        for name in ("tmp", ".link"):
            Path(self.path(name)).unlink(missing_ok=True)

    def path(self, name: str) -> str:
        """Path of ``last``, ``previous``, ``model_best`` or ``checkpoint-<epoch>``."""
        return os.path.join(self.checkpoint_dir, name + EXTENSION)

    def _save(self, save_path: str, epoch: int, metric: float | None = None) -> None:
        state: dict[str, Any] = {
            "epoch": epoch,
            "arch": self.args.model,
            "args": self.args,
            "state_dict": get_state_dict(self.model, self.unwrap_fn),
            "optimizer": self.optimizer.state_dict(),
            "version": 2,
        }
        if self.scaler is not None:
            state[SCALER] = self.scaler.state_dict()
        if self.model_ema is not None:
            state["state_dict_ema"] = get_state_dict(self.model_ema, self.unwrap_fn)
        if metric is not None:
            state["metric"] = metric
        better = metric is not None and (self.best_metric is None or self.cmp(metric, self.best_metric))
        state["best"] = {"epoch": epoch, "metric": metric} if better else {
            "epoch": self.best_epoch, "metric": self.best_metric,
        }  # fmt: skip
        state["history"] = {
            "ranked": [(os.path.basename(file), value) for file, value in self.checkpoint_files],
            "unranked": [os.path.basename(file) for file in self.unranked],
        }
        if self._within is not None:
            state["within"] = self._within
        state.update(self.extra())
        with _whole_before():
            save_atomically(save_path, lambda file: torch.save(state, file))

    def _duplicate(self, src: str, dst: str) -> None:
        with _whole_before():
            super()._duplicate(src, dst)

    def _replace(self, src: str, dst: str) -> None:
        # The new one is on the disk already: at every moment there are whole checkpoints in two files.
        if dst == self.path("last") and os.path.exists(dst):
            self._duplicate(dst, self.path("previous"))
        super()._replace(src, dst)

    def save_checkpoint(self, epoch: int, metric: float | None = None) -> tuple[float | None, int | None]:
        """Saves ``last`` and the numbered checkpoint of an epoch; with a metric, ``model_best`` if it is the best.

        Args:
            epoch: the epoch that has been trained.
            metric: None for an epoch that must not be ranked. One that is not finite is not ranked either.

        Returns:
            Metric and epoch of the best so far, or twice None.
        """
        if metric is not None and not math.isfinite(metric):
            _logger.warning("Epoch %d is not ranked: its metric is %g.", epoch + 1, metric)
            metric = None
        if metric is None:
            self.save_last(epoch)
            numbered = self.path(f"{self.save_prefix}-{epoch}")
            self._duplicate(self.path("last"), numbered)
            self.unranked.insert(0, numbered)
            best = self.best_metric, self.best_epoch
        else:
            best = super().save_checkpoint(epoch, metric)
        places = max(self.max_history - len(self.checkpoint_files), 0)
        for file in self.unranked[places:]:
            Path(file).unlink(missing_ok=True)
        self.unranked = self.unranked[:places]
        return best

    def save_last(self, epoch: int, within: Mapping[str, Any] | None = None) -> None:
        """Saves ``last`` alone.

        Args:
            epoch: the last one that has been trained to its end, -1 if none has.
            within: how far the next one is, None at its start.
        """
        self._within = within
        self._save(self.path("tmp"), epoch)
        self._within = None
        self._replace(self.path("tmp"), self.path("last"))

    def resume(self, checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> list[Path]:
        """Takes up the ranking of a run where a checkpoint left it, in the same folder or a new one.

        Args:
            checkpoint: the loaded checkpoint.
            path: its file; ``model_best`` of its folder comes along if it is the best up to this checkpoint. An earlier
                checkpoint of the run folder becomes ``last``, and those of later epochs are removed.

        Returns:
            The files of later epochs that were removed.
        """
        source = Path(path).parent
        here = source.resolve() == Path(self.checkpoint_dir).resolve()
        removed = self._discard_after(checkpoint["epoch"], Path(path)) if here else []
        best = checkpoint.get("best") or {}
        if best.get("metric") is not None and not math.isfinite(best["metric"]):
            best = {}  # of an earlier version: no later epoch would be better
        best_file = source / f"model_best{EXTENSION}"
        within = "within" in checkpoint  # an epoch, which has no place in the ranking yet
        if best.get("epoch") is not None:
            numbered = source / f"{self.save_prefix}-{best['epoch']}{EXTENSION}"
            if best["epoch"] == checkpoint["epoch"] and not within:
                self._bring(Path(path), "model_best")
            elif (kept := next((f for f in (best_file, numbered) if _is_best(f, best)), None)) is not None:
                self._bring(kept, "model_best")
            else:
                best = {}
        if "best" in checkpoint and best.get("epoch") is None:
            # What lies there was trained after this checkpoint, and is no result of what is trained from here on.
            Path(self.path("model_best")).unlink(missing_ok=True)
        self.best_epoch, self.best_metric = best.get("epoch"), best.get("metric")
        history = checkpoint.get("history") or {}
        own = f"{self.save_prefix}-{checkpoint['epoch']}{EXTENSION}"
        ranked, unranked = list(history.get("ranked", ())), list(history.get("unranked", ()))
        if not within and checkpoint.get("metric") is None:
            unranked.insert(0, own)
        elif not within:
            ranked.append((own, checkpoint["metric"]))
        if here:
            ranked.sort(key=lambda entry: entry[1], reverse=not self.decreasing)
            at = self.checkpoint_dir
            files = [(os.path.join(at, name), value) for name, value in ranked]
            self.checkpoint_files = [entry for entry in files if os.path.exists(entry[0])]
            self.unranked = [file for name in unranked if os.path.exists(file := os.path.join(at, name))]
        return removed

    def _discard_after(self, epoch: int, path: Path) -> list[Path]:
        """Makes a checkpoint of the run folder ``last``, and removes those of later epochs; returns what it removed."""
        last, folder = Path(self.path("last")), Path(self.checkpoint_dir)
        if last.exists() and path.samefile(last):
            return []
        self._bring(path, "last")  # first, so that --resume auto goes on from here if this is interrupted
        later = [file for number, file in numbered_checkpoints(folder).items() if number > epoch]
        candidates = (Path(self.path("previous")), *later)
        removed = [file for file in candidates if file.exists() and not file.samefile(path)]
        for file in removed:
            file.unlink()
        return removed

    def _bring(self, source: Path, name: str) -> None:
        target = Path(self.path(name))
        if not (target.exists() and source.samefile(target)):
            save_atomically(target, lambda file: _copy(source, file))


def numbered_checkpoints(folder: Path) -> dict[int, Path]:
    """The files ``checkpoint-<epoch>`` of a run folder by epoch, ascending."""
    name = re.compile(rf"checkpoint-(\d+){re.escape(EXTENSION)}")
    found = {int(match[1]): file for file in folder.iterdir() if (match := name.fullmatch(file.name))}
    return dict(sorted(found.items()))


@contextlib.contextmanager
def _whole_before() -> Iterator[None]:
    """Adds to the message of a write that fails that the checkpoints before it are whole."""
    try:
        yield
    except GCPError as error:
        raise GCPError(f"{error} The checkpoints before it are whole; go on with --resume auto.") from error


def _is_best(file: Path, best: Mapping[str, Any]) -> bool:
    """Whether a file holds the best epoch that a checkpoint names, and not that of another continuation."""
    try:
        found = load_training_checkpoint(file)
    except GCPError:
        return False
    return found["epoch"] == best["epoch"] and found.get("metric", best["metric"]) == best["metric"]


def _copy(source: Path, file: Any) -> None:
    with open(source, "rb") as content:
        shutil.copyfileobj(content, file)
