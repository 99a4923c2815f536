"""Which learning rates the experiment tries, and which it chooses from the results on the folds."""

import math
from pathlib import Path

import pandas as pd

from timm_gcp import GCPError

from .experiment_settings import BACKBONE, KEY, REDUCED, SEARCH_FOLDS, SEARCHED
from .record import read_table


def fold_runs(results: Path, epochs: int, backbone: str = BACKBONE) -> pd.DataFrame:
    """The recorded runs on the folds of the search.

    Args:
        results: folder of ``experiment.csv``.
        epochs: length of the runs.
        backbone: timm's name.
    """
    runs = read_table(results / "experiment.csv", (*KEY, "held_top1", "held_count"))
    return runs[runs["fold"].isin(SEARCH_FOLDS) & (runs["epochs"] == epochs) & (runs["backbone"] == backbone)]


def fold_scores(results: Path, epochs: int, backbone: str = BACKBONE) -> pd.Series:
    """Top-1 after the last epoch, averaged over the folds of the search, by head and learning rate."""
    return fold_runs(results, epochs, backbone).groupby(["head", "lr"])["held_top1"].mean()


def rate_of(results: Path, head: str, epochs: int, backbone: str = BACKBONE) -> float:
    """The learning rate of a head: its own if it was searched for, otherwise the one found for `isqrt`.

    It is the smallest rate whose mean on the folds is within one standard error of the best mean (the rule that is
    usual for pruning trees and for the lasso). All methods share one rate, so that a difference between two of them is
    not one of rates; reductions have a rate each, because they change the scale of the covariance.

    Raises:
        GCPError: the search has no result yet.
    """
    searched = head if head in (*SEARCHED, *REDUCED) else "isqrt"
    runs = fold_runs(results, epochs, backbone)
    runs = runs[runs["head"] == searched]
    if runs.empty:
        raise GCPError(f"The learning rate of '{searched}' is not chosen yet; run --stage 1 first.")
    means = runs.groupby("lr")["held_top1"].mean()
    share = means.max() / 100
    images = runs.drop_duplicates("fold")["held_count"].sum()
    error = 100 * math.sqrt(share * (1 - share) / images)
    return float(means.index[means >= means.max() - error].min())


def with_neighbours(rates: set[float], best: float, limits: tuple[float, float]) -> set[float]:
    """The rates, and half or twice the best one if that is the smallest or largest of them."""
    grown = set(rates)
    if best == min(rates):
        grown.add(max(best / 2, limits[0]))
    if best == max(rates):
        grown.add(min(best * 2, limits[1]))
    return grown
