"""Times whole training steps of a backbone with covariance pooling against average pooling with the same stride."""

import argparse
import statistics
import time
from typing import Any

import pandas as pd
import timm
import torch
from torch import Tensor, nn
from tqdm import tqdm

from timm_gcp.models.stride import set_last_stride
from timm_gcp.text import markdown_table

from .record import provenance


def synchronize(device: str) -> None:
    """Waits for the GPU, so that a time covers the work that was started."""
    if device != "cpu":
        torch.cuda.synchronize()


def time_steps(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Times training steps of a backbone with average pooling and with each method, in turn.

    Args:
        args: the options of the command ``speed``.

    Returns:
        One row per head, for ``step.csv``.
    """
    images = torch.randn(args.batch[0], 3, args.img_size, args.img_size, device=args.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (args.batch[0],), device=args.device)
    heads: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {}
    for head in ("average", *args.methods):
        model: Any = timm.create_model(args.step if head == "average" else f"{args.step}_{head}", num_classes=1000)
        if head == "average":
            set_last_stride(model, 1)
        model = model.to(args.device, memory_format=torch.channels_last).train()
        heads[head] = model, torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    seconds: dict[str, list[float]] = {head: [] for head in heads}
    for number in tqdm(range(args.repeats + 2), desc=args.step, disable=None):
        for head, (model, optimizer) in heads.items():
            taken = _time_step(model, optimizer, images, labels, args.amp)
            if number >= 2:
                seconds[head].append(taken)
    given = dict(backbone=args.step, batch=args.batch[0], img_size=args.img_size, amp=args.amp, device=args.device)
    return [
        {"head": head, "ms": f"{1e3 * statistics.median(own):.1f}", **given, "threads": args.threads, **provenance()}
        for head, own in seconds.items()
    ]


def _time_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, amp: bool) -> float:
    device = images.device.type
    synchronize(device)
    start = time.perf_counter()
    with torch.autocast(device, torch.bfloat16, enabled=amp):
        loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    synchronize(device)
    return time.perf_counter() - start


def table(rows: pd.DataFrame) -> str:
    """Markdown: milliseconds of a training step, and their ratio to average pooling's."""
    first = rows.iloc[0]
    precision = "bfloat16 autocast" if first["amp"] else "float32"
    of = f"`{first['backbone']}`, last stage at stride 1, batch {first['batch']}, {first['img_size']} px, {precision}"
    lines = zip(rows["head"], rows["ms"], (rows["ms"] / first["ms"]).map("{:.2f}".format), strict=True)
    timed = markdown_table(("head", "ms per step", "relative to average pooling"), lines)
    return f"{of}, {first['device']}, {first['threads']} threads:\n\n{timed}"
