"""The runs of ``finetune.csv`` that a report shows: the search of the rates, the final runs, and two heads compared."""

from dataclasses import dataclass

import pandas as pd

from .finetune_settings import EPOCHS, HEADS, SEARCH_SET, SEARCHED, chosen_rate
from .intervals import Interval, difference_over_images


@dataclass(frozen=True)
class Comparison:
    """A head beside average pooling, on the seeds that both have.

    Attributes:
        average: mean test top-1 of average pooling, per cent.
        head: that of the head.
        gain: their difference, with an interval over the test images.
    """

    average: float
    head: float
    gain: Interval


def compare(rows: pd.DataFrame, name: str, head: str, images: int | None = None) -> Comparison | None:
    """Compares a head with average pooling, each at its chosen learning rate.

    Args:
        rows: of ``finetune.csv``.
        name: a data set.
        head: a head.
        images: training images per class; None for all.

    Returns:
        None where they share no seed.
    """
    final = final_runs(rows, images)
    final = final[final["set"] == name]
    scores = final.pivot_table(index="seed", columns="head", values="top1").reindex(columns=[head, "average"]).dropna()
    if scores.empty:
        return None
    own, average = float(scores[head].mean()), float(scores["average"].mean())
    return Comparison(average, own, difference_over_images(own, average, int(final["count"].iloc[0])))


def final_runs(rows: pd.DataFrame, images: int | None = None) -> pd.DataFrame:
    """The runs of full length that are evaluated on a test part, at the best rate that a head was trained with.

    Which rate is the best, validation says (`search_results`). It is the chosen rate, except where the runs of a head
    on a data set with that rate are still to be made.

    Args:
        rows: of ``finetune.csv``.
        images: training images per class; None for all.
    """
    found = search_results(rows)
    as_many = rows["images"].isna() if images is None else rows["images"] == images
    final = rows[(rows["part"] == "test") & as_many & (rows["epochs"] == EPOCHS)]
    kept = []
    for (_, head), own in final.groupby(["set", "head"], sort=False):
        trained = {rate: top1 for rate, top1 in found.get(HEADS[head].rate_of, {}).items() if rate in set(own["lr"])}
        if trained:
            kept.append(own[own["lr"] == chosen_rate(trained)])
    return pd.concat(kept) if kept else final.iloc[:0]


def search_results(rows: pd.DataFrame, epochs: int = EPOCHS) -> dict[str, dict[float, float]]:
    """Top-1 on the validation part of the search, of seed 0 on all training images: head → learning rate → accuracy.

    Args:
        rows: of ``finetune.csv``.
        epochs: length of the runs.
    """
    runs = rows[(rows["part"] == "val") & (rows["set"] == SEARCH_SET) & (rows["epochs"] == epochs)]
    runs = runs[runs["images"].isna() & (runs["seed"] == 0)]
    return {
        str(head): dict(zip(own["lr"].astype(float), own["top1"].astype(float), strict=True))
        for head, own in runs.groupby("head")
        if head in SEARCHED
    }
