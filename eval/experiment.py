"""Every pooling head on the grocery photographs, from scratch, in stages: the runs behind the answers in the report.

One small backbone (timm's ``test_resnet``), the same stride, data order, augmentation, schedule and budget for every
head; the augmentation is timm's default. The learning rates of average pooling and of the covariance heads are chosen
on a fold of the training part (`eval.folds`), and so is the method that is to be compared with average pooling. The
final runs train on the whole training part for a fixed number of epochs, and the test part is read once a run, with the
weights of the last epoch. The test part was photographed in other shops; stage 7 trains on the half of the
training part that was held out by then and is judged by the other: photographs of the same shops, which have chosen
nothing. Two stages more hold average pooling against the method that was named on backbones of other families, with
rates of their own.

Every run is a ``timm-gcp train`` of its own, and a line of CSV when it is done: started again, this command goes on
where it stopped. All hybrid runs of a seed are one up to the switch, to the last digit (an epoch's random numbers
depend on the seed and the epoch alone): that part is trained once, and the others go on from its checkpoint.
"""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from threading import Lock

from tqdm import tqdm

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object

from .folds import write_folds
from .record import append_row, provenance, read_rows, write_rows

BACKBONE = "test_resnet"
"""The backbone of every head."""


@dataclass(frozen=True)
class Backbone:
    """How a backbone is trained.

    Attributes:
        settings: arguments of ``timm-gcp train``.
        rates: that the search begins with.
        limits: of the search.
    """

    settings: str
    rates: tuple[float, ...]
    limits: tuple[float, float]


_SGD = "--opt sgd --momentum 0.9 --weight-decay 1e-4 --warmup-lr 1e-3"
_ADAMW = "--opt adamw --weight-decay 0.05 --warmup-lr 1e-5"
BACKBONES = {
    BACKBONE: Backbone(f"--last-stride 1 {_SGD}", (0.1, 0.2), (0.0125, 1.6)),
    "test_vit": Backbone(_ADAMW, (1e-3, 2e-3), (1.25e-4, 1.6e-2)),
    "test_convnext": Backbone(_ADAMW, (1e-3, 2e-3), (1.25e-4, 1.6e-2)),
}


def _standalone(method: str, *more: str) -> tuple[str, list[str]]:
    return f"_{method}", ["--no-hybrid", *more]


def _hybrid(method: str, *more: str) -> tuple[str, list[str]]:
    return f"_{method}", ["--hybrid", *more]


_FLOAT32 = ("--model-kwargs", "spectral_dtype=float32")
HEADS: dict[str, tuple[str, list[str]]] = {
    "average": ("", ["--model-kwargs", "global_pool=avg"]),  # of a ViT it is not the own head
    "isqrt": _standalone("isqrt"),
    "rsqrt": _standalone("rsqrt", "--method-args", "share=0.1"),
    "polar": _standalone("polar"),
    "svd": _standalone("svd"),
    "svdtrunc": _standalone("svdtrunc"),
    "svdtaylor": _standalone("svdtaylor"),
    "svdpade": _standalone("svdpade"),
    "svdnewton": _standalone("svdnewton"),
    "svdpade-float32": _standalone("svdpade", *_FLOAT32),
    "isqrt-float64": _standalone("isqrt", "--model-kwargs", "spectral_dtype=float64"),
    "svd-hybrid": _hybrid("svd"),
    "svdtrunc-hybrid": _hybrid("svdtrunc"),
    "svdtaylor-hybrid": _hybrid("svdtaylor"),
    "svdpade-hybrid": _hybrid("svdpade"),
    "polar-hybrid": _hybrid("polar"),
}
"""What a head adds to the backbone's name, and its arguments of ``timm-gcp train``."""

TRUNK = "svdpade-hybrid"
"""The hybrid that is trained from the first epoch; the others branch off before its switch."""

SEARCHED = ("average", "isqrt")
"""Heads whose learning rate is searched for."""

CANDIDATES = ("isqrt", "rsqrt", "polar")
"""Heads that run on the folds at the rate found; the best of them is held against average pooling."""

STAGES = {
    2: ("average", "isqrt", "rsqrt", "polar", "svdpade-hybrid"),
    3: ("svdtaylor-hybrid", "svdtrunc-hybrid", "svd-hybrid", "polar-hybrid"),
    4: ("svdpade", "svdtaylor", "svdtrunc"),
    5: ("svdpade-float32", "svdnewton"),
    6: ("svd", "isqrt-float64"),
    7: ("average", "isqrt", TRUNK),
}
"""Heads of the final runs by stage, the cheap and the telling first; stage 1 is the search."""

SAME_SHOPS = 7
FRESH_FOLD = 0
"""The fold of that stage: the search has not been judged by it."""

OTHERS = {8: "test_vit", 9: "test_convnext"}
"""Backbones of other families by stage: a search of the rates and final runs of the heads searched for.

Newton–Schulz is the head that stage 1 had named for the comparison with average pooling.
"""

SEARCH_FOLDS = (1,)
"""Folds of the search: one half of every class holds out enough photographs (1337) to tell rates apart."""

EPOCHS = 30
SEEDS = (0, 1, 2)
RECIPE = shlex.split(
    "--dataset grocery --img-size 112 --crop-pct 0.95 -b 32 -vb 128 --clip-grad 5 "
    "--sched cosine --sched-on-updates --min-lr 1e-5 "
    "--device cpu --channels-last -j 0 --no-prefetcher --no-check-images"
)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Environment of a run."""
CURVES = ("epoch", "lr", "method", "train_top1", "eval_top1", "kappa", "rank", "under_eps")
"""Columns of a run's summary that are kept for the report."""

KEY = ("backbone", "head", "lr", "seed", "epochs", "fold")
"""Columns of the table that tell a run from all others (`Run.key`)."""


@dataclass(frozen=True)
class Run:
    """One training run; `fold` is None for a final run, on the whole training part."""

    head: str
    rate: float
    seed: int
    epochs: int
    fold: int | None = None
    backbone: str = BACKBONE

    @property
    def name(self) -> str:
        where = "final" if self.fold is None else f"fold{self.fold}"
        return f"{where}-{self.backbone}-{self.head}-lr{self.rate:g}-seed{self.seed}"

    @property
    def key(self) -> tuple[str, ...]:
        fold = "" if self.fold is None else str(self.fold)
        return (self.backbone, self.head, f"{self.rate:g}", str(self.seed), str(self.epochs), fold)

    @property
    def held(self) -> str:
        """The split that judges it: read once, when it is trained."""
        return "test" if self.fold is None else f"fold{self.fold}-val"

    def command(self, data: Path, output: Path) -> list[str]:
        """The arguments of ``timm-gcp`` that train it."""
        part = "train" if self.fold is None else f"fold{self.fold}-train"
        suffix, arguments = HEADS[self.head]
        return [
            *("train", "--data-dir", str(data), "--train-split", part, "--val-split", "val"),
            *("--model", f"{self.backbone}{suffix}", *arguments),
            *(*RECIPE, *shlex.split(BACKBONES[self.backbone].settings)),
            *("--lr", f"{self.rate:g}", "--epochs", str(self.epochs)),
            *("--warmup-epochs", str(self.epochs // 4), "--seed", str(self.seed)),
            *("--checkpoint-hist", str(self.epochs if self.head == TRUNK else 1)),
            *("--output", str(output), "--experiment", self.name),
        ]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m eval experiment", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data-dir", type=path_object, required=True, help="the grocery data set (folder with train.txt)"
    )
    parser.add_argument(
        "--work", type=path_object, default=Path("runs/experiment"), help="folder for the runs (%(default)s)"
    )
    parser.add_argument("--results", type=path_object, default=Path(__file__).parent / "results")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of a run (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side, one thread each")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of the final runs (%(default)s)")
    parser.add_argument("--heads", nargs="+", choices=HEADS, metavar="HEAD", help="only these heads of the stage")
    parser.add_argument(
        "--stage", type=int, choices=(1, *STAGES, *OTHERS), help="only this stage (default: all in turn)"
    )
    args = parser.parse_args(argv)
    if not (args.data_dir / "train.txt").is_file():
        raise GCPError(f"No train.txt in {args.data_dir}; --data-dir takes the folder of the grocery data set.")
    for stage in [args.stage] if args.stage else (1, *STAGES, *OTHERS):
        if stage == 1:
            rate = search(args, BACKBONE)["isqrt"]
            train_all(_on_folds(args, BACKBONE, ((head, rate) for head in CANDIDATES)), args)
            continue
        if stage in OTHERS:
            backbone = OTHERS[stage]
            best = search(args, backbone)
            heads = [head for head in best if head in (args.heads or best)]
            train_all((Run(h, best[h], seed, args.epochs, None, backbone) for seed in args.seeds for h in heads), args)
            continue
        heads = [head for head in STAGES[stage] if head in (args.heads or STAGES[stage])]
        rates = {head: rate_of(args.results, head, args.epochs) for head in heads}
        fold = FRESH_FOLD if stage == SAME_SHOPS else None
        train_all((Run(head, rates[head], seed, args.epochs, fold) for seed in args.seeds for head in heads), args)


def search(args: argparse.Namespace, backbone: str) -> dict[str, float]:
    """Tries rates on the folds, next to the best one too, until the best has neighbours on both sides.

    The runs are as long as the final ones: fewer epochs would favour larger rates.

    Returns:
        The rate of every head searched for.
    """
    first, limits = BACKBONES[backbone].rates, BACKBONES[backbone].limits
    rates = {head: set(first) for head in SEARCHED}
    while True:
        tried = ((head, rate) for head in SEARCHED for rate in sorted(rates[head]))
        train_all(_on_folds(args, backbone, tried), args)
        best = {head: rate_of(args.results, head, args.epochs, backbone) for head in SEARCHED}
        grown = {head: with_neighbours(rates[head], best[head], limits) for head in SEARCHED}
        if grown == rates:
            return best
        rates = grown


def _on_folds(args: argparse.Namespace, backbone: str, settings: Iterable[tuple[str, float]]) -> list[Run]:
    return [Run(head, rate, 0, args.epochs, fold, backbone) for head, rate in settings for fold in SEARCH_FOLDS]


def with_neighbours(rates: set[float], best: float, limits: tuple[float, float]) -> set[float]:
    """The rates, and half or twice the best one if that is the smallest or largest of them."""
    grown = set(rates)
    if best == min(rates):
        grown.add(max(best / 2, limits[0]))
    if best == max(rates):
        grown.add(min(best * 2, limits[1]))
    return grown


def fold_scores(results: Path, head: str, epochs: int, backbone: str = BACKBONE) -> dict[float, list[float]]:
    """Rate → top-1 on the folds of the search, of the last epoch."""
    scores: dict[float, list[float]] = {}
    for row in _fold_rows(results, epochs, backbone):
        if row["head"] == head:
            scores.setdefault(float(row["lr"]), []).append(float(row["held_top1"]))
    return scores


def _fold_rows(results: Path, epochs: int, backbone: str) -> list[dict[str, str]]:
    folds = [str(fold) for fold in SEARCH_FOLDS]
    return [
        row
        for row in read_rows(results / "experiment.csv")
        if row["fold"] in folds and row["epochs"] == str(epochs) and row["backbone"] == backbone
    ]


def rate_of(results: Path, head: str, epochs: int, backbone: str = BACKBONE) -> float:
    """The rate of a head: that of average pooling, or that of Newton–Schulz for all covariance heads.

    It is the smallest rate whose mean on the folds is within one standard error of the best (the rule by which trees
    and lassos are chosen: what can't be told apart goes to the more cautious). With one rate for all covariance heads a
    difference between two of them is one of the methods.
    """
    searched = head if head == "average" else "isqrt"
    scores = fold_scores(results, searched, epochs, backbone)
    if not scores:
        raise GCPError(f"The rate of '{searched}' is not chosen yet; run --stage 1 first.")
    means = {rate: fmean(values) for rate, values in scores.items()}
    best = max(means, key=lambda rate: means[rate])
    held = {row["fold"]: int(row["held_count"]) for row in _fold_rows(results, epochs, backbone)}
    share = means[best] / 100
    error = 100 * math.sqrt(share * (1 - share) / sum(held.values()))
    return min(rate for rate, mean in means.items() if mean >= means[best] - error)


def train_all(runs: Iterable[Run], args: argparse.Namespace) -> None:
    """Trains the runs that have no line in the table yet, several side by side."""
    table = args.results / "experiment.csv"
    args.results.mkdir(parents=True, exist_ok=True)
    finished = {tuple(row[name] for name in KEY) for row in read_rows(table)}
    todo = [run for run in runs if run.key not in finished]
    lock = Lock()
    hidden = None if todo else True  # None: where standard error is no terminal
    with tqdm(total=len(todo), desc="runs", disable=hidden) as bar, ThreadPoolExecutor(args.jobs) as pool:

        def work(run: Run) -> None:
            row, curves = train(run, args.data_dir, args.work)
            with lock:
                if curves:
                    write_curves(args.results / "experiment_curves.csv", curves)
                append_row(table, row)
                bar.update()
                tqdm.write(f"{run.name}: validation {row['eval_top1']}, {run.held} {row['held_top1']}")

        for _ in pool.map(work, todo):
            pass


def write_curves(path: Path, curves: list[dict[str, object]]) -> None:
    """Adds a run's epochs at one go, in place of what a run that was cut off here has left."""

    def run(row: Mapping[str, object]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in ("backbone", "head", "seed"))

    own = run(curves[0])
    write_rows(path, [*(row for row in read_rows(path) if run(row) != own), *curves])


def train(run: Run, source: Path, work: Path) -> tuple[dict[str, object], list[dict[str, object]]]:
    """One ``timm-gcp train``, resumed where a part of it is done; then one look at the part that judges it.

    Returns:
        The run's line in the table, and its epochs for the curves (none for a run on a fold).
    """
    data = source if run.fold is None else write_folds(source, work / "folds")
    folder, log = work / run.name, work / f"{run.name}.log"
    command = run.command(data, work)
    if not (folder / "result.json").exists():
        last = folder / "last.pth.tar"
        start = last if last.exists() else _trunk(run, work)
        _run([*command, *(["--resume", str(start)] if start else [])], log)
    out = folder / f"{run.held}.json"
    if not out.exists():
        evaluate = ["validate", "--checkpoint", str(folder / "last.pth.tar"), "--dataset", "grocery"]
        evaluate += ["--data-dir", str(data), "--split", run.held, "-b", "128", "-j", "0", "--device", "cpu"]
        _run([*evaluate, "--results-file", str(out)], log)
    result, held = json.loads((folder / "result.json").read_text()), json.loads(out.read_text())
    held = held[0] if isinstance(held, list) else held
    epochs = read_rows(folder / "summary.csv")
    row: dict[str, object] = {
        **dict(zip(KEY, run.key, strict=True)),
        "train_top1": round(float(epochs[-1]["train_top1"]), 2),
        "eval_top1": round(float(epochs[-1]["eval_top1"]), 2),
        "held_top1": round(float(held["top1"]), 2),
        "held_top5": round(float(held["top5"]), 2),
        "held_loss": round(float(held["loss"]), 4),
        "held_count": held["count"],
        "parameters": result["parameters"],
        "seconds": round(sum(float(epoch["seconds"]) for epoch in epochs)),
        **provenance(),
        "command": "timm-gcp " + shlex.join(command).replace(str(data), "DATA").replace(str(work), "RUNS"),
    }
    if run.fold is not None:
        return row, []
    return row, [
        {"backbone": run.backbone, "head": run.head, "seed": str(run.seed), **{name: e[name] for name in CURVES}}
        for e in epochs
    ]


def _trunk(run: Run, work: Path) -> Path | None:
    """For a hybrid, the trunk's checkpoint before the epoch in which the method switches, once the trunk is trained."""
    folder = work / replace(run, head=TRUNK).name
    result = folder / "result.json"
    if not run.head.endswith("-hybrid") or not result.exists():
        return None
    switch = json.loads(result.read_text())["switched_at"]["epoch"]
    return folder / f"checkpoint-{switch - 1}.pth.tar"


def _run(arguments: list[str], log: Path) -> None:
    env = {**os.environ, **ONE_THREAD}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        code = subprocess.call([sys.executable, "-m", "timm_gcp", *arguments], stdout=file, stderr=file, env=env)
    if code:
        raise GCPError(f"A run ended with status {code}; its output is in {log}. Started again, this command goes on.")
