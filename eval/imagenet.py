"""Evaluates the manifest's ImageNet checkpoints on a user's copy of ImageNet and compares with published accuracies.

Each checkpoint is downloaded, converted and evaluated with its own preprocessing, as by ``python -m eval accuracy``,
into ``results/imagenet.csv``.
"""

import argparse
import shlex

import pandas as pd

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object
from timm_gcp.text import markdown_table
from timm_gcp.weights.manifest import MANIFEST, Checkpoint, read_manifest

from .accuracy import evaluate
from .record import RESULTS, read_table


def main(argv: list[str]) -> None:
    """Runs the command ``imagenet``."""
    parser = argparse.ArgumentParser(prog="python -m eval imagenet", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", required=True, help="ImageNet-1k, with a folder of classes under --split")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="rows of the manifest (default: all)")
    parser.add_argument("--manifest", type=path_object, default=MANIFEST)
    parser.add_argument("--results", type=path_object, default=RESULTS, help="folder of the results (%(default)s)")
    args, others = parser.parse_known_args(argv)
    rows = chosen(read_manifest(args.manifest), args.models)
    given = ["--data-dir", args.data_dir, "--split", args.split, *others]
    results = args.results / "imagenet.csv"
    evaluate([row.name for row in rows], given, results)
    measured = read_table(results)
    print(comparison(rows, measured[measured["arguments"] == shlex.join(given)]))


def chosen(rows: dict[str, Checkpoint], names: list[str]) -> list[Checkpoint]:
    """The rows to evaluate: those named, or all of 1000 classes.

    Raises:
        GCPError: a name is not in the manifest, or there is nothing to evaluate.
    """
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise GCPError(f"The manifest has no '{unknown[0]}'; it has {', '.join(rows)}.")
    picked = [rows[name] for name in names] or [row for row in rows.values() if row.num_classes == 1000]
    if not picked:
        raise GCPError("The manifest has no checkpoint of 1000 classes; name some with --models.")
    return picked


def comparison(rows: list[Checkpoint], measured: pd.DataFrame) -> str:
    """Markdown: the measured accuracies beside those that the authors published.

    Args:
        rows: rows of the manifest.
        measured: rows of ``imagenet.csv``, one for each of them.
    """
    lines = []
    by_name = measured.set_index("weights")
    for row in rows:
        top1, top5, count = by_name.loc[row.name, ["top1", "top5", "count"]]
        printed = next((float(m["top1"]) for m in row.metrics if m.get("by") == "upstream"), None)
        theirs = ("–", "–") if printed is None else (f"{printed:.2f}", f"{top1 - printed:+.2f}")
        lines.append((row.name, f"{top1:.2f}", f"{top5:.2f}", *theirs, f"{count:.0f}"))
    return markdown_table(("checkpoint", "top-1", "top-5", "authors' top-1", "difference", "images"), lines)
