"""The section of the report about fine-tuning: the search of the learning rates, and the final runs."""

from pathlib import Path

import pandas as pd

from timm_gcp.text import markdown_table

from . import finetune_images
from .finetune_runs import compare, final_runs, search_results, with_images
from .finetune_settings import (
    COMPARED_IMAGES,
    COMPARED_SET,
    HEADS,
    OPTIONS,
    SEARCH_SET,
    SEARCHED,
    SWITCH,
    SWITCH_IMAGES,
    TABLE,
    chosen_rate,
)
from .intervals import difference_over_images
from .probe_images import NAMES
from .record import read_table


def section(results: Path) -> str:
    """The tables as Markdown; a picture is written into the folder.

    Args:
        results: folder with ``finetune.csv``.
    """
    rows = read_table(results / TABLE)
    parts = (_search(rows), _final(rows), finetune_images.section(rows, results), _heads(rows), _switch(rows))
    return "\n\n".join(part for part in parts if part)


def _search(rows: pd.DataFrame) -> str:
    found = search_results(rows)
    rates = sorted({rate for own in found.values() for rate in own})
    lines = []
    for head in (each for each in SEARCHED if each in found):
        own, chosen = found[head], chosen_rate(found[head])
        cells = [("**{:.1f}**" if r == chosen else "{:.1f}").format(own[r]) if r in own else "" for r in rates]
        lines.append((f"`{head}`", str(SEARCHED[head] or "all"), *cells))
    titles = ("validation top-1 on Cars, by lr", "images per class", *(f"{rate:g}" for rate in rates))
    return (
        f"{markdown_table(titles, lines)}\n\nBold: the chosen rate, the lowest within one standard error of the best."
    )


def _heads(rows: pd.DataFrame) -> str:
    """All heads with few images; '' where no further one is measured."""
    runs = final_runs(rows, COMPARED_IMAGES)
    runs = runs[runs["set"] == COMPARED_SET]
    if not set(runs["head"]) & {"polar", *OPTIONS}:
        return ""
    lines = []
    for head in (each for each in HEADS if each in set(runs["head"])):
        own = runs[runs["head"] == head].sort_values("seed")
        compared = compare(rows, COMPARED_SET, head, COMPARED_IMAGES, baseline="isqrt")
        lines.append(
            (
                f"`{head}`",
                f"{own['lr'].iloc[0]:g}",
                ", ".join(f"{value:.1f}" for value in own["top1"]),
                f"{compared.gain}, {compared.gain.verdict()}" if compared else "",
                f"{own['top5'].mean():.1f}",
                f"{own['parameters'].iloc[0] / 1e6:.1f}",
            )
        )
    titles = ("head", "lr", "test top-1 by seed", "minus `isqrt`, same seeds", "top-5", "parameters, M")
    where = f"{NAMES[COMPARED_SET]}, {COMPARED_IMAGES} images per class."
    return f"### All heads\n\n{where}\n\n{markdown_table(titles, lines)}"


def _switch(rows: pd.DataFrame) -> str:
    """The moments of the switch on the validation part; '' where they are not measured."""
    runs = rows[(rows["part"] == "val") & (rows["set"] == SEARCH_SET) & with_images(rows, SWITCH_IMAGES)]
    searched = search_results(rows).get(HEADS[next(iter(SWITCH))].rate_of)
    if not searched:
        return ""
    runs = runs[(runs["seed"] == 0) & (runs["lr"] == chosen_rate(searched)) & runs["head"].isin(list(SWITCH))]
    top1 = runs.set_index("head")["top1"].reindex(list(SWITCH))
    if top1.isna().any():
        return ""
    never, images = float(top1.iloc[0]), int(runs["count"].iloc[0])
    lines = []
    for head, moment in SWITCH.items():
        own = float(top1[head])
        lines.append((f"`{head}`", moment, f"{own:.1f}", f"{difference_over_images(own, never, images)}"))
    titles = ("head", "switch", "validation top-1", "minus never")
    return (
        f"### The moment of the switch\n\n{NAMES[SEARCH_SET]}, {SWITCH_IMAGES} images per class, seed 0.\n\n"
        f"{markdown_table(titles, lines)}"
    )


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
            compared = compare(rows, name, head)
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
                    f"{compared.gain}, {compared.gain.verdict()}" if compared else "",
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
        "minus average, same start",
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
