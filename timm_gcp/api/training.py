"""``timm_gcp.train``: ``timm-gcp train`` from Python."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

from timm.utils import unwrap_model
from timm.utils.distributed import is_distributed_env
from torch import nn

from ..commands.train import read_train_keywords, run_training
from ..commands.train_options import train_parser
from ..errors import GCPError
from ..output import lenient_output
from .function import takes_options_of
from .process_state import kept_process_state
from .train_result import TrainResult

__all__ = ["train"]

_NAME = "timm_gcp.train"
_LOCK = threading.Lock()


@takes_options_of(train_parser())
def train(model: str | None = None, data_dir: str | PathLike[str] | None = None, **options: Any) -> TrainResult:
    """Trains a timm model, with the hybrid protocol where it ends in covariance pooling, as ``timm-gcp train`` does.

    The lines of the run are printed. Ctrl-C (the stop button of a notebook) ends the run after the present update,
    writes its checkpoint and raises ``KeyboardInterrupt``; the same call with ``resume="auto"`` goes on. Python
    delivers signals to the main thread only: a run in another one is not stopped so. Random generators are left as
    they were before.

    Args:
        model: registered name, model folder or ``hf-hub:`` id.
        data_dir: folder of the data set.
        **options: the long options of the command with underscores: ``img_size=224`` for ``--img-size 224``, True and
            False for a switch, a list for several values, a dictionary for ``K=V``. None counts as not given. They win
            over those of ``config`` and ``recipe``.

    Returns:
        The finished run.

    Raises:
        GCPError: as the command: bad input, before any training; a loss or gradient that is not finite; or a full disk.
            Also where another thread trains.
        KeyboardInterrupt: after Ctrl-C, when the checkpoint is written.

    Example::

        result = timm_gcp.train("resnet50_svdpade.init", "photos", recipe="finetune", output="runs", experiment="a")
        print(result)
        model = result.model()
    """
    if is_distributed_env():
        raise GCPError(
            f"{_NAME} trains in one process, and the environment announces several (WORLD_SIZE or SLURM_NTASKS): start "
            "them with torchrun --nproc-per-node N -m timm_gcp train, or unset these variables."
        )
    if isinstance(model, nn.Module):
        raise GCPError(
            f"{_NAME} builds the network itself: give a registered name or a model folder, not a "
            f"{type(unwrap_model(model)).__name__}. Weights of your own go with the name: initial_checkpoint='FILE'."
        )
    chosen, arguments, command = read_train_keywords({"model": model, "data_dir": data_dir, **options}, _NAME)
    with _alone(), lenient_output(), kept_process_state():
        status, folder = run_training(chosen, arguments, command)
    if status:
        _stopped(status - 128, folder)
    return TrainResult(folder)


@contextmanager
def _alone() -> Iterator[None]:
    """Refuses a second run in another thread: both would draw from the generators that each of them seeds."""
    if not _LOCK.acquire(blocking=False):
        raise GCPError(f"Another thread of this process trains; wait for its end, or call {_NAME} in another process.")
    try:
        yield
    finally:
        _LOCK.release()


def _stopped(number: int, folder: Path) -> NoReturn:
    """Passes on the signal that stopped a run, now that its checkpoint is written.

    Raises:
        KeyboardInterrupt: for Ctrl-C, and where the process goes on after another signal.
    """
    if number != signal.SIGINT:
        signal.raise_signal(number)  # by the handler that was in force before the run; the default ends the process
    last = folder / "last.pth.tar"
    raise KeyboardInterrupt(f"Stopped; go on with resume={str(last)!r}." if last.exists() else "Stopped.")
