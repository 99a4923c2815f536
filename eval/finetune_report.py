"""The section of the report about fine-tuning: the search of the learning rates, and the final runs."""

from pathlib import Path

import pandas as pd

from timm_gcp.text import markdown_table

from . import finetune_images
from .finetune_settings import EPOCHS, HEADS, IMAGES, SEARCH_SET, SEARCHED, TABLE, chosen_rate
from .intervals import Interval, difference_over_images
from .record import read_table


def section(results: Path) -> str:
    """The tables as Markdown; a picture is written into the folder.

    Args:
        results: folder with ``finetune.csv``.
    """
    rows = read_table(results / TABLE)
    runs = pd.concat([final_runs(rows, images).assign(images=str(images or "all")) for images in (*IMAGES, None)])
    parts = (_search(rows), _final(rows), finetune_images.section(runs, results))
    return "\n\n".join(part for part in parts if part)


def beside_average(rows: pd.DataFrame, name: str, head: str, images: int | None = None) -> pd.DataFrame:
    """Test top-1 of a head and of average pooling, each at its chosen learning rate.

    Args:
        rows: of ``finetune.csv``.
        name: a data set.
        head: a head.
        images: training images per class; None for all.

    Returns:
        Columns `head` and 'average', a row for each seed that both have, and none where they share no seed.
    """
    final = final_runs(rows, images)
    scores = final[final["set"] == name].pivot_table(index="seed", columns="head", values="top1")
    return scores.reindex(columns=[head, "average"]).dropna()


def gain(rows: pd.DataFrame, name: str, head: str, images: int | None = None) -> Interval | None:
    """Mean of the first column of `beside_average` minus that of the second, with an interval over the test images.

    Args:
        rows: of ``finetune.csv``.
        name: a data set.
        head: a head.
        images: training images per class; None for all.

    Returns:
        None where they share no seed.
    """
    scores = beside_average(rows, name, head, images)
    if scores.empty:
        return None
    count = rows[(rows["set"] == name) & (rows["part"] == "test")]["count"].iloc[0]
    return difference_over_images(scores[head].mean(), scores["average"].mean(), int(count))


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


def _search(rows: pd.DataFrame) -> str:
    found = search_results(rows)
    rates = sorted({rate for own in found.values() for rate in own})
    lines = []
    for head in (each for each in SEARCHED if each in found):
        own, chosen = found[head], chosen_rate(found[head])
        cells = [("**{:.1f}**" if r == chosen else "{:.1f}").format(own[r]) if r in own else "" for r in rates]
        lines.append((f"`{head}`", *cells))
    titles = ("validation top-1 on Cars, by lr", *(f"{rate:g}" for rate in rates))
    return f"{markdown_table(titles, lines)}\n\nBold: the chosen rate."


def _final(rows: pd.DataFrame) -> str:
    final = final_runs(rows)
    chosen = {head: chosen_rate(own) for head, own in search_results(rows).items()}
    lines = []
    for name in dict.fromkeys(final["set"]):
        for head in HEADS:
            own = final[(final["set"] == name) & (final["head"] == head)].sort_values("seed")
            if own.empty:
                continue
            rate = own["lr"].iloc[0]
            difference = gain(rows, name, head) if head != "average" else None
            tops = ", ".join(f"{value:.1f}" for value in own["top1"])
            if list(own["seed"]) != list(range(len(own))):
                tops += f" (seed {', '.join(map(str, own['seed']))})"
            kappa = own["kappa"].mean()
            lines.append(
                (
                    name,
                    f"`{head}`",
                    f"{rate:g}" if rate == chosen[HEADS[head].rate_of] else f"{rate:g}*",
                    tops,
                    f"{difference}, {difference.verdict()}" if difference else "",
                    f"{own['top5'].mean():.1f}",
                    f"{own['parameters'].iloc[0] / 1e6:.1f}",
                    "" if pd.isna(kappa) else f"{kappa:.0e}",
                    f"{own['seconds'].iloc[0]:.0f}",
                    own["machine"].iloc[0],
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
        "seconds, first seed",
        "its machine",
    )
    table = markdown_table(titles, lines)
    if any("*" in line[2] for line in lines):
        table += "\n\n\\*: the runs with the chosen rate are still to be made."
    return table
