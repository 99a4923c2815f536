"""Makes standard output and standard error tolerate errors, so that printing never ends a command.

A character that the stream's encoding lacks is replaced by ASCII; a line that cannot be written (closed pipe, full
disk, lost terminal) is dropped, and the first such error is kept. Every command runs inside ``lenient_output``, which
covers its own prints, progress bars, rich's tables, log records and the messages of other libraries.
"""

import codecs
import contextlib
import errno
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

__all__ = ["BAR", "LenientStream", "as_text", "columns_of", "fold", "lenient_output", "lost"]

BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {remaining} left"
"""``bar_format`` of tqdm's bars, which fits a terminal of 40 columns."""

_SPELLED = {
    **{"κ": "kappa", "λ": "lambda", "Σ": "Sigma", "δ": "delta", "ε": "eps", "α": "alpha", "Λ": "Lambda", "∂": "d"},
    **{"×": "x", "→": "->", "←": "<-", "–": "-", "—": "-", "−": "-", "·": "*", "…": "...", "√": "sqrt", "±": "+-"},
    **{"≥": ">=", "≤": "<=", "≈": "~", "‖": "||", "‘": "'", "’": "'", "“": '"', "”": '"'},
}
_CLOSED = {errno.EPIPE, errno.ESHUTDOWN, errno.EBADF, errno.EINVAL}  # EINVAL: a broken pipe on Windows


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of ``codecs`` that replaces characters that an encoding lacks by ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(character: str) -> bytes:
    if 0xDC80 <= ord(character) <= 0xDCFF:
        return bytes([ord(character) - 0xDC00])  # an undecodable byte of a file name: written unchanged
    plain = _SPELLED.get(character) or unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return (plain or character).encode("ascii", "backslashreplace")


codecs.register_error("timm_gcp.spell", _spell)


class LenientStream:
    """A text stream whose ``write`` and ``flush`` never raise; all other attributes are the stream's own.

    Args:
        stream: the stream; None, as under ``pythonw`` or after ``>&-``, discards everything.

    Attributes:
        failure: the first error of the operating system; None if there was none.
    """

    def __init__(self, stream: Any) -> None:
        self._stream: Any = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115
        self.failure: OSError | None = None
        with contextlib.suppress(AttributeError, OSError, ValueError):
            self._stream.reconfigure(errors="timm_gcp.spell")

    def write(self, text: str) -> int:
        """Writes a text and returns its length; drops it if it cannot be written."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:  # a stream that cannot be reconfigured
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(b"".join(map(_ascii, text)).decode("ascii", "replace"))
        except (OSError, ValueError) as error:
            self._fail(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flushes the stream, if possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._fail(error)

    def close_up(self) -> None:
        """Flushes for the last time and drops what cannot be written, so that Python prints no error at exit."""
        already = self.failure
        self.failure = None
        self.flush()
        if self.failure is not None:
            self._discard()
        self.failure = already or self.failure

    def _fail(self, error: OSError | ValueError) -> None:
        if not isinstance(error, OSError):  # ValueError: the stream is closed
            error = OSError(errno.EBADF, os.strerror(errno.EBADF))
        self.failure = self.failure or error
        if error.errno in _CLOSED:
            self._discard()

    def _discard(self) -> None:
        """Redirects the stream, with what is in its buffer, to the null device, as Python's documentation advises."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_stream"], name)


@contextlib.contextmanager
def lenient_output() -> Iterator[LenientStream]:
    """Replaces ``sys.stdout`` and ``sys.stderr`` by ``LenientStream`` for a block; yields standard output."""
    before = sys.stdout, sys.stderr
    streams = [s if isinstance(s, LenientStream) else LenientStream(s) for s in before]
    sys.stdout, sys.stderr = streams
    try:
        yield streams[0]
    finally:
        for stream in streams:
            stream.close_up()
        sys.stdout, sys.stderr = before


def lost(stream: LenientStream) -> str:
    """Why output was lost; '' if none was, or if the reader closed the pipe (``… | head``)."""
    stream.close_up()
    error = stream.failure
    return "" if error is None or error.errno in _CLOSED else error.strerror or str(error)


def columns_of(stream: Any) -> int | None:
    """Width of the terminal that a stream writes to; None if it is not a terminal."""
    try:
        if not stream.isatty():
            return None
        width = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return None
    return width or 80


def fold(parts: list[str], columns: int | None, indent: str = "  ") -> str:
    """Joins parts of a line by two spaces, and continues in an indented line at the width of the terminal.

    Args:
        parts: texts that are not divided; empty ones are left out.
        columns: width of the terminal; None gives one line.
        indent: starts every line but the first.
    """
    lines: list[str] = []
    for part in filter(None, parts):
        if lines and (columns is None or len(lines[-1]) + 2 + len(part) <= columns):
            lines[-1] += f"  {part}"
        else:
            lines.append(f"{indent}{part}" if lines else part)
    return "\n".join(lines)


def as_text(renderable: Any, width: int = 100) -> str:
    """What rich prints of an object, as plain text.

    Args:
        renderable: anything that rich prints, such as a table.
        width: columns.
    """
    from rich.console import Console  # takes long to load

    console = Console(width=width)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()
