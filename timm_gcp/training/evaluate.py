"""Evaluates a classifier on a data set: accuracy and loss."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..distributed import summed
from ..errors import GCPError
from ..output import BAR

__all__ = ["check_labels", "evaluate"]


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Any,
    *,
    device: torch.device,
    autocast: Callable[[], Any] = contextlib.nullcontext,
    channels_last: bool = False,
    tta: str = "",
    description: str = "",
    between: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Evaluates a classifier on a data set, exactly: every image counts once, also in a short last batch.

    Args:
        model: the model; it is left in evaluation mode.
        loader: batches of images ``[B, C, H, W]`` and labels ``[B]``, not shuffled.
        device: where the model is.
        autocast: makes the context of the forward pass.
        channels_last: memory layout of the input.
        tta: 'mirror' averages the logits of an image and its mirror image.
        description: title of a progress bar on a terminal; '' for none.
        between: called after every batch.

    Returns:
        ``loss`` (mean cross-entropy), ``top1`` and ``top5`` in per cent (with fewer than five classes, top-5 is always
        right), ``count`` of images and ``images_per_second``, loading included.

    Raises:
        GCPError: the data set is empty, or a label lies outside the model's classes.
    """
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device="cpu" if device.type == "mps" else device)
    began = time.monotonic()
    quiet = not description or not sys.stderr.isatty()
    batches = tqdm(loader, description, len(loader), leave=False, disable=quiet, dynamic_ncols=True, bar_format=BAR)
    for images, labels, real in _without_padding(batches, loader):
        images, labels = images.to(device), labels.to(device)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast():
            logits = model(images)
            if tta == "mirror":
                logits = (logits + model(images.flip(-1))) / 2
        logits = logits.float()
        check_labels(labels, logits.shape[1])
        losses = F.cross_entropy(logits, labels, reduction="none")
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        rows = torch.stack([losses, top[:, 0].float(), top.any(1).float(), torch.ones_like(losses)])
        sums += rows[:, :real].double().sum(1).to(sums.device)
        between()
    loss, top1, top5, count = summed(sums, device).tolist()
    if not count:
        raise GCPError("There is no image to evaluate; check --data-dir and the split.")
    seconds = max(time.monotonic() - began, 1e-9)
    return {
        "loss": loss / count,
        "top1": 100 * top1 / count,
        "top5": 100 * top5 / count,
        "count": int(count),
        "images_per_second": count / seconds,
    }


def _without_padding(batches: Any, loader: Any) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Batches and how many of their images count: timm repeats the first images so that all processes get as many."""
    sampler = getattr(loader, "sampler", None)
    world, rank = getattr(sampler, "num_replicas", 1), getattr(sampler, "rank", 0)
    size = len(loader.dataset) if hasattr(loader.dataset, "__len__") else None
    seen = 0
    for images, labels in batches:
        real = len(images)
        if size is not None and world > 1:
            real = min(max(math.ceil((size - rank) / world) - seen, 0), real)
        seen += len(images)
        yield images, labels, real


def check_labels(targets: Tensor, classes: int) -> None:
    if targets.dim() == 1 and len(targets):
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= classes:
            raise GCPError(
                f"Label {low if low < 0 else high} lies outside the model's {classes} classes (0 to {classes - 1}); "
                "correct the data set's labels or give --num-classes."
            )
