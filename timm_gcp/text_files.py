"""Text files that users write: read the same way wherever one is given."""

import codecs
import os
from pathlib import Path

from .errors import GCPError

__all__ = ["read_text"]


def read_text(path: str | os.PathLike[str], what: str = "", strict: bool = True) -> str:
    """The text of a file that a user wrote, whichever editor and system it comes from.

    Args:
        path: a file in UTF-8, or in UTF-16 with a byte-order mark; a mark is taken off.
        what: the file as a message calls it, such as '--class-names x.txt'; '' for its path.
        strict: refuse what is not text; otherwise such bytes are replaced.

    Returns:
        The text with '\\n' at the ends of its lines.

    Raises:
        GCPError: the file cannot be read.
    """
    try:
        content = Path(path).read_bytes()
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        text = content.decode(encoding, "strict" if strict else "replace")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise GCPError(f"{what or path} cannot be read ({reason}): save it as a plain text file.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
