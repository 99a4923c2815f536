"""Files that are whole or not there."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import GCPError
from .text import one_line

__all__ = ["clear_scratch", "save_atomically", "sync_folder"]


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Brings a folder's names to the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_atomically(path: str | os.PathLike[str], write: Callable[[Any], None]) -> None:
    """Writes a file under a temporary name beside it, brings it to the disk, then puts it in place.

    Args:
        path: the file.
        write: writes the content to the binary file it is given.

    Raises:
        GCPError: the disk is full, or the place cannot be written; the file that was there before is as it was.
    """
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(scratch, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, target)
        sync_folder(target.parent)
    except (OSError, RuntimeError) as error:
        # torch's writer hides the disk's error behind a RuntimeError of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        reason = cause.strerror or one_line(cause)
        raise GCPError(f"Cannot write {target} ({reason}): make room there or choose another place.") from error
    finally:
        scratch.unlink(missing_ok=True)


def clear_scratch(folder: str | os.PathLike[str]) -> None:
    """Removes what a killed process left of its temporary files in a folder that no other process writes to."""
    for file in Path(folder).glob(".*"):
        if re.fullmatch(r"\..+\.\d+(\.tmp)?", file.name) and file.is_file():
            file.unlink(missing_ok=True)
