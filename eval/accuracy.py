"""Evaluates a list of models or model folders on one data set, into one CSV in the format of timm's results.

Every model is evaluated by ``timm-gcp validate`` in a process of its own, with its own preprocessing, several at a time
with ``--jobs``; what follows the options goes to that command. Finished lines are not repeated.
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

from .record import append_row, provenance, read_cells


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m eval accuracy",
        description=__doc__.split("\n")[0],
        epilog="Further options are those of timm-gcp validate: --dataset, --data-dir, --split, --tta, …",
    )
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME", help="registered names or model folders")
    parser.add_argument("--results", type=path_object, default=Path(__file__).parent / "results" / "accuracy.csv")
    parser.add_argument("--jobs", type=int, default=1, help="models evaluated at a time (%(default)s)")
    args, given = parser.parse_known_args(argv)
    evaluate(args.models, given, args.results, args.jobs)
    rows = read_cells(args.results)
    print(table(rows[rows["arguments"] == shlex.join(given)]))


def evaluate(models: Sequence[str], given: Sequence[str], results: Path, jobs: int = 1) -> None:
    """Adds a line for every model that has none yet with these arguments.

    Args:
        models: what ``timm-gcp validate --model`` takes.
        given: further arguments of that command.
        results: the CSV file.
        jobs: how many at a time.

    Raises:
        GCPError: a model that could not be evaluated; the lines of the others are kept.
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
        raise GCPError(f"Not evaluated: {'; '.join(failed)}. The other models have their lines in {results}.")


def _validate(model: str, given: Sequence[str]) -> dict[str, object] | str:
    """The result of one model, or what ``timm-gcp validate`` said."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        command = [sys.executable, "-m", "timm_gcp", "validate", "--model", model, *given]
        done = subprocess.run([*command, "--results-file", str(result)], capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            return said[-1].removeprefix("timm-gcp: error: ").rstrip(".") if said else f"exit status {done.returncode}"
        return json.loads(result.read_text())


def _line(result: dict[str, object]) -> dict[str, object]:
    """timm's columns, then ours."""
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
    lines = [
        f"| {row['weights']} | {row['method']} | {float(row['top1']):.2f} | {float(row['top5']):.2f} | "
        f"{row['param_count']} | {row['img_size']} | {row['count']} |"
        for row in ordered.to_dict("records")
    ]
    return "\n".join(["| model | method | top-1 | top-5 | M parameters | px | images |", "|---" * 7 + "|", *lines])
