"""Means of a few runs with 95 % confidence intervals, and whether a difference is significant."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with Student's 95 % confidence interval.

    Attributes:
        mean: the mean, or the difference of two means.
        half: half the width of the interval; infinite for a single value.
        number: how many values (or pairs) it was computed from.
    """

    mean: float
    half: float
    number: int

    def __str__(self) -> str:
        """``mean ± half`` with one decimal."""
        return f"{self.mean:+.1f}" + (f" ± {self.half:.1f}" if math.isfinite(self.half) else "")

    def verdict(self) -> str:
        """'higher' or 'lower' if the interval excludes zero, otherwise 'not significant'."""
        if not self.half < abs(self.mean):
            return "not significant"
        return "higher" if self.mean > 0 else "lower"


def mean_interval(values: Sequence[float] | pd.Series) -> Interval:
    """The mean of at least one value."""
    values = pd.Series(values)
    n = len(values)
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.sem() if n > 1 else math.inf
    return Interval(float(values.mean()), float(half), n)


def paired(a: pd.Series, b: pd.Series) -> Interval | None:
    """Mean of a − b over the seeds (the index) that both have; None if they share no seed."""
    differences = (a - b).dropna()
    return mean_interval(differences) if len(differences) else None


def unpaired(a: Sequence[float] | pd.Series, b: Sequence[float] | pd.Series) -> Interval:
    """Mean of `a` minus mean of `b` with Welch's interval, for runs that are not matched by seed.

    Args:
        a: at least two values.
        b: at least two values.
    """
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(LEVEL)
    return Interval(float((low + high) / 2), float((high - low) / 2), len(a) + len(b))


def difference_over_images(a: float, b: float, images: int) -> Interval:
    """Difference of two accuracies on the same test images, with the interval of two independent proportions.

    It says how much other test images would change the difference, not how much other seeds would. Two classifiers of
    the same images are mostly right on the same ones, so the interval is wider than that of paired answers.

    Args:
        a: accuracy in per cent.
        b: accuracy in per cent.
        images: number of test images.
    """
    variance = sum(p * (100 - p) / images for p in (a, b))
    return Interval(a - b, float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt(variance), images)


def mean_and_deviation(values: pd.Series) -> str:
    """``mean ± sample standard deviation`` with one decimal."""
    return f"{values.mean():.1f}" + (f" ± {values.std():.1f}" if len(values) > 1 else "")
