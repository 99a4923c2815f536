"""The folder of a run: its name, and the lock by which one process at a time writes to it."""

import contextlib
import itertools
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout
from timm.models import safe_model_name

from ..distributed import Processes
from ..errors import GCPError
from ..weights.file import EXTENSION
from .options import RunOptions

__all__ = ["RESULT", "RunFolder", "folder_of_runs", "named_folder"]

RESULT = "result.json"
"""The result of a run, the last file that it writes."""
LOCK = ".lock"
"""The lock file. The system releases the lock when its process ends, however it ends."""
WAIT = 15.0
"""Seconds that a resumed run waits for the lock: the run that it continues may be writing its last checkpoint."""

_logger = logging.getLogger(__name__)


def folder_of_runs(options: RunOptions) -> Path:
    """The folder of runs that ``output`` names."""
    return Path(options.output or "output/train")


def named_folder(options: RunOptions) -> Path:
    """The run folder that ``output`` and ``experiment`` name."""
    return folder_of_runs(options) / options.experiment


class RunFolder:
    """The folder of a run, locked against other runs until `release`. Only the first process holds the lock.

    As a context manager it releases the lock at the end, and removes a folder that it made and that is still empty.

    Args:
        options: of the run.
        processes: this process among those that train.
    """

    def __init__(self, options: RunOptions, processes: Processes) -> None:
        self.options, self.processes = options, processes
        self.path: Path | None = None
        self._lock: FileLock | None = None
        self._made: list[Path] = []

    def claim_named(self) -> None:
        """Locks the folder that the options name, if they name one.

        Raises:
            GCPError: another run holds it, or it cannot be written.
        """
        if not self.options.experiment:
            return
        wait = WAIT if self.options.resume else 0.0
        self.path = Path(self._by_first(lambda: self._claim(named_folder(self.options), wait)))

    def claim_dated(self, model: str, image_size: int) -> Path:
        """Makes and locks a folder named by date, model and image size; a name that is taken gets a number.

        Args:
            model: its name.
            image_size: width of the images, pixels.

        Raises:
            GCPError: it cannot be written.
        """
        self.path = Path(self._by_first(lambda: self._claim_dated(model, image_size)))
        return self.path

    def check_free(self) -> None:
        """Makes sure that the named folder is empty or the resumed run's own; call it once ``resume`` is filled in.

        Raises:
            GCPError: it holds something else.
        """
        if self.path is not None:
            folder = self.path
            self.processes.by_first(lambda: _check_free(folder, self.options.resume))

    def release(self) -> None:
        """Gives the folder back. Does nothing in a process that holds no lock."""
        if self._lock is None:
            return
        file = Path(self._lock.lock_file)
        with contextlib.suppress(OSError):  # Windows removes no file that is open
            file.unlink()
        self._lock.release()
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
            for folder in self._made:
                folder.rmdir()
        self._lock, self._made = None, []

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _by_first(self, work: Callable[[], Path]) -> str:
        return str(self.processes.by_first(lambda: str(work())))

    def _claim(self, folder: Path, wait: float) -> Path:
        while True:
            made = [each for each in (folder, *folder.parents) if not each.exists()]
            if folder.exists() and not folder.is_dir():
                raise GCPError(f"{folder} is a file; choose another --experiment.")
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._made.extend(each for each in made if each not in self._made)
                if self._locked(folder, wait):
                    return folder
            except FileNotFoundError:
                continue  # a run that was refused has just removed the folder that it had made
            except OSError as error:
                raise GCPError(
                    f"The run folder {folder} cannot be written ({error.strerror or error}); choose another --output."
                ) from error

    def _claim_dated(self, model: str, image_size: int) -> Path:
        model = safe_model_name(model.rstrip("/").rpartition("/")[2].rpartition(":")[2])
        name = f"{datetime.now():%Y%m%d-%H%M%S}-{model}-{image_size}"
        parent = folder_of_runs(self.options)
        for number in itertools.count(1):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            try:
                parent.mkdir(parents=True, exist_ok=True)
                folder.mkdir()
            except FileExistsError:
                if parent.is_dir():
                    continue
                raise GCPError(f"{parent} is a file; choose another --output.") from None
            except OSError as error:
                raise GCPError(f"{parent} cannot be written ({error.strerror or error}); choose another.") from error
            self._made = [folder]
            return self._claim(folder, WAIT)
        raise AssertionError("an endless loop")

    def _locked(self, folder: Path, wait: float) -> bool:
        """Takes the lock; False if its file was removed in the meantime, so that another process may hold a new one."""
        lock = FileLock(folder / LOCK)
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if wait:
                    _logger.warning("Another run uses the run folder %s; waiting %g s for its end.", folder, wait)
                lock.acquire(timeout=wait)
        except Timeout as error:
            self._made = []
            raise GCPError(
                f"Another run uses the run folder {folder}; wait until it has ended, or choose another --experiment."
            ) from error
        except NotImplementedError:
            _logger.warning("%s lies on a file system without locks: start no second run in it.", folder)
            return True
        if not (folder / LOCK).exists():
            lock.release()
            return False
        self._lock = lock
        return True


def _check_free(folder: Path, resume: str) -> None:
    if all(_leftover(file) for file in folder.iterdir()):
        return
    last = folder / "last.pth.tar"
    if not resume:
        remedy = f", or continue it with --resume {last}" if last.exists() else ""
        raise GCPError(f"The run folder {folder} is not empty; choose another --experiment{remedy}.")
    if Path(resume).resolve().parent != folder.resolve():
        raise GCPError(
            f"The run folder {folder} holds another run than --resume {resume}; choose another --experiment."
        )


def _leftover(file: Path) -> bool:
    """Whether a run that ended in its first epoch leaves this: records, what it was writing, the batch at fault."""
    records = ("args.yaml", "history.json", "log.txt", "summary.csv", "tracking.json", "tensorboard", "wandb")
    return file.name in (*records, f"tmp{EXTENSION}") or file.name.startswith((".", "nonfinite-", "lr_range_test."))
