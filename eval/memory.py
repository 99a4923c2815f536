"""Measures the memory of a training step with average and with covariance pooling, with and without recomputation.

Each setting runs in its own process: forward pass, backward pass and SGD step on random images. On the CPU the result
is the peak of the process's resident memory minus its resident memory before the first step, with the model and its
gradients allocated. On a GPU it is the same difference of the memory that torch has allocated.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from tqdm import tqdm

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object
from timm_gcp.models.stride import set_last_stride
from timm_gcp.plots import new_figure, save_figure
from timm_gcp.text import markdown_table

from .record import RESULTS, provenance, read_table, write_table

_STATM = Path("/proc/self/statm")

SETTINGS: dict[str, dict[str, Any]] = {
    "average pooling": {"covariance": False},
    "covariance pooling": {},
    "chunks of 1": {"chunk_size": 1},
    "pool recomputed": {"recompute": "pool"},
    "pool recomputed, chunks of 1": {"recompute": "pool", "chunk_size": 1},
    "average pooling, recomputed": {"covariance": False, "recompute": "model"},
    "all recomputed, chunks of 1": {"recompute": "model", "chunk_size": 1},
}


def main(argv: list[str]) -> None:
    """Runs the command ``memory``."""
    parser = argparse.ArgumentParser(prog="python -m eval memory", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=path_object, default=RESULTS, help="folder of the results (%(default)s)")
    parser.add_argument("--backbone", default="resnet50", help="a timm ResNet or VGG (%(default)s)")
    parser.add_argument("--method", default="svdpade", help="method of covariance pooling (%(default)s)")
    parser.add_argument("--img-size", type=int, default=448, help="image size, pixels (%(default)s)")
    parser.add_argument("-b", "--batch-size", type=int, default=10, help="images per batch (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--setting", choices=SETTINGS, help=argparse.SUPPRESS)  # measure this one here
    args = parser.parse_args(argv)
    if args.device == "cpu" and not _STATM.exists():
        raise GCPError("Memory on the CPU is measured through Linux's /proc; run this on Linux, or give --device cuda.")
    if args.setting:
        print(json.dumps(measure(args, **SETTINGS[args.setting])))
        return
    args.results.mkdir(parents=True, exist_ok=True)
    rows = []
    for setting in tqdm(SETTINGS, desc="settings", disable=None):
        command = [sys.executable, "-m", "eval", "memory", *argv, "--setting", setting]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        given = {key: getattr(args, key) for key in ("backbone", "method", "img_size", "batch_size", "device")}
        rows.append({"setting": setting, **json.loads(done.stdout.splitlines()[-1]), **given, **provenance()})
        write_table(args.results / "memory.csv", rows)
    measured = read_table(args.results / "memory.csv")
    draw(measured, args.results / "memory.png")
    print(table(measured))


def measure(
    args: argparse.Namespace, covariance: bool = True, chunk_size: int | None = None, recompute: str = ""
) -> Mapping[str, float]:
    """Measures two training steps of one setting.

    Args:
        args: the command's options.
        covariance: whether the head pools covariances; otherwise it averages.
        chunk_size: images that the covariance pool processes at a time; None for all at once.
        recompute: 'model', 'pool' or '': whose activations are recomputed in the backward pass.

    Returns:
        ``mib``: mebibytes that a step adds.
    """
    torch.manual_seed(0)
    model: Any = timm.create_model(f"{args.backbone}_{args.method}" if covariance else args.backbone, num_classes=200)
    if covariance:
        model.global_pool.chunk_size = chunk_size
    else:
        set_last_stride(model, 1)
    if recompute == "model":
        model.set_grad_checkpointing()
    elif recompute == "pool":
        model.global_pool.set_grad_checkpointing()
    model = model.to(args.device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)  # allocated in every step but the first
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size, device=args.device)
    before = _held(args.device)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        model(images).square().mean().backward()
        optimizer.step()
    return {"mib": round(_peak(args.device) - before, 1)}


def _held(device: str) -> float:
    if device == "cpu":
        pages = int(_STATM.read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 2**20


def _peak(device: str) -> float:
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return torch.cuda.max_memory_allocated() / 2**20


def table(rows: pd.DataFrame) -> str:
    """Markdown: mebibytes of each setting, and their ratio to average pooling's."""
    ratios = rows["mib"] / rows["mib"].iloc[0]
    cells = zip(rows["setting"], rows["mib"], ratios, strict=True)
    lines = [(setting, f"{mib:.0f}", f"{ratio:.2f}") for setting, mib, ratio in cells]
    return markdown_table(("setting", "MiB", "relative to average pooling"), lines)


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Writes a plot with one bar per setting."""
    figure = new_figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar_label(axes.barh(rows["setting"][::-1], rows["mib"][::-1]), fmt="%.0f", padding=3)
    axes.set_xlabel("MiB that a training step adds to the model")
    axes.set_title("{backbone}, {method}, {img_size} px, batch {batch_size}, {device}".format(**rows.iloc[0]))
    axes.margins(x=0.12)
    save_figure(figure, path)
