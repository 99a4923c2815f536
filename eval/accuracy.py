"""Evaluates several models or model folders on one data set, into one CSV file in the format of timm's results.

Every model is evaluated by ``timm-gcp validate`` in its own process, with its own preprocessing, several in parallel
with ``--jobs``; unknown options are passed to that command. Models that have a row already are skipped.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object
from timm_gcp.text import markdown_table

from .record import append_row, provenance, read_cells


def main(argv: list[str]) -> None:
    """Runs the command ``accuracy``."""
    parser = argparse.ArgumentParser(
        prog="python -m eval accuracy",
        description=__doc__.split("\n")[0],
        epilog="Further options are those of timm-gcp validate: --dataset, --data-dir, --split, --tta, …",
    )
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME", help="registered names or model folders")
    parser.add_argument("--results", type=path_object, default=Path(__file__).parent / "results" / "accuracy.csv")
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
        jobs: number of models evaluated in parallel.

    Raises:
        GCPError: a model could not be evaluated; the rows of the others are written.
    """
    arguments = shlex.join(given)
    rows = read_cells(results, ("arguments", "weights"))
    finished = set(rows["weights"][rows["arguments"] == arguments])
    left = [model for model in dict.fromkeys(models) if model not in finished]
    results.parent.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        runs = {pool.submit(_validate, model, given): model for model in left}
        for run in tqdm(as_completed(runs), total=len(runs), desc="models", disable=not sys.stderr.isatty()):
            done = run.result()
            if isinstance(done, str):
                failed.append(f"{runs[run]} ({done})")
            else:
                append_row(results, {**_line(done), "arguments": arguments, **provenance()})
    if failed:
        raise GCPError(f"Not evaluated: {'; '.join(failed)}. The rows of the other models are in {results}.")


def _validate(model: str, given: Sequence[str]) -> dict[str, object] | str:
    """The result of one model, or the error message of ``timm-gcp validate``."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        command = [sys.executable, "-m", "timm_gcp", "validate", "--model", model, *given]
        done = subprocess.run([*command, "--results-file", str(result)], capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            return said[-1].removeprefix("timm-gcp: error: ").rstrip(".") if said else f"exit status {done.returncode}"
        return json.loads(result.read_text())


def _line(result: dict[str, object]) -> dict[str, object]:
    """The row of a result: the columns of timm's results, then ours."""
    top1, top5 = (float(str(result[key])) for key in ("top1", "top5"))
    return {
        "model": result["model"],
        "top1": round(top1, 3),
        "top1_err": round(100 - top1, 3),
        "top5": round(top5, 3),
        "top5_err": round(100 - top5, 3),
        "param_count": round(int(str(result["parameters"])) / 1e6, 2),
        "img_size": result["img_size"],
        "crop_pct": result["crop_pct"],
        "interpolation": result["interpolation"],
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
