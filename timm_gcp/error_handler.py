"""Prints the error of a command as one sentence and returns its exit status; ``--debug`` shows the traceback."""

import re
import sys
import traceback
from collections.abc import Callable, Sequence

from .errors import GCPError

__all__ = ["DEBUG", "exit_status", "with_flags"]

DEBUG = "--debug"
_LONGEST = 400


def exit_status(program: str, argv: Sequence[str], work: Callable[[], int | None]) -> int:
    """Runs a command and reports any error in one sentence.

    Args:
        program: name of the command, which starts the message.
        argv: its arguments; with ``--debug`` among them errors are raised instead.
        work: runs the command.

    Returns:
        What the command returns, 0 for None; 2 for bad input, 1 for an unexpected error (one sentence on
        standard error), 130 when interrupted.
    """
    try:
        return work() or 0
    except KeyboardInterrupt:
        print(f"{program}: stopped.", file=sys.stderr)
        return 130
    except GCPError as error:
        if DEBUG in argv:
            raise
        print(f"{program}: error: {with_flags(str(error))}", file=sys.stderr)
        return 2
    except Exception as error:
        if DEBUG in argv:
            raise
        print(f"{program}: error: {_sentence(error)}", file=sys.stderr)
        return 1


def with_flags(message: str) -> str:
    """A message of the library with the flags of the command line in place of parameters.

    The library names parameters in backquotes: `` `switch_epoch` `` becomes ``--switch-epoch``, `` `epochs=2` ``
    becomes ``--epochs 2``, `` `hybrid=False` `` becomes ``--no-hybrid``.
    """

    def flag(match: re.Match[str]) -> str:
        name, value = match[1].replace("_", "-"), match[2]
        if value == "False":
            return f"--no-{name}"
        return f"--{name}" if value in (None, "True") else f"--{name} {value}"

    return re.sub(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`", flag, message)


def _sentence(error: Exception) -> str:
    """An unexpected error on one line, with the place where it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Traceback ") or line.startswith("Original Traceback") for line in lines):
        lines = [lines[0].rstrip("."), lines[-1]]  # from a loader worker: where it was caught, and the error itself
    text = ": ".join(lines[:2]).rstrip(".")
    text = f"{text[:_LONGEST]}…" if len(text) > _LONGEST else text
    frames = traceback.extract_tb(error.__traceback__)
    parts = frames[-1].filename.replace("\\", "/").split("/")[-3:] if frames else []
    place = f" in {'/'.join(parts)}, line {frames[-1].lineno}" if parts else ""
    name = type(error).__name__
    return f"Unexpected {name}{place}{f': {text}' if text else ''}. Add {DEBUG} to see the whole traceback."
