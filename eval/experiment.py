"""Trains every pooling head from scratch on the Grocery Store photographs, in stages.

One small backbone (timm's ``test_resnet``), with the same stride, data order, augmentation (timm's default), schedule
and number of epochs for every head. The learning rates of average pooling and of the covariance heads are chosen on a
fold of the training part (`eval.folds`), and so is the method that is compared with average pooling. Final runs train
on the whole training part for a fixed number of epochs, and each is evaluated on the test part once, with the weights
of the last epoch. The test part was photographed in other shops. Stage 7 trains on the half of the training part that
the search held out and evaluates on the other half: photographs of the same shops, on which nothing was chosen. Stages
8 and 9 compare average pooling with the chosen method on backbones of other families, with their own learning rates.
Stages 10 to 12 compare the kinds of reduction on a ViT, a ResNet and a ConvNeXt.

Every run is a ``timm-gcp train`` in its own process and adds one row to ``experiment.csv`` when it is finished. Started
again, the command continues where it stopped. The hybrid runs of one seed are identical up to the switch, bit for bit
(an epoch's random numbers depend on the seed and the epoch only): that part is trained once, and the other hybrids
start from its checkpoint.
"""

import argparse
import json
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object

from .experiment_settings import (
    BACKBONE,
    BACKBONES,
    BASE_HYBRID,
    CANDIDATES,
    EPOCHS,
    FRESH_FOLD,
    HEADS,
    KEY,
    OTHERS,
    REDUCED,
    REDUCING,
    SAME_SHOPS,
    SEARCH_FOLDS,
    SEARCHED,
    SEEDS,
    STAGES,
    Run,
)
from .folds import write_folds
from .rate_search import rate_of, with_neighbours
from .record import RESULTS, append_row, provenance, read_cells, write_table
from .training_runs import missing_runs, raise_failures, run_command, train_in_parallel

CURVES = ("epoch", "lr", "method", "train_top1", "eval_top1", "kappa", "rank", "under_eps")
"""Columns of a run's summary that are kept for the report."""

LATER = (*STAGES, *OTHERS, *REDUCING)
"""The stages after the first."""


def main(argv: list[str]) -> None:
    """Runs the command ``experiment``."""
    parser = argparse.ArgumentParser(prog="python -m eval experiment", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data-dir", type=path_object, required=True, help="the grocery data set (folder with train.txt)"
    )
    parser.add_argument(
        "--work", type=path_object, default=Path("runs/experiment"), help="folder for the runs (%(default)s)"
    )
    parser.add_argument("--results", type=path_object, default=RESULTS, help="folder of the results (%(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of a run (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs in parallel, one thread each")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds of the final runs (%(default)s)")
    parser.add_argument("--heads", nargs="+", choices=HEADS, metavar="HEAD", help="only these heads of the stage")
    parser.add_argument("--stage", type=int, choices=(1, *LATER), help="only this stage (default: all in turn)")
    args = parser.parse_args(argv)
    if not (args.data_dir / "train.txt").is_file():
        raise GCPError(f"No train.txt in {args.data_dir}; --data-dir takes the folder of the grocery data set.")
    experiment = Experiment(args.data_dir, args.work, args.results, args.epochs, args.jobs)
    for stage in [args.stage] if args.stage else (1, *LATER):
        experiment.run_stage(stage, args.seeds, args.heads or tuple(HEADS))


@dataclass(frozen=True)
class Experiment:
    """The experiment on one copy of the data.

    Attributes:
        data: folder of the grocery data set.
        work: folder for the runs.
        results: folder of ``experiment.csv`` and ``experiment_curves.csv``.
        epochs: epochs of a run.
        jobs: number of runs in parallel.
    """

    data: Path
    work: Path
    results: Path
    epochs: int
    jobs: int

    def run_stage(self, stage: int, seeds: Sequence[int], heads: Sequence[str]) -> None:
        """Trains what a stage still lacks.

        Args:
            stage: 1 (the search), or one of `LATER`.
            seeds: of the final runs.
            heads: the stage's other heads are left out.
        """
        if stage == 1:
            rate = self.search(BACKBONE, BACKBONES[BACKBONE].rates)["isqrt"]
            self.train_all(self._on_folds(BACKBONE, ((head, rate) for head in CANDIDATES)))
            return
        backbone, fold = {**OTHERS, **REDUCING}.get(stage, BACKBONE), FRESH_FOLD if stage == SAME_SHOPS else None
        if stage in OTHERS:
            rates = self.search(backbone, BACKBONES[backbone].rates)
        elif stage in REDUCING:
            rates = self.search(backbone, (rate_of(self.results, "isqrt", self.epochs, backbone),), tuple(REDUCED))
        else:
            rates = {head: rate_of(self.results, head, self.epochs) for head in STAGES[stage] if head in heads}
        chosen = [head for head in rates if head in heads]
        self.train_all(Run(h, rates[h], seed, self.epochs, fold, backbone) for seed in seeds for h in chosen)

    def search(self, backbone: str, first: Iterable[float], heads: Sequence[str] = SEARCHED) -> dict[str, float]:
        """Tries learning rates on the folds until the best one has been tried between two others.

        The runs are as long as the final ones: fewer epochs would favour larger rates.

        Args:
            backbone: a key of `BACKBONES`.
            first: the rates that are tried first.
            heads: those searched for.

        Returns:
            The learning rate of each head.
        """
        limits = BACKBONES[backbone].limits
        rates = {head: set(first) for head in heads}
        while True:
            tried = ((head, rate) for head in heads for rate in sorted(rates[head]))
            self.train_all(self._on_folds(backbone, tried))
            best = {head: rate_of(self.results, head, self.epochs, backbone) for head in heads}
            grown = {head: with_neighbours(rates[head], best[head], limits) for head in heads}
            if grown == rates:
                return best
            rates = grown

    def _on_folds(self, backbone: str, settings: Iterable[tuple[str, float]]) -> list[Run]:
        return [Run(head, rate, 0, self.epochs, fold, backbone) for head, rate in settings for fold in SEARCH_FOLDS]

    def train_all(self, runs: Iterable[Run]) -> None:
        """Trains the runs that have no row yet, several in parallel."""
        table = self.results / "experiment.csv"
        self.results.mkdir(parents=True, exist_ok=True)
        missing = missing_runs(runs, table, KEY)

        def record(run: Run, result: tuple[dict[str, object], pd.DataFrame]) -> str:
            row, curves = result
            if not curves.empty:
                write_curves(self.results / "experiment_curves.csv", curves)
            append_row(table, row)
            return f"{run.name}: validation {row['eval_top1']}, {run.held_out} {row['held_top1']}"

        raise_failures(train_in_parallel(missing, lambda run: train(run, self.data, self.work), record, self.jobs))


def write_curves(path: Path, curves: pd.DataFrame) -> None:
    """Adds a run's epochs, replacing those that an interrupted command may have written for the same run."""
    before = read_cells(path, curves.columns)
    run = ["backbone", "head", "seed"]
    write_table(path, pd.concat([before[(before[run] != curves.iloc[0][run]).any(axis=1)], curves]))


def train(run: Run, source: Path, work: Path) -> tuple[dict[str, object], pd.DataFrame]:
    """Runs ``timm-gcp train``, resumed if it was interrupted, then evaluates once on the split that was held out.

    Args:
        run: what to train.
        source: folder of the grocery data set.
        work: folder for the runs.

    Returns:
        The run's row of ``experiment.csv``, and its epochs for ``experiment_curves.csv`` (none for a run on a fold).
    """
    data = source if run.fold is None else write_folds(source, work / "folds")
    folder, log = work / run.name, work / f"{run.name}.log"
    command = run.command(data, work)
    if not (folder / "result.json").exists():
        last = folder / "last.pth.tar"
        start = last if last.exists() else _shared_checkpoint(run, work)
        run_command([*command, *(["--resume", str(start)] if start else [])], log)
    out = folder / f"{run.held_out}.json"
    if not out.exists():
        evaluate = ["validate", "--checkpoint", str(folder / "last.pth.tar"), "--dataset", "grocery"]
        evaluate += ["--data-dir", str(data), "--split", run.held_out, "-b", "128", "-j", "0", "--device", "cpu"]
        run_command([*evaluate, "--results-file", str(out)], log)
    result, held = json.loads((folder / "result.json").read_text()), json.loads(out.read_text())
    epochs = read_cells(folder / "summary.csv")
    last_epoch = epochs.iloc[-1]
    row = {
        **dict(zip(KEY, run.key, strict=True)),
        "train_top1": round(float(last_epoch["train_top1"]), 2),
        "eval_top1": round(float(last_epoch["eval_top1"]), 2),
        "held_top1": round(float(held["top1"]), 2),
        "held_top5": round(float(held["top5"]), 2),
        "held_loss": round(float(held["loss"]), 4),
        "held_count": held["count"],
        "parameters": result["parameters"],
        "seconds": round(epochs["seconds"].astype(float).sum()),
        **provenance(),
        "command": "timm-gcp " + shlex.join(command).replace(str(data), "DATA").replace(str(work), "RUNS"),
    }
    if run.fold is not None:
        return row, pd.DataFrame()
    identity = {"backbone": run.backbone, "head": run.head, "seed": str(run.seed)}
    return row, pd.DataFrame({**identity, **{name: epochs[name] for name in CURVES}})


def _shared_checkpoint(run: Run, work: Path) -> Path | None:
    """For a hybrid: the checkpoint of `BASE_HYBRID` before the switch, if that run is finished."""
    folder = work / replace(run, head=BASE_HYBRID).name
    result = folder / "result.json"
    if not run.head.endswith("-hybrid") or not result.exists():
        return None
    switch = json.loads(result.read_text())["switched_at"]["epoch"]
    return folder / f"checkpoint-{switch - 1}.pth.tar"
