"""Signals that ask a run to stop: SIGTERM, Ctrl-C and SIGHUP (a lost terminal)."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch

from ..distributed import any_of, process_count

__all__ = ["Interrupt", "Interrupted"]

_SAME_REQUEST = 2.0
"""Seconds in which a signal repeats the one before: a shell, a batch system or torchrun may each send it."""


class Interrupted(BaseException):
    """The run was asked to stop, and is at a point from which it can be resumed.

    Not an ``Exception``: it may be raised while an image is decoded, where every ``Exception`` is an image's fault.
    """


class Interrupt:
    """Takes note of the first signal while it is entered; a second one ends the run at once (``KeyboardInterrupt``).

    Attributes:
        signal: the first signal, None before it.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}
        self._came = 0.0
        self._awaiting = False

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """What a shell reports of a process that the signal ended: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + (self.signal or signal.SIGTERM)

    def check(self, device: torch.device) -> None:
        """Raises in all processes if any was asked to stop.

        Raises:
            Interrupted: a process was.
        """
        if any_of([self.requested], device)[0]:
            raise Interrupted

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """While a batch is awaited, a signal stops the run there: the loader may be stuck.

        Not where several processes train together: they have to stop after the same update.

        Raises:
            Interrupted: this process was asked to stop.
        """
        try:
            self._awaiting = process_count() == 1
            if self._awaiting and self.requested:
                raise Interrupted
            yield
        finally:
            self._awaiting = False

    def __enter__(self) -> "Interrupt":
        # Python lets the main thread alone set handlers.
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                # nohup ignores SIGHUP on purpose.
                if number is not None and (name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is not None:
            # A person's second Ctrl-C is meant, however fast; torchrun sends what the terminal has sent already.
            meant = number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ
            if meant or now - self._came > _SAME_REQUEST:
                raise KeyboardInterrupt
            return
        self.signal, self._came = number, now
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        # print could have been interrupted itself; write has no state. The terminal may be gone.
        with suppress(OSError):
            os.write(2, f"\nStopping after this update; {name} again stops at once.\n".encode())
        if self._awaiting:
            raise Interrupted
