"""Evaluates several models or model folders on one data set, into one CSV file in the format of timm's results.

Every model is evaluated as by ``timm-gcp validate``, with its own preprocessing, several in parallel with ``--jobs``;
unknown options are those of that command. Models that have a row already are skipped.
"""

import argparse
import contextlib
import io
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object
from timm_gcp.commands.validate import parse_validate_args, validate
from timm_gcp.text import first_line, markdown_table

from .record import RESULTS, append_row, provenance, read_cells


def main(argv: list[str]) -> None:
    """Runs the command ``accuracy``."""
    parser = argparse.ArgumentParser(
        prog="python -m eval accuracy",
        description=__doc__.split("\n")[0],
        epilog="Further options are those of timm-gcp validate: --dataset, --data-dir, --split, --tta, …",
    )
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME", help="registered names or model folders")
    parser.add_argument("--results", type=path_object, default=RESULTS / "accuracy.csv", help="file (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="models evaluated in parallel (%(default)s)")
    args, given = parser.parse_known_args(argv)
    evaluate(args.models, given, args.results, args.jobs)
    rows = read_cells(args.results)
    print(table(rows[rows["arguments"] == shlex.join(given)]))


def evaluate(models: Sequence[str], given: Sequence[str], results: Path, jobs: int = 1) -> None:
    """Adds a row for every model that has none yet with these arguments.

    Args:
        models: values of ``timm-gcp validate --model``.
        given: further arguments of that command.
        results: the CSV file.
        jobs: number of processes.

    Raises:
        GCPError: the arguments are wrong, or a model could not be evaluated; the rows of the others are written.
    """
    arguments = shlex.join(given)
    rows = read_cells(results, ("arguments", "weights"))
    finished = set(rows["weights"][rows["arguments"] == arguments])
    missing = [model for model in dict.fromkeys(models) if model not in finished]
    parsed = {model: parse_validate_args(["--model", model, *given]) for model in missing}
    results.parent.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    # Spawned, not forked: a process that has used a GPU cannot be forked.
    with ProcessPoolExecutor(max(1, jobs), mp_context=get_context("spawn")) as pool:
        runs = {pool.submit(_evaluate, args): model for model, args in parsed.items()}
        for run in tqdm(as_completed(runs), total=len(runs), desc="models", disable=not sys.stderr.isatty()):
            try:
                append_row(results, {**_row(run.result()), "arguments": arguments, **provenance()})
            except Exception as error:  # any error of one model: the others are evaluated all the same
                failed.append(f"{runs[run]} ({first_line(error)})")
    if failed:
        raise GCPError(f"Not evaluated: {'; '.join(failed)}. The rows of the other models are in {results}.")


def _evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """The result of one model, without messages and progress bars of its own."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return validate(args).row


def _row(result: Mapping[str, Any]) -> dict[str, object]:
    """The row of a result: the columns of timm's results, then ours."""
    top1, top5 = result["top1"], result["top5"]
    return {
        "model": result["model"],
        "top1": round(top1, 3),
        "top1_err": round(100 - top1, 3),
        "top5": round(top5, 3),
        "top5_err": round(100 - top5, 3),
        "param_count": round(result["parameters"] / 1e6, 2),
        **{key: result[key] for key in ("img_size", "crop_pct", "interpolation")},
        **{key: result[key] for key in ("weights", "method", "dataset", "split", "tta", "count")},
    }


def table(rows: pd.DataFrame) -> str:
    """Markdown, best first.

    Args:
        rows: cells of the results file (`read_cells`).
    """
    ordered = rows.sort_values("top1", key=lambda cells: -cells.astype(float), kind="stable")
    ordered = ordered.assign(**{name: ordered[name].astype(float).map("{:.2f}".format) for name in ("top1", "top5")})
    columns = ["weights", "method", "top1", "top5", "param_count", "img_size", "count"]
    titles = ("model", "method", "top-1", "top-5", "M parameters", "px", "images")
    return markdown_table(titles, ordered[columns].to_numpy())
