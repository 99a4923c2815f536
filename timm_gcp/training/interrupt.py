"""SIGTERM and Ctrl-C: a wish to stop, which the run fulfils where it can be taken up again."""

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

import torch

from .processes import any_of

__all__ = ["Interrupt", "Interrupted", "shield_worker"]


class Interrupted(Exception):
    """The run was asked to stop, and has come to a point from which it can go on later."""


class Interrupt:
    """Takes note of SIGTERM and of the first Ctrl-C while it is entered; a second Ctrl-C stops at once.

    Attributes:
        signal: the signal that came, None before it.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """What a shell reports of a process that the signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or signal.SIGTERM)

    def check(self, device: torch.device) -> None:
        """Raises in all processes if any was asked to stop.

        Raises:
            Interrupted: the wish.
        """
        if any_of([self.requested], device)[0]:
            raise Interrupted

    def __enter__(self) -> "Interrupt":
        # Python lets the main thread alone set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            # print could have been interrupted itself; write has no state.
            with contextlib.suppress(OSError):
                os.write(2, b"\nStopping after this update; Ctrl-C again stops at once.\n")
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.signal = self.signal or number


def shield_worker(worker: Any) -> int:
    """Lets a loader process outlive a signal that was sent to the whole run; a ``worker_seeding`` of timm's loader.

    A terminal, ``torchrun`` and batch systems signal all processes of a run, and without its workers the main one could
    not finish its update. The second SIGTERM works: it is the main process's own, when a worker does not end by itself.

    Args:
        worker: what ``torch.utils.data.get_worker_info`` returns.

    Returns:
        The worker's seed, unchanged.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    return worker.seed
