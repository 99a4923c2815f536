"""Types of command-line options: what argparse and the YAML reader convert and check values with.

Each is a function from text to a value, which raises `argparse.ArgumentTypeError` with the reason.
"""

import argparse
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from timm.data import auto_augment

from ..models.names import SOURCES
from ..text import first_line

__all__ = [
    "BELOW_ONE",
    "COUNT",
    "COUNT_OR_ZERO",
    "CROP",
    "DEVIATION",
    "MEAN",
    "NOT_NEGATIVE",
    "POSITIVE",
    "SEED",
    "SHARE",
    "Number",
    "duration",
    "experiment_name",
    "file_path",
    "learning_rate",
    "model_name",
    "path_object",
    "policy",
    "resampling",
    "train_resampling",
]

_FILTERS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_OPERATIONS = ("tweights", "t3a", "t3aw")
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}  # seconds
_LONGEST_NAME = 200  # of 255 bytes; temporary files have longer names


@dataclass(frozen=True)
class Number:
    """A finite number in an interval.

    Args:
        least: lower end.
        most: upper end.
        above: the lower end itself does not count.
        below: the upper end itself does not count.
        whole: integers only.
        hint: what the message adds.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    hint: str = ""

    def __call__(self, text: str) -> float | int:
        """The number that a text stands for.

        Raises:
            argparse.ArgumentTypeError: the text is no such number.
        """
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a{' whole' * self.whole} number") from None
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        if not ((self.whole or math.isfinite(value)) and low and high):
            raise argparse.ArgumentTypeError(f"must {self._interval()}, not {text}{self.hint}")
        return value

    def _interval(self) -> str:
        least, most = f"{self.least:.10g}", f"{self.most:.10g}"
        if math.isinf(self.least) and math.isinf(self.most):
            return "be finite"
        if math.isinf(self.most):
            return "be positive" if (self.least, self.above) == (0, True) else f"be at least {least}"
        if not self.above and not self.below:
            return f"lie between {least} and {most}"
        low, high = "more than" if self.above else "at least", "less than" if self.below else "at most"
        return f"be {low} {least} and {high} {most}"


SHARE = Number(0, 1)
BELOW_ONE = Number(0, 1, below=True)
POSITIVE = Number(0, above=True)
NOT_NEGATIVE = Number(0)
COUNT = Number(1, whole=True)
COUNT_OR_ZERO = Number(0, whole=True)
SEED = Number(0, 2**31 - 1, whole=True)
CROP = Number(0.1, 1)
MEAN = Number(0, 1, hint=": pixels run from 0 to 1 here; divide values of a scale of 0 to 255 by 255")
DEVIATION = Number(0, 1, above=True, hint=MEAN.hint)


def learning_rate(text: str) -> float | str:
    """A learning rate, or 'auto' for one that is chosen by a range test.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    return text if text == "auto" else POSITIVE(text)


def duration(text: str) -> float:
    """A time span in seconds: a number and its unit (``d``, ``h``, ``m``, ``s``), or several, the largest unit first.

    A number without a unit counts seconds.

    Raises:
        argparse.ArgumentTypeError: it is no time span, or an empty one.
    """
    parts = re.fullmatch("".join(rf"(?:([\d.]+){unit})?" for unit in _UNITS), text.strip().lower())
    try:
        if parts is None:
            seconds = float(text)
        else:
            pairs = zip(parts.groups(), _UNITS.values(), strict=True)
            seconds = sum(float(number) * unit for number, unit in pairs if number)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; give one such as 90m, 2h or 1h30m")
    return seconds


def file_path(text: str) -> str:
    """A path that a user gives: ``~`` is the home folder, wherever the path comes from.

    Raises:
        argparse.ArgumentTypeError: it holds a null character, or names a user that is not there.
    """
    if "\0" in text:
        raise argparse.ArgumentTypeError("a path cannot hold a null character")
    path = os.path.expanduser(text)
    if path.startswith("~") and not os.path.lexists(path):
        home = path.split("/")[0]
        raise argparse.ArgumentTypeError(f"there is no home folder {home}; write ./{text} for such a name")
    return path


def path_object(text: str) -> Path:
    """A `file_path` as a ``pathlib.Path``."""
    return Path(file_path(text))


def model_name(text: str) -> str:
    """A model that a user names: a path, with or without ``local-dir:``, is a `file_path`."""
    source = next((source for source in SOURCES if text.startswith(source)), "")
    if source in ("", "local-dir:"):
        return f"{source}{file_path(text[len(source) :])}"
    return text


def experiment_name(text: str) -> str:
    """The name of a run's folder.

    Raises:
        argparse.ArgumentTypeError: it is too long for a file system.
    """
    longest = max((len(os.fsencode(part)) for part in text.split("/")), default=0)
    if longest > _LONGEST_NAME:
        raise argparse.ArgumentTypeError(
            f"{longest} bytes are too long for the name of a folder; at most {_LONGEST_NAME}"
        )
    return file_path(text)


def policy(text: str) -> str:
    """An augmentation policy of timm's.

    Raises:
        argparse.ArgumentTypeError: timm has no such policy, or would pass over a part of it.
    """
    kind, *sections = text.split("-")
    makers = {"rand": auto_augment.rand_augment_transform, "augmix": auto_augment.augment_and_mix_transform}
    # timm takes no notice of a section without a number, nor of an unknown set of operations.
    ignored = [part for part in sections if not re.fullmatch(r"[a-z]+\d[\d.e]*", part)]
    if kind == "rand":
        ignored = [part for part in ignored if part not in _OPERATIONS]
    try:
        if ignored:
            raise ValueError(f"it has no meaning for {ignored[0]!r}")
        if text:
            makers.get(kind, auto_augment.auto_augment_transform)(text)
    except (AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
        examples = "rand-m9-mstd0.5-inc1, augmix-m5-w4-d2 or original-mstd0.5"
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a policy of timm's ({first_line(error)}); give one such as {examples}"
        ) from None
    return text


def resampling(text: str) -> str:
    """A resampling filter of evaluation.

    Raises:
        argparse.ArgumentTypeError: there is none of that name.
    """
    return _one_of(text, _FILTERS)


def train_resampling(text: str) -> str:
    """A resampling filter of training: as `resampling`, or 'random'."""
    return _one_of(text, ("random", *_FILTERS))


def _one_of(text: str, names: tuple[str, ...]) -> str:
    if text and text not in names:
        raise argparse.ArgumentTypeError(f"unknown filter {text!r}; there are {', '.join(names)}")
    return text
