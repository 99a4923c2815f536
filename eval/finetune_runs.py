"""The runs of ``finetune.csv`` that a report shows: the search of the rates, the final runs, and two heads compared."""

from dataclasses import dataclass

import pandas as pd

from .finetune_settings import EPOCHS, HEADS, SEARCH_SET, SEARCHED, chosen_rate
from .intervals import Interval, difference_over_images


@dataclass(frozen=True)
class Comparison:
    """A head beside another one, on the seeds that both have.

    Attributes:
        baseline: mean test top-1 of the other one, per cent.
        head: that of the head.
        gain: their difference, with an interval over the test images.
        seeds: number of seeds.
    """

    baseline: float
    head: float
    gain: Interval
    seeds: int


def compare(
    rows: pd.DataFrame, name: str, head: str, images: int | None = None, baseline: str | None = None
) -> Comparison | None:
    """Compares a head with another one, each at its chosen learning rate.

    Args:
        rows: of ``finetune.csv``.
        name: a data set.
        head: a head.
        images: training images per class; None for all.
        baseline: the other head; None takes average pooling from the same start (`Head.baseline`).

    Returns:
        None where they share no seed, or where both are one head.
    """
    baseline = baseline or HEADS[head].baseline
    if head == baseline:
        return None
    final = final_runs(rows, images)
    final = final[final["set"] == name]
    scores = final.pivot_table(index="seed", columns="head", values="top1").reindex(columns=[head, baseline]).dropna()
    if scores.empty:
        return None
    own, other = float(scores[head].mean()), float(scores[baseline].mean())
    gain = difference_over_images(own, other, int(final["count"].iloc[0]))
    return Comparison(other, own, gain, len(scores))


def final_runs(rows: pd.DataFrame, images: int | None = None) -> pd.DataFrame:
    """The runs of full length that are evaluated on a test part, at the best rate that a head was trained with.

    Which rate is the best, validation says (`search_results`). It is the chosen rate, except where the runs of a head
    on a data set with that rate are still to be made.

    Args:
        rows: of ``finetune.csv``.
        images: training images per class; None for all.
    """
    found = search_results(rows)
    final = rows[(rows["part"] == "test") & with_images(rows, images) & (rows["epochs"] == EPOCHS)]
    kept = []
    for (_, head), own in final.groupby(["set", "head"], sort=False):
        trained = {rate: top1 for rate, top1 in found.get(HEADS[head].rate_of, {}).items() if rate in set(own["lr"])}
        if trained:
            kept.append(own[own["lr"] == chosen_rate(trained)])
    return pd.concat(kept) if kept else final.iloc[:0]


def search_results(rows: pd.DataFrame, epochs: int = EPOCHS) -> dict[str, dict[float, float]]:
    """Top-1 on the validation part of the search, of seed 0 on as many images as `SEARCHED` says.

    Args:
        rows: of ``finetune.csv``.
        epochs: length of the runs.

    Returns:
        head → learning rate → accuracy; without the heads that have no run yet.
    """
    runs = rows[(rows["part"] == "val") & (rows["set"] == SEARCH_SET) & (rows["epochs"] == epochs)]
    found = {}
    for head, images in SEARCHED.items():
        own = runs[(runs["head"] == head) & (runs["seed"] == 0) & with_images(runs, images)]
        if not own.empty:
            found[head] = dict(zip(own["lr"].astype(float), own["top1"].astype(float), strict=True))
    return found


def with_images(rows: pd.DataFrame, images: int | None) -> "pd.Series[bool]":
    """Which rows are of runs on so many images per class; None for all images."""
    return rows["images"].isna() if images is None else rows["images"] == images
