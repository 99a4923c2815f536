"""Files that are whole or not there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["save_atomically", "sync_folder"]


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
    finally:
        scratch.unlink(missing_ok=True)
