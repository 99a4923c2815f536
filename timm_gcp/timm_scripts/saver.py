"""The saver of checkpoints that a script of timm's uses under ``timm-gcp wrap``."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from ..files import save_atomically
from ..hybrid.schedule import HybridSchedule
from ..training.checkpoint import AtomicSaver

__all__ = ["ScriptSaver"]


class ScriptSaver(AtomicSaver):
    """timm's saver, with the state of the hybrid protocol in every checkpoint and each file whole or not there.

    Once the method has switched the ranking begins anew: the best model has to be one of the final method, and no
    checkpoint of the warm phase stands in the way of a later one.

    Args:
        schedule: the protocol of the run, asked for at every save, since scripts make it after the saver.
        *args: as timm's saver.
        **kwargs: as timm's saver.
    """

    checkpoint_files: list[tuple[str, float | None]]

    def __init__(self, schedule: Callable[[], HybridSchedule | None], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._schedule = schedule
        self._ranks_final = False

    def _save(self, *args: Any, **kwargs: Any) -> None:
        # What a checkpoint holds is timm's business and may change; only the entry of ours is added to it.
        with patch.object(torch, "save", partial(self._write, torch.save)):
            super()._save(*args, **kwargs)

    def _write(self, save: Callable[..., None], state: Any, path: Any) -> None:
        schedule = self._schedule()
        entry = {} if schedule is None else {"hybrid": schedule.state_dict()}
        save_atomically(path, lambda file: save({**state, **entry}, file))

    def save_checkpoint(self, epoch: int, metric: float | None = None) -> tuple[float | None, int | None]:
        """Saves an epoch as timm's saver does.

        Args:
            epoch: the epoch that has been trained.
            metric: by which epochs are ranked.

        Returns:
            Metric and epoch of the best so far, or twice None.
        """
        schedule = self._schedule()
        if schedule is not None and schedule.switched and not self._ranks_final:
            self._ranks_final = True
            self.best_metric = self.best_epoch = None
            worst = math.inf if self.decreasing else -math.inf
            self.checkpoint_files = [(file, worst) for file, _ in self.checkpoint_files]
        best: tuple[float | None, int | None] = super().save_checkpoint(epoch, metric)
        return best
