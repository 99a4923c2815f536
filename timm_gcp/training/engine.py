"""One epoch of training, and the evaluation of a data set: what ``train`` and ``validate`` share."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.models import model_parameters
from timm.utils import AverageMeter, dispatch_clip_grad
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import GCPError

__all__ = ["Progress", "Stepper", "evaluate", "train_one_epoch"]


class Progress:
    """Shows where a run is: a bar on a terminal, plain lines elsewhere.

    Args:
        start: first epoch of this run, from 0.
        epochs: length of the whole run.
        every: updates between two plain lines.
        enabled: off in all processes but the first.
    """

    def __init__(self, start: int, epochs: int, every: int, enabled: bool = True) -> None:
        self.start, self.epochs, self.every, self.enabled = start, epochs, every, enabled
        self.interactive = enabled and sys.stderr.isatty()
        self._began = time.monotonic()
        self._bar: Any = None

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self.enabled:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def begin(self, epoch: int, updates: int) -> None:
        """An epoch of so many updates starts."""
        self._epoch, self._updates, self._epoch_began = epoch, updates, time.monotonic()
        if self.interactive:
            self._bar = tqdm(total=updates, desc=f"epoch {epoch}/{self.epochs - 1}", unit="step", leave=False)

    def update(self, done: int, loss: float, top1: float | None, rate: float, lr: float) -> None:
        """So many updates of the epoch are done.

        Args:
            done: updates.
            loss: mean of the epoch so far.
            top1: training accuracy of the epoch so far in per cent, None for soft targets.
            rate: images a second.
            lr: learning rate of the base group.
        """
        if not self.enabled or not (self.interactive or done % self.every == 0 or done == self._updates):
            return
        now = time.monotonic()
        part = done / self._updates
        run = (self._epoch - self.start + part) / (self.epochs - self.start)
        left_epoch = (now - self._epoch_began) * (1 - part) / part
        left_run = (now - self._began) * (1 - run) / run
        shown = {"loss": f"{loss:.3f}"}
        if top1 is not None:
            shown["top1"] = f"{top1:.1f}"
        shown["img/s"] = f"{rate:.0f}"
        if self._bar is not None:
            self._bar.set_postfix({**shown, "run left": _clock(left_run)}, refresh=False)
            self._bar.update(done - self._bar.n)
        else:
            values = "  ".join(f"{key} {value}" for key, value in shown.items())
            left = f"left: epoch {_clock(left_epoch)}, run {_clock(left_run)}"
            self.say(f"epoch {self._epoch} [{done}/{self._updates}]  {values}  lr {lr:.3g}  {left}")

    def end(self) -> None:
        """The epoch is over."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


@dataclass
class Stepper:
    """What turns a loss into an update: optimiser, scaler, clipping, accumulation.

    Attributes:
        model: the model that is called, wrapped or not.
        optimizer: its optimiser.
        scaler: timm's ``NativeScaler`` for float16, or None.
        clip_grad: norm, value or factor, or None.
        clip_mode: 'norm', 'value' or 'agc'.
        accumulate: batches an update.
        frozen: parts of the model that are not trained; they stay in evaluation mode.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: Any = None
    clip_grad: float | None = None
    clip_mode: str = "norm"
    accumulate: int = 1
    frozen: Sequence[nn.Module] = ()

    def train_mode(self) -> None:
        """Puts the model into training mode, but for what is frozen."""
        self.model.train()
        for module in self.frozen:
            module.eval()

    def updates(self, batches: int) -> int:
        """Optimiser updates that so many batches make."""
        return math.ceil(batches / self.accumulate)

    def backward(self, loss: Tensor, update: bool) -> None:
        """Back-propagates, and updates the weights if it is time to."""
        second_order = bool(getattr(self.optimizer, "is_second_order", False))
        if self.scaler is not None:
            self.scaler(
                loss,
                self.optimizer,
                clip_grad=self.clip_grad,
                clip_mode=self.clip_mode,
                parameters=self._clipped(),
                create_graph=second_order,
                need_update=update,
            )
        else:
            loss.backward(create_graph=second_order)
            if update:
                if self.clip_grad is not None:
                    dispatch_clip_grad(self._clipped(), value=self.clip_grad, mode=self.clip_mode)
                self.optimizer.step()
        if update:
            self.optimizer.zero_grad()

    def _clipped(self) -> Any:
        return model_parameters(self.model, exclude_head="agc" in self.clip_mode)


def train_one_epoch(
    stepper: Stepper,
    loader: Any,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    *,
    epoch: int,
    device: torch.device,
    progress: Progress,
    method: Callable[[], str | None],
    lr: Callable[[], float],
    after_update: Callable[[int, float], None],
    autocast: Callable[[], Any] = contextlib.nullcontext,
    prepare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    channels_last: bool = False,
) -> dict[str, float]:
    """Trains for one pass over the loader.

    Args:
        stepper: model, optimiser and what belongs to an update.
        loader: batches of images ``[B, C, H, W]`` and targets, ``[B]`` labels or ``[B, K]`` soft targets.
        loss_fn: logits and targets to a scalar.
        epoch: from 0.
        device: where the model is.
        progress: told of every update.
        method: the method in force, for messages.
        lr: the base group's learning rate, for the progress.
        after_update: called with the number of updates since the start of the run and the mean loss of the epoch.
        autocast: makes the context of the forward pass.
        prepare: changes a batch on the device (mixup without the prefetcher).
        channels_last: memory layout of the input.

    Returns:
        ``loss``, the mean over the epoch's images of all processes, and ``top1`` in per cent, nan with soft targets.

    Raises:
        GCPError: the loss is not finite, or a label lies outside the model's classes.
    """
    model: Any = stepper.model
    stepper.train_mode()
    batches = len(loader)
    updates = stepper.updates(batches)
    remainder = batches % stepper.accumulate
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    losses, accuracy = AverageMeter(), AverageMeter()
    began = time.monotonic()
    progress.begin(epoch, updates)
    stepper.optimizer.zero_grad()
    try:
        for index, (images, targets) in enumerate(loader):
            images, targets = images.to(device), targets.to(device)
            if prepare is not None:
                images, targets = prepare(images, targets)
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            update = (index + 1) % stepper.accumulate == 0 or index + 1 == batches
            steps = remainder if remainder and index >= batches - remainder else stepper.accumulate
            wait = model.no_sync() if hasattr(model, "no_sync") and not update else contextlib.nullcontext()
            with wait:
                with autocast():
                    logits = model(images)
                    _check_labels(targets, logits.shape[1])
                    loss = loss_fn(logits, targets)
                value = loss.item()
                if not math.isfinite(value):
                    at = epoch * updates + index // stepper.accumulate
                    under = f" under method '{method()}'" if method() else ""
                    raise GCPError(
                        f"The loss became {value} at update {at} (epoch {epoch}){under}; lower --lr, add "
                        f"--clip-grad 5, train longer with the warm method or another one, or leave --amp out."
                    )
                stepper.backward(loss / steps, update)
            losses.update(value, len(images))
            if targets.dim() == 1:
                accuracy.update(100 * (logits.argmax(1) == targets).float().mean().item(), len(images))
            if update:
                done = index // stepper.accumulate + 1
                rate = losses.count * world / (time.monotonic() - began)
                progress.update(done, losses.avg, accuracy.avg if accuracy.count else None, rate, lr())
                after_update(epoch * updates + done, losses.avg)
    finally:
        progress.end()
    if hasattr(stepper.optimizer, "sync_lookahead"):
        stepper.optimizer.sync_lookahead()
    sums = torch.tensor([losses.sum, losses.count, accuracy.sum, accuracy.count], dtype=torch.float64)
    loss_sum, count, right, hard = _summed(sums, device).tolist()
    return {"loss": loss_sum / count, "top1": right / hard if hard else math.nan}


def _check_labels(targets: Tensor, classes: int) -> None:
    if targets.dim() == 1 and len(targets):
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= classes:
            raise GCPError(
                f"Label {low if low < 0 else high} lies outside the model's {classes} classes (0 to {classes - 1}); "
                "correct the data set's labels or give --num-classes."
            )


def _summed(values: Tensor, device: torch.device) -> Tensor:
    """The sum over all processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    values = values.to(device)
    dist.all_reduce(values)
    return values.cpu()


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
    batches = tqdm(loader, desc=description, total=len(loader), leave=False, disable=quiet, unit="batch")
    for images, labels, real in _without_padding(batches, loader):
        images, labels = images.to(device), labels.to(device)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast():
            logits = model(images)
            if tta == "mirror":
                logits = (logits + model(images.flip(-1))) / 2
        logits = logits.float()
        _check_labels(labels, logits.shape[1])
        losses = F.cross_entropy(logits, labels, reduction="none")
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        rows = torch.stack([losses, top[:, 0].float(), top.any(1).float(), torch.ones_like(losses)])
        sums += rows[:, :real].double().sum(1).to(sums.device)
    loss, top1, top5, count = _summed(sums, device).tolist()
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
