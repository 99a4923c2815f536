"""Measures what a probe reaches with few training images per class, on the mean of the map and with the covariance.

The images of every class are drawn at random five times. The principal directions are those of all training images,
which takes no labels; the strength of the ridge is chosen by leave-one-out on the images that were drawn. Each draw is
evaluated on the evaluation split. Draws that have a row already are skipped.
"""

import argparse
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from timm_gcp.commands.option_types import path_object
from timm_gcp.plots import new_figure, save_figure
from timm_gcp.probing.cache import Cache, store_features
from timm_gcp.probing.fits import Fits
from timm_gcp.text import markdown_table

from .folds import draw_per_class
from .probe import Setting, inputs_of
from .record import RESULTS, append_row, provenance, read_cells, read_table

NAMES = {"cars": "Stanford Cars", "grocery": "Grocery Store"}
"""Name of a data set in the tables → as it is shown."""

HEADS = (Setting("head", "mean", None), Setting("head", "mean and covariance"))
IMAGES = (5, 10, 20, None)
"""Images per class; None for all, where there is one draw."""
DRAWS = 5
KEY = ("data", "pixels", "head", "images", "draw")
"""Columns that identify a row; ``pixels`` is the height and width of the images."""

_STYLES = ("-", "--", ":")
"""Lines of the picture: by the size of the images, ascending."""


class _Drawn:
    """Stored features of some of the images; a `FeatureSet`."""

    def __init__(self, cache: Cache, indices: Tensor) -> None:
        self._cache, self._indices = cache, indices
        self.folder, self.views, self.components, self.has_token = cache.folder, 1, cache.components, cache.has_token
        self.images = self.rows = len(indices)

    def maps(self, start: int, stop: int) -> Tensor:
        return torch.cat([self._cache.maps(i, i + 1) for i in self._indices[start:stop].tolist()])

    def first(self, name: str) -> Tensor:
        return self._cache.first(name)[self._indices]

    def labels(self) -> Tensor:
        return self._cache.labels()[self._indices]


def main(argv: list[str]) -> None:
    """Runs the command ``probe_images``."""
    parser = argparse.ArgumentParser(
        prog="python -m eval probe_images",
        description=__doc__.split("\n")[0],
        epilog="Further options are those of timm-gcp probe: DIR, --dataset, --val-split, --model, --checkpoint, …",
    )
    parser.add_argument("--name", required=True, help="name of the data set in the table")
    parser.add_argument("--cache", type=path_object, required=True, help="folder of the features")
    parser.add_argument("--results", type=path_object, default=RESULTS / "probe_images.csv", help="file (%(default)s)")
    args, given = parser.parse_known_args(argv)
    measure(args.name, given, args.cache, args.results)


def measure(name: str, given: Sequence[str], folder: Path, results: Path) -> None:
    """Adds a row for every draw and head that has none yet.

    Args:
        name: of the data set.
        given: further arguments of ``timm-gcp probe``.
        folder: of the features.
        results: the CSV file.
    """
    backbone, train, evaluation = inputs_of(given)
    trained, evaluated = store_features(backbone, train, evaluation, folder, backbone.options.components)[1:]
    pixels = str(backbone.data_config["input_size"][-1])
    done = set(read_cells(results, KEY)[list(KEY)].itertuples(index=False, name=None))
    for images in IMAGES:
        for number in range(DRAWS if images else 1):
            fits: Fits | None = None
            for head in HEADS:
                key = (name, pixels, head.value, str(images or "all"), str(number))
                if key in done:
                    continue
                if fits is None:
                    labels = trained.labels().tolist()
                    drawn = draw_per_class(labels, images, number) if images else range(len(labels))
                    chosen = _Drawn(trained, torch.tensor(drawn))
                    fits = Fits(chosen, evaluated, train.num_classes, "ridge", print)
                fits.fit(head.head)
                found = fits.results[-1]
                row = dict(zip(KEY, key, strict=True))
                top1 = "" if found.validation is None else f"{found.validation:.2f}"
                append_row(results, {**row, "training_images": chosen.images, "top1": top1, **provenance()})


def section(results: Path) -> str:
    """The table as Markdown, and the figure, which is written into the folder.

    Args:
        results: folder with ``probe_images.csv``.
    """
    rows = read_table(results / "probe_images.csv")
    shown = rows.groupby(["data", "pixels", "images", "head"])["top1"].agg(["mean", "std", "count"])
    lines = []
    for name, pixels in dict.fromkeys(rows[["data", "pixels"]].itertuples(index=False, name=None)):
        own = shown.loc[name, pixels]
        for images in (str(each or "all") for each in IMAGES):
            found = [own.loc[images, head.value] for head in HEADS if (images, head.value) in own.index]
            if len(found) == len(HEADS):
                gain = f"{found[1]['mean'] - found[0]['mean']:+.1f}"
                lines.append((name, f"{pixels}", images, *(_number(each) for each in found), gain))
    _figure(rows, results / "probe_images.png")
    titles = ("data", "pixels", "images per class", *(f"{head.value}, top-1 %" for head in HEADS), "gain")
    picture = "![top-1 against the number of training images, with and without covariance](probe_images.png)"
    return f"{markdown_table(titles, lines)}\n\n{picture}"


def _number(own: pd.Series) -> str:
    return f"{own['mean']:.1f} ± {own['std']:.1f}" if own["count"] > 1 else f"{own['mean']:.1f}"


def _figure(rows: pd.DataFrame, path: Path) -> None:
    names = list(dict.fromkeys(rows["data"]))
    figure = new_figure(figsize=(4.2 * len(names), 3.9), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for pixels, line in zip(sorted(set(rows.loc[rows["data"] == name, "pixels"])), cycle(_STYLES), strict=False):
            for colour, head in enumerate(HEADS):
                own = rows[(rows["data"] == name) & (rows["pixels"] == pixels) & (rows["head"] == head.value)]
                points = own.groupby("images").agg(x=("training_images", "mean"), y=("top1", "mean"), e=("top1", "std"))
                points = points.sort_values("x").fillna({"e": 0})
                style = {"color": f"C{colour}", "linestyle": line, "label": f"{head.value}, {pixels} px"}
                axes.errorbar(points["x"], points["y"], points["e"], marker="o", capsize=3, **style)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        ticks = [each for each in (50, 100, 200, 500, 1000, 2000, 5000, 10000) if low <= each <= high]
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.set_title(NAMES.get(name, name))
        axes.set_xlabel("training images")
        axes.set_ylabel("top-1 on the evaluation images, %")
        axes.grid(alpha=0.3)
    handles, labels = max((axes.get_legend_handles_labels() for axes in panels), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    save_figure(figure, path, dpi=110)
