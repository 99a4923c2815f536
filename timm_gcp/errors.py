"""The exception whose message is shown to the user."""


class GCPError(ValueError):
    """Bad input. The message is one sentence that says what is wrong and what to do about it.

    The command line prints it without a traceback and exits with status 2 (``--debug`` shows the traceback).
    """
