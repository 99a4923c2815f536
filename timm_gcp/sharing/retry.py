"""Requests to the Hub: repeated after a server error, and a refusal turned into a message."""

import errno
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError

from ..errors import GCPError
from ..text import first_line, one_line

__all__ = ["PAUSES", "attempt", "status_of"]

PAUSES = (1, 2, 4)
"""Seconds to wait before each further attempt after a server error."""
_OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR)
"""Errors of files: another attempt would end in the same one."""

T = TypeVar("T")


def attempt(action: Callable[[], T], doing: str) -> T:
    """Calls a function that sends requests to the Hub; after a server error, up to three more times.

    Args:
        action: the function.
        doing: what it does, for messages: "reading org/name".

    Raises:
        GCPError: the Hub refuses the request, or the last attempt ended in a server error too.
    """
    pauses = iter(PAUSES)
    while True:
        try:
            return action()
        except GCPError:
            raise
        except Exception as error:  # the errors of the client's HTTP library, which differs between its versions
            fault = _server_fault(error)
            if fault is None:
                refusal = _refusal(error, doing)
                if refusal is None:
                    raise
                raise refusal from error
            pause = next(pauses, None)
            if pause is None:
                raise GCPError(f"The Hub kept failing while {doing}: {fault}; try again later.") from error
        print(f"While {doing}: {fault}; again in {pause} s", file=sys.stderr)
        time.sleep(pause)


def _server_fault(error: BaseException) -> str | None:
    """The fault of the server or of the connection that an error stands for, None for any other error."""
    causes = list(_chain(error))
    if _file_fault(error):
        return None
    for status in filter(None, map(status_of, causes)):
        return f"server error {status}" if status >= 500 or status in (408, 429) else None
    for cause in reversed(causes):
        # TransportError in both generations of httpx; requests raises OSErrors, the Xet transfer RuntimeErrors.
        transport = any(base.__name__ == "TransportError" for base in type(cause).__mro__)
        if transport or isinstance(cause, (OSError, RuntimeError)):
            return f"the transfer broke off ({type(cause).__name__}: {first_line(cause)})"
        if isinstance(cause, json.JSONDecodeError):
            return "an answer that is not JSON"
    return None


def _refusal(error: BaseException, doing: str) -> GCPError | None:
    """The message about a request that the Hub or this machine refused; None for any other error."""
    if fault := _file_fault(error):
        return GCPError(f"A file of this machine stopped {doing} ({one_line(fault)}); mend that and try again.")
    if "Invalid metadata in README.md" in str(error):
        reasons = " ".join(str(error).split("\n")[1:])
        return GCPError(f"The Hub refuses the card's metadata ({reasons}); correct it, the licence first of all.")
    for cause in _chain(error):
        status = status_of(cause)
        if status in (401, 403):
            return GCPError(
                f"The Hub answers {status} while {doing}; log in with `hf auth login`, with a token that may do this, "
                "and check the repository's name."
            )
        if status == 404:
            return GCPError(
                f"The Hub answers 404 while {doing}: it does not exist; check organisation, name and revision."
            )
        if status is not None:
            message = getattr(cause, "server_message", None) or "without a reason"
            return GCPError(f"The Hub answers {status} while {doing} ({message}); correct that and try again.")
    return None


def _file_fault(error: BaseException) -> OSError | None:
    """The error of a file of this machine that an error stands for, None for any other error."""
    errors = (cause for cause in _chain(error) if isinstance(cause, OSError))
    return next((cause for cause in errors if cause.errno in _OF_THIS_MACHINE), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an answer of the Hub; None for any other error."""
    if not isinstance(error, HfHubHTTPError):
        return None
    return getattr(getattr(error, "response", None), "status_code", None)
