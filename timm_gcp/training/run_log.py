"""``log.txt`` of a run folder: the lines that a run prints, with its warnings and the error that ended it."""

import logging
import os
import sys
import traceback
from datetime import datetime
from types import TracebackType

from tqdm import tqdm

from ..errors import GCPError
from ..version import __version__

__all__ = ["RunLog"]


class RunLog(logging.Handler):
    """Takes the run's lines and the package's warnings while it is entered.

    What comes before `open` is kept and written then. A file that cannot be written (a full disk) never ends the run:
    such lines are dropped, and a warning on standard error says so once.

    Args:
        enabled: off in all processes but the first, whose warnings then go where they would without this object.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__(logging.WARNING)
        self._enabled = enabled
        self._early: list[str] = []
        self._file: int | None = None
        self._failed = False

    def open(self, path: str | os.PathLike[str], command: str) -> None:
        """Opens the file, after what an earlier part of the run wrote there, and writes what has come so far."""
        try:
            # Without a buffer: every line is in the file at once, and nothing is left to write at the end.
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            self._fail(error)
        early, self._early = self._early, []
        self.write(f"--- {datetime.now():%Y-%m-%d %H:%M:%S}  timm_gcp {__version__}  {command}")
        for text in early:
            self.write(text)

    def write(self, text: str) -> None:
        """Adds a line."""
        if not self._enabled:
            return
        if self._file is None:
            if not self._failed:
                self._early.append(text)
            return
        try:
            os.write(self._file, f"{text}\n".encode(errors="backslashreplace"))
        except OSError as error:
            self._fail(error)

    def emit(self, record: logging.LogRecord) -> None:
        """Adds a warning, and prints it as Python would without handlers."""
        text = self.format(record)
        self.write(f"{record.levelname.lower()}: {text}")
        if not logging.getLogger().handlers:
            self._print(text)

    def __enter__(self) -> "RunLog":
        if self._enabled:
            logging.getLogger("timm_gcp").addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        logging.getLogger("timm_gcp").removeHandler(self)
        if isinstance(error, (GCPError, KeyboardInterrupt)):
            self.write(f"error: {error or 'interrupted'}")
        elif error is not None:
            self.write("".join(traceback.format_exception(kind, error, where)).rstrip())
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            self._print(f"The run's log.txt cannot be written ({error.strerror or error}); the run goes on without it.")

    @staticmethod
    def _print(text: str) -> None:
        tqdm.write(text, file=sys.stderr)  # above the bar
