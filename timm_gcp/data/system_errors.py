"""Tells errors of the operating system (too many open files, no memory, failing disk) from damaged images."""

import errno

from ..errors import GCPError

__all__ = ["LoaderError", "ReadError", "read_error", "short_of"]

_PLACES = (  # errors of disks and network file systems; not every platform has every name
    "EIO EREMOTEIO ENODEV ENXIO ENOMEDIUM ESTALE ENOTCONN ESHUTDOWN ETIMEDOUT ECONNABORTED ECONNREFUSED ECONNRESET "
    "EHOSTDOWN EHOSTUNREACH ENETDOWN ENETRESET ENETUNREACH ENOLINK EAGAIN ENOBUFS"
)
_OF_PLACE = frozenset(getattr(errno, name) for name in _PLACES.split() if hasattr(errno, name))


class LoaderError(GCPError):
    """Images cannot be loaded for a reason outside the files. The model is as it was after the last batch."""


class ReadError(LoaderError):
    """The operating system failed while an image was read.

    ``str()`` is one sentence, also if a DataLoader worker raised the error (see ``UnreadableImageError``).
    """

    def __str__(self) -> str:
        return super().__str__().rsplit(f"{type(self).__name__}: ", 1)[-1].strip()


def short_of(error: BaseException | None) -> str | None:
    """Which resource an error reports to be exhausted: 'files' (open ones), 'shared' (memory), 'memory' or None."""
    text = str(error).lower()
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE) or "too many open files" in text or "ancdata" in text:
        return "files"
    if "shared memory" in text or "/torch_" in text or ("no space left" in text and "shm" in text):
        return "shared"
    if isinstance(error, MemoryError) or number == errno.ENOMEM or "allocate memory" in text:
        return "memory"
    return None


def read_error(name: str, error: Exception) -> ReadError | None:
    """What to raise for an image that could not be read because the operating system failed; None if the file is bad.

    Args:
        name: of the file.
        error: what the system or the decoder raised; one of the system is an ``OSError`` with an ``errno``.
    """
    if not isinstance(error, OSError) or error.errno is None:
        return None
    kind = short_of(error)
    if kind == "files":
        remedy = "raise the limit of open files (ulimit -n 4096)"
    elif kind == "memory":
        remedy = "free memory, or use fewer loader processes (-j N)"
    elif error.errno in _OF_PLACE:
        remedy = "check the disk or network that holds it, and take the image out if it is the only one that fails"
    else:
        return None
    reason = error.strerror or type(error).__name__
    return ReadError(f"image {name!r} could not be read for an error of the system ({reason}): {remedy}.")
