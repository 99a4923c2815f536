"""Experiment tracking: the rows of ``summary.csv`` for TensorBoard, Weights & Biases or MLflow as well."""

import importlib.util
import json
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import GCPError
from ..files import json_text, save_text
from ..text import one_line
from .run import Run

__all__ = ["TRACKERS", "Tracker", "check_tracker", "open_tracker"]

_logger = logging.getLogger(__name__)

_FILE = "tracking.json"
"""File of the run folder with the ids under which the trackers know the run, so that a resumed run goes on there."""
_MLFLOW_BATCH = 100  # most parameters that MLflow takes at once


class Tracker(ABC):
    """Takes the numbers of a run, in the first process only. A tracker that fails is left out with a warning."""

    def __init__(self) -> None:
        self._works = True

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row of ``summary.csv``; epochs count from 0 as there."""
        numbers = {
            key: float(value) for key, value in row.items() if key != "epoch" and isinstance(value, (int, float))
        }
        finite = {key: value for key, value in numbers.items() if math.isfinite(value)}
        self._try(lambda: self._add(finite, row["epoch"]))

    def close(self) -> None:
        """Ends the record of this command."""
        self._try(self._close)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            if self._works:
                action()
        except Exception as error:  # every tracker has its own
            self._works = False
            _logger.warning("--log failed (%s); training goes on, and summary.csv has all numbers.", one_line(error))

    @abstractmethod
    def _add(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Writes the numbers of an epoch."""

    @abstractmethod
    def _close(self) -> None:
        """Ends the record."""


class _TensorBoard(Tracker):
    def __init__(self, run: Run) -> None:
        super().__init__()
        from torch.utils.tensorboard import SummaryWriter

        # What a killed run wrote of the epochs from here on is hidden.
        self.writer: Any = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.start.epoch or None)
        self.writer.add_text("options", f"```yaml\n{run.arguments}\n```", run.start.epoch)

    def _add(self, numbers: Mapping[str, float], epoch: int) -> None:
        for key, value in numbers.items():
            self.writer.add_scalar(key, value, epoch)
        self.writer.flush()

    def _close(self) -> None:
        self.writer.close()


class _Wandb(Tracker):
    def __init__(self, run: Run) -> None:
        super().__init__()
        import wandb

        known = _identifier(run.folder, "wandb")
        self.run: Any = wandb.init(
            id=known,
            resume="allow" if known else None,
            name=run.folder.name,
            dir=str(run.folder),
            config=_settings(run),
        )
        _remember(run.folder, "wandb", self.run.id)

    def _add(self, numbers: Mapping[str, float], epoch: int) -> None:
        self.run.log(dict(numbers), step=epoch)

    def _close(self) -> None:
        self.run.finish()


class _MLflow(Tracker):
    def __init__(self, run: Run) -> None:
        super().__init__()
        import mlflow

        self.mlflow: Any = mlflow
        known = _identifier(run.folder, "mlflow")
        started = mlflow.start_run(run_id=known, run_name=None if known else run.folder.name)
        _remember(run.folder, "mlflow", started.info.run_id)
        settings = list(_settings(run).items()) if known is None else []  # MLflow refuses to change them
        for first in range(0, len(settings), _MLFLOW_BATCH):
            mlflow.log_params(dict(settings[first : first + _MLFLOW_BATCH]))

    def _add(self, numbers: Mapping[str, float], epoch: int) -> None:
        self.mlflow.log_metrics(dict(numbers), step=epoch)

    def _close(self) -> None:
        self.mlflow.end_run()


TRACKERS: dict[str, Any] = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _MLflow}
"""The values of ``--log``; each is the name of a package and of the extra that installs it."""


def check_tracker(name: str) -> None:
    """Makes sure that the package of a tracker is installed.

    Raises:
        GCPError: it is not.
    """
    found = importlib.util.find_spec(name) if name else None
    # A folder of that name, such as the trackers write, is found as well; it has no origin.
    if name and (found is None or found.origin is None):
        raise GCPError(
            f"--log {name} needs the package {name}, which is not installed: pip install {name} (the extra [{name}])."
        )


def open_tracker(run: Run) -> Tracker | None:
    """The tracker of a run, for its first process; None without ``--log``.

    Raises:
        GCPError: the tracker cannot be opened.
    """
    if not run.options.log:
        return None
    try:
        tracker: Tracker = TRACKERS[run.options.log](run)
    except Exception as error:  # every tracker has its own
        raise GCPError(
            f"--log {run.options.log} cannot be opened ({one_line(error)}): set it up, or leave --log out."
        ) from error
    return tracker


def _settings(run: Run) -> dict[str, Any]:
    return {key: value if isinstance(value, (int, float)) else str(value) for key, value in vars(run.options).items()}


def _identifiers(folder: Path) -> dict[str, str]:
    try:
        known = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _identifier(folder: Path, name: str) -> str | None:
    return _identifiers(folder).get(name)


def _remember(folder: Path, name: str, identifier: str) -> None:
    save_text(folder / _FILE, json_text({**_identifiers(folder), name: identifier}))
