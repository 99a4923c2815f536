"""Shows the progress of a run: a bar on a terminal, plain lines elsewhere, all lines in the log file."""

import sys
import time
from datetime import datetime, timedelta
from typing import Any

import torch
from tqdm import tqdm

from ..output import columns_of, fold
from .run_log import RunLog

__all__ = ["Progress", "clock", "peak_memory"]

ESTIMATE_AFTER = 10  # updates, or the whole first epoch, or half a minute: then the rate is known
_SHORTEST_BAR = 6


class Progress:
    """Shows where a run is. Epochs are shown as people count them, from 1.

    Args:
        start: first epoch of this run, from 0.
        epochs: length of the whole run.
        every: updates between two plain lines.
        enabled: off in all processes but the first.
        device: whose memory is shown.

    Attributes:
        log: takes every line, also the plain ones that a bar stands for on a terminal.
    """

    def __init__(
        self, start: int, epochs: int, every: int, enabled: bool = True, device: torch.device | None = None
    ) -> None:
        self.epochs, self.every, self.enabled, self.device = epochs, every, enabled, device
        self.interactive = enabled and sys.stderr.isatty()
        self.log: RunLog | None = None
        self._began = time.monotonic()
        self._run_start = float(start)
        self._bar: Any = None
        self._first_update: tuple[float, int] | None = None
        self._estimated = False

    def say(self, *parts: str) -> None:
        """Prints a line, above the bar if there is one.

        Args:
            *parts: of the line; on a terminal it is broken between them where it would be too long.
        """
        if self.enabled:
            tqdm.write(fold(list(parts), columns_of(sys.stdout)), file=sys.stdout)
            sys.stdout.flush()
            self._to_log(parts)

    def _to_log(self, parts: tuple[str, ...]) -> None:
        if self.log is not None:
            self.log.write(fold(list(parts), None))

    def begin(self, epoch: int, updates: int, done: int = 0) -> None:
        """An epoch of so many updates starts, or goes on where so many are done."""
        self._epoch, self._updates, self._epoch_began, self._first = epoch, updates, time.monotonic(), done
        if done:
            self._run_start = epoch + done / updates
        if self.interactive:
            columns = columns_of(sys.stderr)
            self._bar = tqdm(total=updates, initial=done, leave=False, disable=None, bar_format="{bar}", ncols=columns)

    def update(self, done: int, loss: float, top1: float | None, rate: float, lr: float) -> None:
        """So many updates of the epoch are done.

        Args:
            done: updates.
            loss: mean of the epoch so far.
            top1: training accuracy of the epoch so far in per cent, None for soft targets.
            rate: images a second.
            lr: learning rate of the base group from here on.
        """
        if not self.enabled:
            return
        self._estimate(done)
        due = done % self.every == 0 or done == self._updates
        if not (self.interactive or due):
            return
        left_epoch = (time.monotonic() - self._epoch_began) * (self._updates - done) / (done - self._first)
        left = clock(self.remaining(self._epoch + done / self._updates))
        accuracy = "" if top1 is None else f"top1 {top1:.1f}"
        if self._bar is not None:
            # In the order in which a narrow terminal needs them.
            wanted = [f"{done}/{self._updates}", f"loss {loss:.3f}", f"{left} left", accuracy, f"{rate:.0f} img/s"]
            self._bar.ncols = columns_of(sys.stderr)
            self._bar.bar_format = _bar_format(f"{self._epoch + 1}/{self.epochs}", wanted, self._bar.ncols or 80)
            self._bar.update(done - self._bar.n)
        if due:
            parts = (
                f"epoch {self._epoch + 1} [{done}/{self._updates}]",
                *(f"loss {loss:.3f}", accuracy, f"{rate:.0f} img/s", f"lr {lr:.3g}"),
                *(f"left: epoch {clock(left_epoch)}, run {left}",),
            )
            if self._bar is None:
                self.say(*parts)
            else:
                self._to_log(parts)

    def end(self) -> None:
        """The epoch is over."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def remaining(self, here: float) -> float:
        """Seconds to the end of the run as it has gone so far.

        Args:
            here: epochs that are done, and the part of the next one.
        """
        return (time.monotonic() - self._began) * (self.epochs - here) / max(here - self._run_start, 1e-9)

    def _estimate(self, done: int) -> None:
        """Says once how long training takes and what memory it needs, as soon as both are known."""
        now = time.monotonic()
        if self._estimated:
            return
        if self._first_update is None:  # loader and kernels have just started: its time is no measure
            self._first_update = now, done
        begun, before = self._first_update
        if done - before < ESTIMATE_AFTER and done < self._updates and (now - begun < 30 or done == before):
            return
        self._estimated = True
        if done == before:
            begun, before = self._epoch_began, self._first
        updates = (self.epochs - self._epoch) * self._updates - done
        left = (now - begun) / (done - before) * updates
        memory = peak_memory(self.device)
        self.say(
            f"Training takes about {clock(left)} more",
            f"until {_moment(left)}",
            "evaluation not counted",
            f"memory {memory}" if memory else "",
        )


def _bar_format(title: str, wanted: list[str], columns: int) -> str:
    """The bar between its title and as much of the text as fits."""
    room = columns - len(title) - len(" ||") - _SHORTEST_BAR - 1
    text = ""
    for piece in filter(None, wanted):
        if len(text) + 2 + len(piece) <= room:
            text += f"  {piece}"
    return f"{title} |{{bar}}|{text[1:]}"


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def _moment(seconds: float) -> str:
    """The time of day in so many seconds, with the day if it is another one."""
    now = datetime.now()
    then = now + timedelta(seconds=seconds)
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M}"


def peak_memory(device: torch.device | None) -> str:
    """The most memory that training has taken, as a phrase; '' where it cannot be told.

    On a CPU it is that of this process, without its loader processes.
    """
    if device is not None and device.type == "cuda":
        taken, whole = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
        return f"{taken / 2**30:.1f} of the GPU's {whole / 2**30:.1f} GiB"
    if device is None or device.type != "cpu":
        return ""
    try:
        import resource  # not on Windows
    except ImportError:
        return ""
    unit = 1 if sys.platform == "darwin" else 2**10
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB (this process)"
