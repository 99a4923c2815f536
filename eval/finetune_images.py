"""The part of the report about fine-tuning with few training images, beside a classifier on frozen features."""

from itertools import product
from pathlib import Path

import pandas as pd

from timm_gcp.plots import new_figure, save_figure
from timm_gcp.text import markdown_table

from . import probe_images
from .finetune_runs import compare, final_runs
from .finetune_settings import FEW, IMAGES, PIXELS
from .probe_images import NAMES
from .record import read_table

_MEAN, _BOTH = (head.value for head in probe_images.HEADS)
LINES = {
    _MEAN: ("C0", "--", "frozen, mean"),
    _BOTH: ("C1", "--", "frozen, mean and covariance"),
    "average": ("C0", "-", "fine-tuned, average pooling"),
    "isqrt": ("C1", "-", "fine-tuned, covariance"),
    "average, probe": ("C0", ":", "fine-tuned from a probe, average pooling"),
    "isqrt, probe": ("C1", ":", "fine-tuned from a probe, covariance"),
}
"""Heads of the picture, on frozen features and fine-tuned → colour, line and label."""


def section(rows: pd.DataFrame, folder: Path) -> str:
    """Table and picture, which is written into the folder; '' where no run has a part of the images.

    Args:
        rows: of ``finetune.csv``.
        folder: of the results.
    """
    runs = pd.concat([final_runs(rows, images).assign(images=str(images or "all")) for images in (*IMAGES, None)])
    few = runs[runs["images"] != "all"]
    if few.empty:
        return ""
    means = runs.groupby(["set", "images", "head"])["top1"].mean()
    lines = []
    for name, images in product(dict.fromkeys(few["set"]), (*IMAGES, None)):
        label = str(images or "all")
        for head in (each for each in FEW if (name, label, each) in means.index):
            compared = compare(rows, name, head, images)
            gain = f"{compared.gain}, {compared.gain.verdict()}" if compared else ""
            lines.append((NAMES[name], label, f"`{head}`", f"{means[name, label, head]:.1f}", gain))
    titles = ("data", "images per class", "head", "test top-1", "minus average, same start")
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
    scores = pd.concat([frozen, means])
    figure = new_figure(figsize=(4.2 * len(names), 4.4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for head, (color, line, label) in LINES.items():
            own = {key[1]: value for key, value in scores.items() if (key[0], key[2]) == (name, head)}
            if own:
                order = _in_order(pd.Series(list(own), dtype=object))
                axes.plot(order, [own[each] for each in order], f"o{line}", color=color, label=label)
        axes.set_title(NAMES[name])
        axes.set_xlabel("training images per class")
        axes.set_ylabel("test top-1, %")
        axes.grid(alpha=0.3)
    shown = [axes.get_legend_handles_labels() for axes in panels]
    named = {label: handle for handles, labels in shown for handle, label in zip(handles, labels, strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2)
    save_figure(figure, folder / "finetune_images.png", dpi=110)
