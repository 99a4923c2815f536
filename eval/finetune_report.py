"""The section of the report about fine-tuning: the search of the learning rates, and the final runs."""

from pathlib import Path

import pandas as pd

from timm_gcp.text import markdown_table

from .finetune_settings import HEADS, SEARCH_SET, SEARCHED
from .intervals import Interval, difference_over_images
from .record import read_table

TABLE = "finetune.csv"


def section(results: Path) -> str:
    """The tables as Markdown.

    Args:
        results: folder with ``finetune.csv``.
    """
    rows = read_table(results / TABLE)
    return f"{_search(rows)}\n\n{_final(rows)}"


def gain(rows: pd.DataFrame, name: str, head: str) -> Interval | None:
    """Test top-1 of a head minus that of average pooling, both trained on all images from a fresh head.

    Each head has the learning rate that its validation accuracy chose, and the mean of its seeds.

    Args:
        rows: of ``finetune.csv``.
        name: a data set.
        head: a head.

    Returns:
        The difference, with an interval over the test images; None where one of the two was not trained.
    """
    final = final_runs(rows)
    own, base = (final[(final["set"] == name) & (final["head"] == each)] for each in (head, "average"))
    if own.empty or base.empty:
        return None
    return difference_over_images(own["top1"].mean(), base["top1"].mean(), int(own["count"].iloc[0]))


def final_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs on all training images and a test part, at the learning rate that the search chose."""
    final = rows[(rows["part"] == "test") & rows["images"].isna()]
    chosen = _chosen(rows)
    kept = [chosen.get(HEADS[head].rate_of) == lr for head, lr in zip(final["head"], final["lr"], strict=True)]
    return final[kept]


def _chosen(rows: pd.DataFrame) -> dict[str, float]:
    """Head of the search → the learning rate with the highest validation accuracy."""
    search = rows[(rows["part"] == "val") & (rows["set"] == SEARCH_SET)]
    best = search.sort_values(["top1", "lr"], ascending=[False, True]).drop_duplicates("head")
    return dict(zip(best["head"], best["lr"], strict=True))


def _search(rows: pd.DataFrame) -> str:
    search = rows[(rows["part"] == "val") & (rows["set"] == SEARCH_SET)]
    scores = search.pivot(index="head", columns="lr", values="top1")
    chosen = _chosen(rows)
    lines = []
    for head in (each for each in SEARCHED if each in scores.index):
        own = scores.loc[head].items()
        cells = ["" if pd.isna(v) else ("**{:.1f}**" if r == chosen[head] else "{:.1f}").format(v) for r, v in own]
        lines.append((f"`{head}`", *cells))
    titles = ("validation top-1 on Cars, by lr", *(f"{rate:g}" for rate in scores.columns))
    return f"{markdown_table(titles, lines)}\n\nBold: the chosen rate."


def _final(rows: pd.DataFrame) -> str:
    final = final_runs(rows)
    lines = []
    for name in dict.fromkeys(final["set"]):
        for head in HEADS:
            own = final[(final["set"] == name) & (final["head"] == head)].sort_values("seed")
            if own.empty:
                continue
            difference = gain(rows, name, head) if head != "average" else None
            tops = ", ".join(f"{value:.1f}" for value in own["top1"])
            kappa = own["kappa"].mean()
            lines.append(
                (
                    name,
                    f"`{head}`",
                    f"{own['lr'].iloc[0]:g}",
                    tops,
                    f"{difference}, {difference.verdict()}" if difference else "",
                    f"{own['top5'].mean():.1f}",
                    f"{own['parameters'].iloc[0] / 1e6:.1f}",
                    "" if pd.isna(kappa) else f"{kappa:.0e}",
                    f"{own['seconds'].iloc[0]:.0f}",
                )
            )
    titles = (
        "data",
        "head",
        "lr",
        "test top-1 by seed",
        "minus average",
        "top-5",
        "parameters, M",
        "κ",
        "seconds, seed 0",
    )
    return markdown_table(titles, lines)
