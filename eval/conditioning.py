"""Plots the conditioning of the covariances of training runs against the learning rate, as the paper does.

Reads the ``summary.csv`` of runs of ``timm-gcp train``, which has for each epoch the medians of κ (largest over
smallest kept eigenvalue of Σ), of the rank of Σ, and of the share of eigenvalues below eps, without those that are zero
because M < C.
"""

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object
from timm_gcp.plots import new_figure, save_figure

from .record import RESULTS, provenance, read_table, write_table

QUANTITIES = {"kappa": "κ of Σ", "rank": "rank of Σ", "under_eps": "share of eigenvalues below eps"}


def main(argv: list[str]) -> None:
    """Runs the command ``conditioning``."""
    parser = argparse.ArgumentParser(prog="python -m eval conditioning", description=__doc__.split("\n")[0])
    parser.add_argument(
        "runs", type=path_object, nargs="+", metavar="RUN", help="run folders (those with a summary.csv)"
    )
    parser.add_argument("--results", type=path_object, default=RESULTS, help="folder of the results (%(default)s)")
    args = parser.parse_args(argv)
    runs = list(dict.fromkeys(args.runs))
    names = Counter(run.name for run in runs)
    epochs = {run.name if names[run.name] == 1 else str(run): monitored_epochs(run) for run in runs}
    args.results.mkdir(parents=True, exist_ok=True)
    table = pd.concat(epochs, names=["run"]).reset_index(level="run").assign(**provenance())
    write_table(args.results / "conditioning.csv", table)
    draw(epochs, args.results / "conditioning.png")
    for name, own in epochs.items():
        first, last = own.iloc[0], own.iloc[-1]
        print(
            f"{name}: {len(own)} epochs, κ {first['kappa']:.3g} in epoch {first['epoch']} ({first['method']}), "
            f"{last['kappa']:.3g} in epoch {last['epoch']} ({last['method']})."
        )
    print(f"Written: {args.results / 'conditioning.csv'} and {args.results / 'conditioning.png'}.")


def monitored_epochs(run: Path) -> pd.DataFrame:
    """The epochs of a run in which the conditioning was measured.

    Args:
        run: folder of a run of ``timm-gcp train``.

    Returns:
        Columns ``epoch``, ``lr``, ``method`` and those of `QUANTITIES`.

    Raises:
        GCPError: there is no summary, or one without conditioning.
    """
    summary = read_table(run / "summary.csv")
    if summary.empty:
        raise GCPError(f"{run} has no summary.csv; give the folders that timm-gcp train wrote.")
    found = summary.reindex(columns=["epoch", "lr", "method", *QUANTITIES]).dropna(subset="kappa")
    if found.empty:
        raise GCPError(f"{run} was trained without covariance pooling or with --monitor-every 0: nothing was measured.")
    return found.astype(dict.fromkeys(QUANTITIES, float))


def draw(epochs: Mapping[str, pd.DataFrame], out: Path) -> None:
    """κ, rank and share below eps of every run: by epoch in the first row, against the learning rate in the second."""
    figure = new_figure(figsize=(14, 8), layout="constrained")
    axes = figure.subplots(2, len(QUANTITIES))
    for (above, below), (key, label) in zip(axes.T, QUANTITIES.items(), strict=True):
        for index, (name, own) in enumerate(epochs.items()):
            above.plot(own["epoch"], own[key], marker=".", color=f"C{index % 10}", label=name)
            below.plot(own["lr"], own[key], marker=".", color=f"C{index % 10}", label=name)
            switched = own["epoch"][own["method"] != own["method"].shift()].iloc[1:2]
            for epoch in switched:
                above.axvline(epoch - 0.5, ls="--", lw=0.8, color=f"C{index % 10}")
        above.set_xlabel("epoch (dashed: the method switches)")
        below.set_xlabel("learning rate (a run goes from right to left)")
        below.set_xscale("log")
        for panel in (above, below):
            panel.set_ylabel(label)
            panel.grid(alpha=0.3)
            if key == "kappa":
                panel.set_yscale("log")
            else:
                panel.set_ylim(bottom=0, top=1 if key == "under_eps" else None)
    axes[0][0].legend(fontsize=8)
    save_figure(figure, out, dpi=110)
