"""The one exception that speaks to the user."""


class GCPError(ValueError):
    """Bad input. The message is one sentence that says what is wrong and what to do about it.

    The command line prints it without a traceback and exits with status 2 (``--debug`` shows the traceback).
    """


def one_line(error: BaseException) -> str:
    """What another package's error says, as a part of our sentence: on one line, without its full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def reason(error: BaseException) -> str:
    """An error's first line, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
