"""Fine-tunes a pretrained EfficientNet-Lite0 with every pooling head, on Stanford Cars and on the Grocery Store data.

The same epochs, augmentation, batches and order for all heads: recipe ``finetune``, 12 epochs, random crops and mirror
images. The learning rates are chosen on the validation part of Cars, in runs as long as the final ones: one for average
pooling and one for covariance heads, each from a fresh head, with all training images, and from the head of a probe on
the frozen backbone, with 5 images per class. Final runs train on the training part, and each is evaluated on the test
part once, with the weights of the last epoch.

Every run is a ``timm-gcp train`` and adds one row to ``finetune.csv`` when it is finished. Started again, the command
continues where it stopped. Stages: 1 and 2 the search; 3 and 4 the main heads on Cars and on Grocery; 5 and 6 two
further seeds of average pooling and of `isqrt`; 7 few images, 5 and 10 per class; 8 two further seeds of these; 9 the
moment of the switch, on validation; 10 all heads on 10 images per class of Grocery; 11 and 12 further heads and options
with all images.
"""

import argparse
import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object

from .finetune_runs import search_results
from .finetune_settings import EPOCHS, HEADS, KEY, SETS, TABLE, Run, stages
from .folds import write_subset
from .record import RESULTS, append_row, provenance, read_cells, read_table
from .training_runs import Workers, missing_runs, raise_failures, train_in_parallel


def main(argv: list[str]) -> None:
    """Runs the command ``finetune``."""
    parser = argparse.ArgumentParser(prog="python -m eval finetune", description=__doc__.split("\n")[0])
    add_sets(parser)
    parser.add_argument(
        "--weights", type=path_object, required=True, metavar="FILE", help="ImageNet weights of tf_efficientnet_lite0"
    )
    parser.add_argument("--work", type=path_object, default=Path("runs/finetune"), help="folder of runs (%(default)s)")
    parser.add_argument("--results", type=path_object, default=RESULTS, help="folder of the results (%(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of a run (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs in parallel (%(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images, per run (%(default)s)")
    parser.add_argument("--device", default="cpu", help="of the runs (%(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after this time")
    parser.add_argument("--stage", type=int, nargs="+", help="only these stages (default: all in turn)")
    parser.add_argument("--heads", nargs="+", choices=HEADS, metavar="HEAD", help="only these heads")
    args = parser.parse_args(argv)
    sets = sets_of(args)
    loading = ("--device", args.device, "--workers", str(args.workers), *precision(args.device))
    Experiment(sets, args.weights, args.work, args.results, args.jobs, loading, args.minutes).run(
        args.stage, args.heads or tuple(HEADS), args.epochs
    )


def add_sets(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name the folders of the data sets."""
    for name in SETS:
        parser.add_argument(f"--{name}", type=path_object, metavar="DIR", help=f"folder of the {name} data set")


def sets_of(args: argparse.Namespace) -> dict[str, Path]:
    """The data sets that were given → their folders.

    Raises:
        GCPError: a folder without ``train.txt``.
    """
    sets = {name: folder for name in SETS if (folder := getattr(args, name)) is not None}
    for name, folder in sets.items():
        if not (folder / "train.txt").is_file():
            raise GCPError(f"No train.txt in {folder}; --{name} takes the folder of that data set.")
    return sets


def data_of(run: Run, source: Path, work: Path) -> Path:
    """The folder with the list that a run trains on; a list of a part of the images is written.

    Args:
        run: the run.
        source: folder of its data set.
        work: folder of the runs.
    """
    return source if run.images is None else write_subset(source, work / "subsets" / run.set, run.images)


def checkpoint_of(run: Run, work: Path) -> Path:
    """The checkpoint of a run after its last epoch."""
    return work / run.name / "last.pth.tar"


def precision(device: str) -> tuple[str, ...]:
    """Arguments of ``timm-gcp`` for the precision and memory layout in which a device is fast."""
    if device.startswith("cuda"):
        return ("--amp", "--amp-dtype", "bfloat16", "--channels-last")
    return ("--channels-last",)  # depthwise convolutions in bfloat16 are slow on a CPU


@dataclass(frozen=True)
class Experiment:
    """The experiment on one copy of the data.

    Attributes:
        sets: data set → folder; runs on the other data sets are left out.
        weights: ImageNet weights of the backbone.
        work: folder of the runs.
        results: folder of ``finetune.csv``.
        jobs: number of runs in parallel.
        loading: arguments of ``timm-gcp`` about the machine.
        minutes: no run is started after this time.
    """

    sets: dict[str, Path]
    weights: Path
    work: Path
    results: Path
    jobs: int
    loading: tuple[str, ...]
    minutes: float

    def run(self, chosen: Sequence[int] | None, heads: Sequence[str], epochs: int) -> None:
        """Trains what the stages still lack.

        Args:
            chosen: stages; None for all.
            heads: the other heads are left out.
            epochs: of a run.

        Raises:
            GCPError: a run failed; the others have been trained.
        """
        self.results.mkdir(parents=True, exist_ok=True)
        workers = Workers(self.jobs)
        stop = time.monotonic() + 60 * self.minutes
        done: set[int] = set()
        failed: list[GCPError] = []
        while left := {number: runs for number, runs in self.plan(epochs).items() if number not in done}:
            done |= set(left)
            planned = (run for number, runs in left.items() if not chosen or number in chosen for run in runs)
            wanted = [run for run in planned if run.set in self.sets and run.head in heads]
            missing = missing_runs(wanted, self.results / TABLE, KEY)
            failed += train_in_parallel(missing, partial(self.train, workers, stop), self.record, self.jobs)
        workers.close()
        raise_failures(failed)
        if unplanned := set(chosen or ()) - done:
            raise GCPError(
                f"Stage {min(unplanned)} needs the learning rates that stages 1 and 2 find; run these first."
            )

    def plan(self, epochs: int) -> dict[int, list[Run]]:
        """The stages that can be planned with the results that there are."""
        planned = stages(search_results(read_table(self.results / TABLE, (*KEY, "top1")), epochs))
        return {number: [replace(run, epochs=epochs) for run in runs] for number, runs in planned.items()}

    def record(self, run: Run, row: dict[str, Any] | None) -> str:
        """Adds the row of a run to the table; returns a line for the user."""
        if row is None:
            return f"{run.name}: not started, the time is over"
        append_row(self.results / TABLE, row)
        return f"{run.name}: {run.part} {row['top1']}, {row['seconds']} s"

    def train(self, workers: Workers, stop: float, run: Run) -> dict[str, Any] | None:
        """Trains, resumed if the run was interrupted, then evaluates once.

        Args:
            workers: that run the commands.
            stop: time of the monotonic clock after which no run is started.
            run: what to train.

        Returns:
            The run's row; None where the time is over.
        """
        if time.monotonic() > stop:
            return None
        source, folder = self.sets[run.set], self.work / run.name
        data = data_of(run, source, self.work)
        log = self.work / f"{run.name}.log"
        command = run.command(data, self.weights, self.work, *self.loading)
        if not (folder / "result.json").exists():
            workers.run([*command, "--resume", "auto"], log)
        out = folder / f"{run.part}.json"
        if not out.exists():
            evaluate = ["validate", "--checkpoint", str(checkpoint_of(run, self.work)), "--dataset", SETS[run.set]]
            evaluate += ["--data-dir", str(source), "--split", run.part, "-b", "128", *self.loading]
            workers.run([*evaluate, "--results-file", str(out)], log)
        result, found = json.loads((folder / "result.json").read_text()), json.loads(out.read_text())
        epochs = read_cells(folder / "summary.csv")
        shown = shlex.join(command)
        for path, name in ((data, "DATA"), (self.work, "RUNS"), (self.weights, "WEIGHTS")):
            shown = shown.replace(str(path), name)
        return {
            **dict(zip(KEY, run.key, strict=True)),
            **{name: round(float(found[name]), 2) for name in ("top1", "top5")},
            "loss": round(float(found["loss"]), 4),
            "count": found["count"],
            "train_loss": round(float(epochs.iloc[-1]["train_loss"]), 4),
            "kappa": epochs.iloc[-1].get("kappa", ""),
            "parameters": result["parameters"],
            "seconds": round(epochs["seconds"].astype(float).sum()),
            **provenance(),
            "command": f"timm-gcp {shown}",
        }
