"""Writes files completely or not at all, and checks where a command may write.

A path that a user gives may be a regular file, a link, a pipe or a device. A regular file is written aside and renamed.
Links are followed to the file that they name. Text, but no binary format, is written directly to pipes and devices.
Nothing is written into a cache of the Hugging Face Hub.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import GCPError
from .text import one_line

__all__ = [
    "check_ending",
    "check_output",
    "check_output_folder",
    "clear_scratch",
    "is_stream",
    "json_text",
    "make_parents",
    "output_target",
    "put_in_place",
    "remove_files",
    "save_atomically",
    "save_text",
    "sha256_of",
    "sync_folder",
    "written_aside",
]

PathLike = str | os.PathLike[str]

_DESCRIPTOR = re.compile(r"/dev/(?P<name>stdout|stderr)|/(dev|proc/(self|thread-self|\d+))/fd/(?P<number>\d+)")
_HUB_REPOSITORY = re.compile(r"(models|datasets|spaces|kernels)--.+")


def sha256_of(path: PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sync_folder(folder: PathLike) -> None:
    """Flushes a folder's entries to the disk, on systems that support it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _descriptor(path: PathLike) -> int | None:
    """The open descriptor that a name such as /dev/stdout stands for; None for any other path.

    A file behind it has to be written through the descriptor: opened again, it would be written from its first byte.
    """
    match = _DESCRIPTOR.fullmatch(os.fspath(path)) if os.name == "posix" else None
    if match is None:
        return None
    return {"stdout": 1, "stderr": 2}[match["name"]] if match["name"] else int(match["number"])


def _mode(path: PathLike, option: str = "") -> int | None:
    """``st_mode`` of what a path leads to; None if there is nothing."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _unusable(path, option, error) from error


def _unusable(path: PathLike, option: str, error: Exception) -> GCPError:
    reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
    shown = os.fspath(path)
    shown = shown if len(shown) <= 120 else f"{shown[:60]}…{shown[-40:]}"
    return GCPError(f"{option} {shown!r} cannot be used ({reason}); choose another.".lstrip())


def is_stream(path: PathLike) -> bool:
    """Whether a path leads to a pipe or a device."""
    if _descriptor(path) is not None:
        return True
    mode = _mode(path)
    return mode is not None and (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode))


def output_target(path: PathLike, option: str = "") -> Path:
    """The regular file or folder that a write to a path changes, after following links.

    Args:
        path: where to write; it need not exist.
        option: the option that gave it, for the message; '' for none.

    Returns:
        The absolute path of the file or folder.

    Raises:
        GCPError: the path is a pipe, a device or a socket, its links form a loop, or it leads into a cache of the
            Hugging Face Hub.
    """
    mode = None if _descriptor(path) is not None else _mode(path, option)
    if _descriptor(path) is not None or (mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)):
        raise GCPError(f"{option} {path} is a device or a pipe, which takes text only; name a file.".lstrip())
    try:
        target = Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise _unusable(path, option, error) from error
    folders = [*reversed(target.parents), target]
    for folder, below in itertools.pairwise(folders):
        if _HUB_REPOSITORY.fullmatch(folder.name) and below.name in ("blobs", "snapshots", "refs"):
            raise GCPError(
                f"{option} {path} leads into the cache of the Hugging Face Hub ({folder}), whose files must stay as "
                "they were downloaded; choose another.".lstrip()
            )
    return target


def check_output(path: PathLike, option: str = "", *, binary: bool = False) -> None:
    """Checks, before any work is done, that a file can be written to a path. Missing folders are allowed.

    Args:
        path: where the file will be written.
        option: the option that gave it, for the message.
        binary: the format is binary, so pipes and devices are refused.

    Raises:
        GCPError: the path is a folder, lies under a file, or cannot be written to.
    """
    if is_stream(path) and not binary:
        return
    target = output_target(path, option)
    if target.is_dir():
        raise GCPError(f"{option} {path} is a folder; name a file in it.".lstrip())
    _check_writable(target.parent, path, option)


def check_ending(path: PathLike, endings: tuple[str, ...], what: str, option: str = "") -> None:
    """Checks that the name of a file to write has an ending of its format, so that no other file is replaced.

    Args:
        path: of the file.
        endings: with the dot, lower case.
        what: the file holds, in the plural, for the message.
        option: the option that gave it, for the message.

    Raises:
        GCPError: another ending.
    """
    if Path(path).suffix.lower() not in endings:
        known = " or ".join(endings)
        raise GCPError(f"{option} {path}: {what} are written as {known}; give a name that ends in {known}.".lstrip())


def check_output_folder(path: PathLike, option: str = "") -> None:
    """Checks, before any work is done, that a folder can be made at a path, or written to if it exists.

    Args:
        path: of the folder.
        option: the option that gave it, for the message.

    Raises:
        GCPError: the path is a file, lies under one, or cannot be written to.
    """
    if is_stream(path):
        raise GCPError(f"{option} {path} is a device or a pipe; name a folder.".lstrip())
    target = output_target(path, option)
    if target.is_file():
        raise GCPError(f"{option} {path} is a file; name a folder.".lstrip())
    _check_writable(target, path, option)


def _check_writable(folder: Path, path: PathLike, option: str) -> None:
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not there.is_dir():
        raise GCPError(f"{option} {path} cannot be written: {there} is a file, not a folder; choose another.".lstrip())
    if not os.access(there, os.W_OK | os.X_OK):
        raise GCPError(f"{option} {path} cannot be written: you may not write to {there}; choose another.".lstrip())


def make_parents(path: PathLike) -> None:
    """Makes the missing folders above a file to write; a pipe or a device needs none.

    Args:
        path: of the file.

    Raises:
        GCPError: a folder cannot be made, or as ``output_target``.
    """
    if is_stream(path):
        return
    folder = output_target(path).parent
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise GCPError(f"The folder {folder} cannot be made ({error.strerror or error}); choose another.") from error


@contextlib.contextmanager
def written_aside(path: PathLike) -> Iterator[Path]:
    """Writes a file aside: the block writes a temporary file, which is then flushed to the disk and renamed.

    Args:
        path: the file; links are followed.

    Yields:
        The path of the temporary file, which lies beside the file.

    Raises:
        GCPError: the path takes no binary file (``output_target``), the disk is full, or the folder cannot be written
            to; an existing file is unchanged.
    """
    target = output_target(path)
    # Most file systems allow 255 bytes per name.
    name = os.fsencode(target.name)[:200].decode(errors="ignore")
    scratch = target.with_name(f".{name}.{os.getpid()}")
    try:
        yield scratch
        with open(scratch, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(scratch, target)
        sync_folder(target.parent)
    except (OSError, RuntimeError) as error:
        # torch's writer replaces the OSError by a RuntimeError.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise _unwritten(target, cause) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def _unwritten(path: PathLike, error: OSError) -> GCPError:
    reason = error.strerror or one_line(error)
    if error.errno == errno.EPIPE:
        return GCPError(f"Cannot write {path} ({reason}): the reader of the pipe has ended; start it again.")
    return GCPError(f"Cannot write {path} ({reason}): make room there or choose another place.")


def put_in_place(source: PathLike, path: PathLike) -> None:
    """Moves a finished file to a path, replacing an existing file.

    Args:
        source: the file; it is moved.
        path: the new path; links are followed, also to another disk.

    Raises:
        GCPError: as ``written_aside``.
        OSError: the file cannot be renamed.
    """
    target = output_target(path)
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with written_aside(target) as scratch:
            shutil.copyfile(source, scratch)
        os.unlink(source)
    sync_folder(target.parent)


def save_atomically(path: PathLike, write: Callable[[Any], None]) -> None:
    """Writes a file under a temporary name, flushes it to the disk and renames it.

    Args:
        path: the file; links are followed.
        write: is called with a binary file, to which it writes the content.

    Raises:
        GCPError: as ``written_aside``.
    """
    with written_aside(path) as scratch, open(scratch, "wb") as file:
        write(file)


def save_text(path: PathLike, text: str) -> None:
    """Writes a text file in UTF-8: completely or not at all if it is a regular file, directly to a pipe or a device.

    Args:
        path: the file; links are followed.
        text: the whole content.

    Raises:
        GCPError: as ``written_aside``.
    """
    if not is_stream(path):
        save_atomically(path, lambda file: file.write(text.encode()))
        return
    try:
        descriptor = _descriptor(path)
        if descriptor is None:
            # Without O_CREAT and O_TRUNC, so that no file is created if the pipe was removed meanwhile.
            opened = os.open(path, os.O_WRONLY | getattr(os, "O_NOCTTY", 0))
        else:
            sys.stdout.flush()
            sys.stderr.flush()
            opened = os.dup(descriptor)
        with open(opened, "wb") as file:
            file.write(text.encode())
    except OSError as error:
        raise _unwritten(path, error) from error


def json_text(value: Any) -> str:
    """A value as the text of a JSON file; a number that is not finite becomes null, which JSON has no other word for.

    Args:
        value: of dictionaries, lists and plain values; another value is written as its text.
    """
    return json.dumps(_finite(value), indent=2, default=str, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return value


def remove_files(folder: PathLike, names: Iterable[str]) -> None:
    """Removes files of an earlier call from a folder, and then the folder where nothing else is in it.

    Args:
        folder: where; it need not exist.
        names: of the files; those that are not there are passed over.

    Raises:
        GCPError: a file cannot be removed.
    """
    if not os.path.isdir(folder):
        return
    for name in names:
        path = Path(folder) / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise GCPError(f"Cannot remove {path} ({reason}), which an earlier call wrote: remove it.") from error
    with contextlib.suppress(OSError):  # it is not empty
        os.rmdir(folder)


def clear_scratch(folder: PathLike) -> None:
    """Removes the temporary files of a killed process from a folder to which no other process writes."""
    for file in Path(folder).glob(".*"):
        if re.fullmatch(r"\..+\.\d+(\.tmp)?", file.name) and file.is_file():
            file.unlink(missing_ok=True)
