"""The part of the report about fine-tuning with few training images, beside a classifier on frozen features."""

from pathlib import Path

import pandas as pd

from timm_gcp.plots import new_figure, save_figure
from timm_gcp.text import markdown_table

from . import probe_images
from .finetune_settings import HEADS, PIXELS
from .intervals import difference_over_images
from .probe_images import NAMES
from .record import read_table

TRAINED = {"average": "fine-tuned, average pooling", "isqrt": "fine-tuned, covariance"}
"""Heads of the picture, with their names there."""

FROZEN = dict(
    zip((head.value for head in probe_images.HEADS), ("frozen, mean", "frozen, mean and covariance"), strict=True)
)


def section(runs: pd.DataFrame, folder: Path) -> str:
    """Table and picture, which is written into the folder; '' where no run has a part of the images.

    Args:
        runs: final runs; ``images`` is the number of images per class or 'all'.
        folder: of the results.
    """
    few = runs[runs["images"] != "all"]
    if few.empty:
        return ""
    means = runs.groupby(["set", "images", "head"])["top1"].mean()
    sizes = runs.groupby("set")["count"].first()
    lines = []
    for name in dict.fromkeys(few["set"]):
        for images in _in_order(runs[runs["set"] == name]["images"]):
            own = means[name, images]
            for head in (each for each in HEADS if each in own.index and each != "average"):
                gain = ""
                if "average" in own.index:
                    difference = difference_over_images(own[head], own["average"], int(sizes[name]))
                    gain = f"{difference}, {difference.verdict()}"
                base = f"{own['average']:.1f}" if "average" in own.index else ""
                lines.append((NAMES[name], images, base, f"`{head}`", f"{own[head]:.1f}", gain))
    titles = ("data", "images per class", "average", "head", "test top-1", "minus average")
    _figure(means, list(dict.fromkeys(few["set"])), folder)
    picture = (
        "![test top-1 against the number of training images per class, frozen and fine-tuned](finetune_images.png)"
    )
    return f"### With few training images\n\n{markdown_table(titles, lines)}\n\n{picture}"


def _in_order(images: pd.Series) -> list[str]:
    """The numbers of images per class, ascending, 'all' last."""
    return sorted(set(images), key=lambda each: (each == "all", len(each), each))


def _figure(means: pd.Series, names: list[str], folder: Path) -> None:
    frozen = read_table(folder / "probe_images.csv", ("data", "pixels", "images", "head", "top1"))
    frozen = frozen[frozen["pixels"] == PIXELS]
    frozen = frozen.assign(images=frozen["images"].astype(str)).groupby(["data", "images", "head"])["top1"].mean()
    figure = new_figure(figsize=(4.2 * len(names), 4.4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for table, heads, style in ((frozen, FROZEN, "--"), (means, TRAINED, "-")):
            for number, (head, label) in enumerate(heads.items()):
                own = {key[1]: value for key, value in table.items() if (key[0], key[2]) == (name, head)}
                order = _in_order(pd.Series(list(own), dtype=object))
                axes.plot(order, [own[each] for each in order], f"o{style}", color=f"C{number}", label=label)
        axes.set_title(NAMES[name])
        axes.set_xlabel("training images per class")
        axes.set_ylabel("test top-1, %")
        axes.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center")
    save_figure(figure, folder / "finetune_images.png", dpi=110)
