"""Means, deviations and 95 % intervals of a few runs, and what may be said of a difference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean of `number` values, with Student's 95 % interval (infinite for a single value)."""

    mean: float
    half: float
    number: int

    @property
    def level(self) -> bool:
        """Whether the interval holds zero: then a difference has not been told apart from none."""
        return not self.half < abs(self.mean)

    def __str__(self) -> str:
        return f"{self.mean:+.1f}" + (f" ± {self.half:.1f}" if math.isfinite(self.half) else "")

    def verdict(self) -> str:
        """'ahead', 'behind' or 'level'."""
        return "level" if self.level else "ahead" if self.mean > 0 else "behind"


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of some values."""
    n = len(values)
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * stdev(values) / math.sqrt(n) if n > 1 else math.inf
    return Interval(fmean(values), float(half), n)


def paired(a: Mapping[str, float], b: Mapping[str, float]) -> Interval | None:
    """a − b, seed by seed, over the seeds that both have; None if there is none."""
    gaps = [a[seed] - b[seed] for seed in a if seed in b]
    return mean_interval(gaps) if gaps else None


def unpaired(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Mean of a − mean of b, by Welch: for pools of runs that are not matched.

    Args:
        a: at least two values.
        b: at least two values.
    """
    va, vb = stdev(a) ** 2 / len(a), stdev(b) ** 2 / len(b)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)) if va + vb else math.inf
    half = stats.t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(va + vb)
    return Interval(fmean(a) - fmean(b), float(half), len(a) + len(b))


def spread(values: Sequence[float]) -> str:
    """Mean and sample deviation."""
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
