"""Fits classifiers anew to the frozen features of fine-tuned networks: on the mean of the map, and with the covariance.

The networks are the finished runs of ``python -m eval finetune`` that were evaluated on a test part. The classifiers
are fitted to the images that the network was trained on, with the default settings of ``timm-gcp probe``, and evaluated
on the same test part. Runs that have a row already are skipped.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object
from timm_gcp.probing.cache import store_features
from timm_gcp.probing.fits import Fits
from timm_gcp.text import markdown_table

from .finetune import add_sets, checkpoint_of, data_of, sets_of
from .finetune_settings import EPOCHS, KEY, SETS, Run
from .finetune_settings import TABLE as RUNS
from .intervals import difference_over_images
from .probe import inputs_of
from .probe_images import HEADS, NAMES
from .record import RESULTS, append_row, provenance, read_cells, read_table

TABLE = "refit.csv"
"""Name of the file with a row for every network."""

_MEAN, _BOTH = HEADS


def main(argv: list[str]) -> None:
    """Runs the command ``refit``."""
    parser = argparse.ArgumentParser(prog="python -m eval refit", description=__doc__.split("\n")[0])
    add_sets(parser)
    parser.add_argument("--work", type=path_object, default=Path("runs/finetune"), help="folder of runs (%(default)s)")
    parser.add_argument("--results", type=path_object, default=RESULTS, help="folder of the results (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where the features are computed (%(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images (%(default)s)")
    args = parser.parse_args(argv)
    sets = sets_of(args)
    done = set(read_cells(args.results / TABLE, KEY)[list(KEY)].itertuples(index=False, name=None))
    runs = [run for run in _runs(args.results) if run.set in sets and checkpoint_of(run, args.work).is_file()]
    if not runs:
        raise GCPError(f"{args.work} has no checkpoint of a run in {args.results / RUNS}; give --work and the data.")
    for run in runs:
        if run.key not in done:
            loading = ("--device", args.device, "--workers", str(args.workers), "--channels-last")
            row = measure(run, sets[run.set], args.work, loading)
            append_row(args.results / TABLE, row)


def _runs(results: Path) -> list[Run]:
    """The runs of full length that have a result on a test part."""
    rows = read_table(results / RUNS, KEY)
    rows = rows[(rows["part"] == "test") & (rows["epochs"] == EPOCHS)]
    return [
        Run(row.set, row.part, row.head, row.lr, int(row.seed), None if pd.isna(row.images) else int(row.images))
        for row in rows.itertuples()
    ]


def measure(run: Run, source: Path, work: Path, loading: tuple[str, ...]) -> dict[str, Any]:
    """Fits both classifiers to the features of a network, and evaluates them.

    Args:
        run: that trained the network.
        source: folder of its data set.
        work: folder of the runs.
        loading: arguments of ``timm-gcp probe`` about the machine.

    Returns:
        The row of the network.
    """
    given = [
        *("--checkpoint", str(checkpoint_of(run, work)), "--dataset", SETS[run.set]),
        *("--data-dir", str(data_of(run, source, work))),
        *("--train-split", run.split, "--val-split", run.part, "--no-check-images", *loading),
    ]
    backbone, train, evaluation = inputs_of(given)
    cache = work / "refit-cache"
    trained, evaluated = store_features(backbone, train, evaluation, cache, backbone.options.components)[1:]
    fits = Fits(trained, evaluated, train.num_classes, "ridge", print)
    for head in HEADS:
        fits.fit(head.head)
    mean, both = fits.results
    assert mean.validation is not None
    assert both.validation is not None
    return {
        **dict(zip(KEY, run.key, strict=True)),
        "top1_mean": round(mean.validation, 2),
        "top1_both": round(both.validation, 2),
        "seconds": both.seconds,
        **provenance(),
    }


def section(results: Path) -> str:
    """The table as Markdown.

    Args:
        results: folder with ``refit.csv`` and ``finetune.csv``.
    """
    own = read_table(results / RUNS)
    rows = read_table(results / TABLE).merge(own[[*KEY, "top1", "count"]], on=list(KEY))
    lines = []
    for row in rows.sort_values(list(KEY)).itertuples():
        gain = difference_over_images(row.top1_both, row.top1, int(row.count))
        images = "all" if pd.isna(row.images) else f"{row.images:.0f}"
        run = (NAMES[row.set], images, f"`{row.head}`", f"{row.lr:g}", f"{row.seed:.0f}")
        scores = (f"{value:.1f}" for value in (row.top1, row.top1_mean, row.top1_both))
        lines.append((*run, *scores, f"{gain}, {gain.verdict()}"))
    titles = (
        *("data", "images per class", "network", "lr", "seed"),
        *("its own classifier", f"{_MEAN.value}, ridge", f"{_BOTH.value}, ridge", "minus its own"),
    )
    return markdown_table(titles, lines)
