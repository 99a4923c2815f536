"""Pooling heads on the grocery photographs, from scratch: the real run behind the README's table.

One small backbone (timm's ``test_resnet``, last stage at stride 1), four heads: average pooling, Newton–Schulz,
SVD-Padé from the first epoch, SVD-Padé under the hybrid protocol. Stride, data order, augmentation, schedule and the
search for the learning rate are the same for every head. The rate is chosen on a fold of the training part; the
checkpoint on the data set's validation part; the test part is read once a run, at its end. A further stage trains the
regularised root from the first epoch, over a range of shares, beside the exact root.

Every run is a ``timm-gcp train`` of its own, and a line of CSV when it is done: started again, this command goes on
where it stopped.
"""

import argparse
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from PIL import Image
from tqdm import tqdm

from timm_gcp import GCPError
from timm_gcp.training.curves import draw_comparison

from .record import append_row, provenance, read_rows

HEADS = {
    "average": ["--model", "test_resnet"],
    "isqrt": ["--model", "test_resnet_isqrt"],
    "svdpade": ["--model", "test_resnet_svdpade", "--no-hybrid"],
    "svdpade-hybrid": ["--model", "test_resnet_svdpade", "--hybrid"],
}
# The regularised root from the first epoch, without a warm phase, beside the exact root and Newton–Schulz.
SHARES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
REGULARISED = {
    "polar": ["--model", "test_resnet_polar", "--no-hybrid"],
    **{f"rsqrt-{s:g}": ["--model", "test_resnet_rsqrt", "--no-hybrid", "--method-args", f"share={s}"] for s in SHARES},
}
RATES = (0.05, 0.1, 0.2, 0.4)
SEEDS = (0, 1, 2)
FOLDS = 5
RECIPE = shlex.split(
    "--dataset grocery --last-stride 1 --img-size 80 --crop-pct 0.95 -b 32 -vb 128 --opt sgd --momentum 0.9 "
    "--weight-decay 1e-4 --clip-grad 5 --sched cosine --sched-on-updates --warmup-epochs 2 --warmup-lr 1e-3 "
    "--min-lr 1e-5 --scale 0.35 1.0 --color-jitter 0.2 --smoothing 0.1 --checkpoint-hist 1 --device cpu "
    "--channels-last -j 0 --no-prefetcher --no-check-images"
)
# Photographs are decoded hundreds of times in these runs; at 80 px nothing is lost by shrinking them once.
SHORTER_SIDE = 144


@dataclass(frozen=True)
class Run:
    """One training run: ``stage`` is 'search' (on a fold of the training part), 'final' or 'regularised'."""

    stage: str
    head: str
    rate: float
    seed: int
    epochs: int

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.head}-lr{self.rate:g}-seed{self.seed}"

    @property
    def key(self) -> tuple[str, ...]:
        return (self.stage, self.head, f"{self.rate:g}", str(self.seed), str(self.epochs))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m eval grocery", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="the grocery data set (folder with train.txt)")
    parser.add_argument("--work", type=Path, default=Path("runs/grocery"), help="folder for the runs (%(default)s)")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--search-epochs", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side, one thread each")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of the final and regularised runs")
    stages_named = ("search", "final", "regularised", "report")
    parser.add_argument("--stage", choices=stages_named, help="only this stage (default: all in turn)")
    args = parser.parse_args(argv)
    if not (args.data_dir / "train.txt").exists():
        raise GCPError(f"No train.txt in {args.data_dir}; --data-dir takes the folder of the grocery data set.")
    args.results.mkdir(parents=True, exist_ok=True)
    table = args.results / "grocery.csv"
    stages: dict[str, Callable[[], None]] = {
        "search": lambda: train_all(
            [Run("search", head, rate, 0, args.search_epochs) for rate in RATES for head in HEADS], args, table
        ),
        "final": lambda: train_all(
            [
                Run("final", head, chosen_rate(table, head, args.search_epochs), seed, args.epochs)
                for seed in args.seeds
                for head in HEADS
            ],
            args,
            table,
        ),
        # At the rate of Newton–Schulz, with which they are compared.
        "regularised": lambda: train_all(
            [
                Run("regularised", head, chosen_rate(table, "isqrt", args.search_epochs), seed, args.epochs)
                for seed in args.seeds
                for head in REGULARISED
            ],
            args,
            table,
        ),
        "report": lambda: report(table, args),
    }
    for stage in [args.stage] if args.stage else stages:
        stages[stage]()


def prepare(source: Path, out: Path) -> Path:
    """A copy of the data set with shrunken photographs, and the folds of its training part as list files."""
    done = out / "fold-val.txt"
    if done.exists():
        return out
    lines: dict[str, list[str]] = {}
    for split in ("train", "val", "test"):
        lines[split] = (source / f"{split}.txt").read_text().splitlines()
    for line in tqdm([x for split in lines.values() for x in split], desc="shrinking photographs"):
        path = line.split(",")[0].strip()
        target = out / path
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source / path) as image:
            scale = SHORTER_SIDE / min(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            aside = target.with_suffix(".tmp")
            image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(aside, "jpeg", quality=92)
            os.replace(aside, target)
    (out / "classes.csv").write_bytes((source / "classes.csv").read_bytes())
    by_class = defaultdict(list)
    for line in lines["train"]:
        by_class[line.split(",")[1].strip()].append(line)
    lines["fold-train"], lines["fold-val"] = [], []
    for members in by_class.values():
        random.Random(0).shuffle(members)
        cut = max(1, len(members) // FOLDS)
        lines["fold-val"] += members[:cut]
        lines["fold-train"] += members[cut:]
    for split, content in lines.items():
        (out / f"{split}.txt").write_text("\n".join(content) + "\n")
    return out


def train_all(runs: list[Run], args: argparse.Namespace, table: Path) -> None:
    """Trains the runs that have no line in the table yet, several side by side."""
    data = prepare(args.data_dir, args.work / "data")
    finished = {(r["stage"], r["head"], r["lr"], r["seed"], r["epochs"]) for r in read_rows(table)}
    todo = [run for run in runs if run.key not in finished]
    lock = Lock()
    with tqdm(total=len(todo), desc="runs") as bar, ThreadPoolExecutor(args.jobs) as pool:

        def work(run: Run) -> None:
            row = train(run, data, args.work)
            with lock:
                append_row(table, row)
                bar.update()
                tqdm.write(f"{run.name}: val {row['val_top1']} test {row['test_top1']}")

        for _ in pool.map(work, todo):
            pass


def train(run: Run, data: Path, work: Path) -> dict[str, object]:
    """One ``timm-gcp train``, resumed where a part of it is done; then, for a final run, one look at the test part."""
    folder = work / run.name
    prefix = "fold-" if run.stage == "search" else ""
    command = [
        *("train", "--data-dir", str(data), "--train-split", f"{prefix}train", "--val-split", f"{prefix}val"),
        *({**HEADS, **REGULARISED}[run.head]),
        *(*RECIPE, "--lr", f"{run.rate:g}", "--epochs", str(run.epochs), "--seed", str(run.seed)),
        *("--output", str(work), "--experiment", run.name),
    ]
    if not (folder / "result.json").exists():
        last = folder / "last.pth.tar"
        _run([*command, *(["--resume", str(last)] if last.exists() else [])], work / f"{run.name}.log")
    result = json.loads((folder / "result.json").read_text())
    test: dict[str, object] = {}
    if run.stage != "search":
        out = folder / "test.json"
        evaluate = ["validate", "--checkpoint", str(folder / "model_best.pth.tar"), "--dataset", "grocery"]
        evaluate += ["--data-dir", str(data), "--split", "test", "-b", "128", "-j", "0", "--device", "cpu"]
        if not out.exists():
            _run([*evaluate, "--results-file", str(out)], work / f"{run.name}.log")
        test = json.loads(out.read_text())
        test = test[0] if isinstance(test, list) else test
    stage, head, rate, seed, epochs = run.key
    return {
        **dict(stage=stage, head=head, lr=rate, seed=seed, epochs=epochs, val_top1=round(float(result["top1"]), 2)),
        "test_top1": round(float(str(test["top1"])), 2) if test else "",
        "test_loss": round(float(str(test["loss"])), 4) if test else "",
        **{name: result[name] for name in ("method", "epoch", "parameters")},
        "seconds": round(float(result["wall_seconds"])),
        **provenance(),
        "command": "timm-gcp " + shlex.join(command).replace(str(data), "DATA").replace(str(work), "RUNS"),
    }


def _run(arguments: list[str], log: Path) -> None:
    env = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        code = subprocess.call([sys.executable, "-m", "timm_gcp.cli", *arguments], stdout=file, stderr=file, env=env)
    if code:
        raise GCPError(f"A run ended with status {code}; its output is in {log}. Started again, this command goes on.")


def chosen_rate(table: Path, head: str, epochs: int) -> float:
    """The rate with the best accuracy on the fold."""
    rows = [r for r in read_rows(table) if r["stage"] == "search" and r["head"] == head and r["epochs"] == str(epochs)]
    if len(rows) < len(RATES):
        raise GCPError(f"The rate of '{head}' is not chosen yet; run --stage search first.")
    return float(max(rows, key=lambda r: float(r["val_top1"]))["lr"])


def report(table: Path, args: argparse.Namespace) -> None:
    """Writes a table and a picture of the validation curves for each stage that has runs of every head."""
    every = [r for r in read_rows(table) if r["epochs"] == str(args.epochs)]
    final = [r for r in every if r["stage"] == "final"]
    # The regularised roots stand beside Newton–Schulz at the same rate and seeds.
    regularised = [r for r in every if r["stage"] == "regularised"]
    beside = [r for r in final if r["head"] == "isqrt" and r["seed"] in {q["seed"] for q in regularised}]
    compared = {
        "grocery": (final, list(HEADS), "average"),
        "regularised": (beside + regularised, ["isqrt", *REGULARISED], "isqrt"),
    }
    written = False
    for name, (rows, heads, base) in compared.items():
        if {r["head"] for r in rows} != set(heads):
            continue
        written = True
        text = "\n".join(lines_of(rows, heads, base))
        (args.results / f"{name}_table.md").write_text(text + "\n")
        curves: dict[str, list[Path]] = {head: [] for head in heads}
        for row in rows:
            run = Run(row["stage"], row["head"], float(row["lr"]), int(row["seed"]), args.epochs)
            curves[row["head"]].append(args.work / run.name / "summary.csv")
        draw_comparison(curves, args.results / f"{name}_curves.png", metric="eval_top1")
        print(text)
    if not written:
        raise GCPError("There are no final runs of every head yet; run --stage final first.")


def lines_of(rows: list[dict[str, str]], heads: list[str], base: str) -> list[str]:
    """A Markdown table: test top-1 of every seed, mean and deviation, and the paired difference to one head."""
    scores = {head: {r["seed"]: float(r["test_top1"]) for r in rows if r["head"] == head} for head in heads}
    seeds = ", ".join(scores[base])
    lines = [
        f"| head | lr | test top-1, seeds {seeds} | mean ± sd | minus {base}, seed by seed |",
        "|---|---|---|---|---|",
    ]
    for head, by_seed in scores.items():
        gaps = [value - scores[base][seed] for seed, value in by_seed.items() if seed in scores[base]]
        rate = next(r["lr"] for r in rows if r["head"] == head)
        listed = ", ".join(f"{value:.1f}" for value in by_seed.values())
        gap = "" if head == base else spread(gaps)
        lines.append(f"| {head} | {rate} | {listed} | {spread(list(by_seed.values()))} | {gap} |")
    return lines


def spread(values: list[float]) -> str:
    """Mean and standard deviation, in points."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"
