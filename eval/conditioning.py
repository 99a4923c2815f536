"""How well-conditioned the covariances of training runs are, against the learning rate: the paper's figure.

Reads the ``summary.csv`` of runs of ``timm-gcp train``: per epoch the medians of κ (largest over smallest kept
eigenvalue of Σ), of its rank, and of the share of eigenvalues under eps beyond those that M < C makes zero.
"""

import argparse
import itertools
import math
from pathlib import Path

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object
from timm_gcp.plots import new_figure, save_figure

from .record import provenance, read_rows, write_rows

QUANTITIES = (("kappa", "κ of Σ"), ("rank", "rank of Σ"), ("under_eps", "share of eigenvalues under eps"))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m eval conditioning", description=__doc__.split("\n")[0])
    parser.add_argument(
        "runs", type=path_object, nargs="+", metavar="RUN", help="run folders (those with a summary.csv)"
    )
    parser.add_argument("--results", type=path_object, default=Path(__file__).parent / "results")
    args = parser.parse_args(argv)
    courses = {run.name: course(run) for run in args.runs}
    args.results.mkdir(parents=True, exist_ok=True)
    rows = [{"run": name, **row, **provenance()} for name, found in courses.items() for row in found]
    write_rows(args.results / "conditioning.csv", rows)
    draw(courses, args.results / "conditioning.png")
    for name, found in courses.items():
        first, last = found[0], found[-1]
        print(
            f"{name}: {len(found)} epochs, κ {first['kappa']:.3g} in epoch {first['epoch']} ({first['method']}), "
            f"{last['kappa']:.3g} in epoch {last['epoch']} ({last['method']})."
        )
    print(f"Written: {args.results / 'conditioning.csv'} and {args.results / 'conditioning.png'}.")


def course(run: Path) -> list[dict[str, float | str]]:
    """The epochs of a run that were measured.

    Raises:
        GCPError: no summary, or one without conditioning.
    """
    rows = read_rows(run / "summary.csv")
    if not rows:
        raise GCPError(f"{run} has no summary.csv; give the folders that timm-gcp train wrote.")
    found: list[dict[str, float | str]] = []
    for row in rows:
        if row.get("kappa"):
            values: dict[str, float | str] = {key: float(row[key] or math.nan) for key, _ in QUANTITIES}
            found.append({"epoch": int(row["epoch"]), "lr": float(row["lr"]), "method": row["method"], **values})
    if not found:
        raise GCPError(f"{run} was trained without covariance pooling or with --monitor-every 0: nothing was measured.")
    return found


def draw(courses: dict[str, list[dict[str, float | str]]], out: Path) -> None:
    """κ, rank and the share under eps: over the epochs above, against the learning rate below."""
    figure = new_figure(figsize=(14, 8), layout="constrained")
    axes = figure.subplots(2, len(QUANTITIES))
    for column, (key, label) in enumerate(QUANTITIES):
        for index, (name, rows) in enumerate(courses.items()):
            values = [row[key] for row in rows]
            axes[0][column].plot([r["epoch"] for r in rows], values, marker=".", color=f"C{index % 10}", label=name)
            axes[1][column].plot([r["lr"] for r in rows], values, marker=".", color=f"C{index % 10}", label=name)
            changes = (r["epoch"] for p, r in itertools.pairwise(rows) if p["method"] != r["method"])
            switch = next(changes, None)
            if switch is not None:
                axes[0][column].axvline(float(switch) - 0.5, ls="--", lw=0.8, color=f"C{index % 10}")
        axes[0][column].set_xlabel("epoch (dashed: the method switches)")
        axes[1][column].set_xlabel("learning rate (a run goes from right to left)")
        axes[1][column].set_xscale("log")
        for row in range(2):
            axes[row][column].set_ylabel(label)
            axes[row][column].grid(alpha=0.3)
            if key == "kappa":
                axes[row][column].set_yscale("log")
            else:
                axes[row][column].set_ylim(bottom=0, top=1 if key == "under_eps" else None)
    axes[0][0].legend(fontsize=8)
    save_figure(figure, out, dpi=110)
