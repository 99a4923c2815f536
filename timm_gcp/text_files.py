"""Reads the text files that users write, in whichever encoding and with whichever line ends."""

import codecs
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import GCPError

__all__ = ["numbered_lines", "read_text"]


def read_text(path: str | os.PathLike[str], what: str = "", strict: bool = True) -> str:
    r"""Reads a text file that any editor on any operating system may have written.

    Args:
        path: a file in UTF-8, or in UTF-16 with a byte-order mark; a mark is taken off.
        what: the file as a message calls it, such as '--class-names x.txt'; '' for its path.
        strict: refuse what is not text; otherwise such bytes are replaced.

    Returns:
        The text with '\n' at the ends of its lines.

    Raises:
        GCPError: the file cannot be read.
    """
    try:
        content = Path(path).read_bytes()
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        text = content.decode(encoding, "strict" if strict else "replace")
    except OSError as error:
        remedy = "give the path of a file that you may read"
        raise GCPError(f"{what or path} cannot be read ({error.strerror or error}): {remedy}.") from error
    except UnicodeError as error:
        raise GCPError(f"{what or path} cannot be read (it is not UTF-8 text): save it as UTF-8 text.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def numbered_lines(path: str | os.PathLike[str], strict: bool = True) -> Iterator[tuple[int, str]]:
    """Numbers the lines of a text file from 1 and strips them; blank lines are left out.

    Args:
        path: the file.
        strict: as for ``read_text``.

    Yields:
        Number and text of each line.

    Raises:
        GCPError: the file cannot be read.
    """
    text = read_text(path, repr(str(path)), strict)
    yield from ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip())
