"""Handles Ctrl-C while a command imports its libraries: prints one line and exits with status 130."""

import os
import signal
import sys
import threading

__all__ = ["is_command", "raise_on_interrupt", "stop_on_interrupt"]


def is_command(argv: list[str]) -> bool:
    """Whether a command line starts ``timm-gcp`` or ``python -m timm_gcp...``, not another program."""
    if "-m" in argv[1:]:
        module = argv[argv.index("-m") + 1 : argv.index("-m") + 2]
        return bool(module) and module[0].split(".")[0] == "timm_gcp"
    return any(os.path.basename(part) in ("timm-gcp", "timm-gcp.exe") for part in argv[:2])


def stop_on_interrupt() -> None:
    """Makes Ctrl-C end this process at once: during imports, libraries turn ``KeyboardInterrupt`` into other errors."""
    if is_command(sys.orig_argv) and _is_default(signal.default_int_handler):
        signal.signal(signal.SIGINT, _stop)


def raise_on_interrupt() -> None:
    """Makes Ctrl-C raise ``KeyboardInterrupt`` again, when the command runs and can clean up."""
    if _is_default(_stop):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_default(handler: object) -> bool:
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is handler


def _stop(*_: object) -> None:
    os.write(2, b"timm-gcp: stopped.\n")
    os._exit(130)
