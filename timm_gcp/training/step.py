"""One epoch of training: updates, what to do with one that is not finite, and the totals over all processes."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.models import model_parameters
from timm.utils import dispatch_clip_grad, unwrap_model
from torch import Tensor, nn

from ..data.loaders import LoaderError
from ..distributed import any_of, process_count, summed
from ..errors import GCPError
from ..spectral.eigh import take_retried
from .epoch_position import Position
from .evaluate import check_labels
from .faults import Batch, Faults, examine, restore
from .interrupt import Interrupted
from .progress import Progress

__all__ = ["Stepper", "train_one_epoch"]


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

    def backward(self, loss: Tensor, update: bool) -> bool:
        """Back-propagates, and updates the weights if it is time to.

        Returns:
            False if the update was left out because a gradient is not finite. (A scaler leaves out updates of its own,
            as it looks for its scale; these are no faults.)
        """
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
            return True
        loss.backward(create_graph=second_order)
        if not update:
            return True
        # The largest entry: a sum of squares could overflow where no gradient does.
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not math.isfinite(nn.utils.get_total_norm(grads, norm_type=math.inf).item()):
            return False
        if self.clip_grad is not None:
            dispatch_clip_grad(self._clipped(), value=self.clip_grad, mode=self.clip_mode)
        self.optimizer.step()
        return True

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
    faults: Faults,
    position: Position,
    seed: Callable[[int, int], None] = lambda batch, stage: None,
    stop: Callable[[], bool] = lambda: False,
    autocast: Callable[[], Any] = contextlib.nullcontext,
    prepare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    channels_last: bool = False,
) -> dict[str, float]:
    """Trains for one pass over the loader, or for what is left of one.

    Args:
        stepper: model, optimiser and what belongs to an update.
        loader: batches of images ``[B, C, H, W]`` and targets, ``[B]`` labels or ``[B, K]`` soft targets.
        loss_fn: logits and targets to a scalar.
        epoch: from 0.
        device: where the model is.
        progress: told of every update.
        method: the method in force, for messages.
        lr: the base group's learning rate, for the progress; asked for after `after_update`, which may change it, so
            that the epoch's last line and its summary agree.
        after_update: called with the number of updates since the start of the run and the mean loss of the epoch.
        faults: told of every update that cannot be made because loss or gradient is not finite.
        position: what of the epoch is behind; loaded again and passed over, so that the rest is the same. Kept up
            to date by whole updates.
        seed: called with the batch before it is loaded (stage 0; the first one counts as seeded) and before it goes
            through the model (stage 1): chance does not depend on the batches before, and a second look meets it again.
        stop: asked at every update whether this process wants to stop; if one does, all stop after the update.
        autocast: makes the context of the forward pass.
        prepare: changes a batch on the device (mixup without the prefetcher).
        channels_last: memory layout of the input.

    Returns:
        ``loss``, the mean over the epoch's images of all processes, and ``top1`` in per cent, nan with soft targets;
        ``skipped`` updates and ``fallbacks`` of the eigensolver.

    Raises:
        GCPError: loss or gradient is not finite, or a label lies outside the model's classes.
        Interrupted: a process was asked to stop.
        LoaderError: the loader's processes failed; model and position are those after the last whole update.
    """
    model: Any = stepper.model
    plain: nn.Module = unwrap_model(model)
    stepper.train_mode()
    batches = len(loader)
    updates = stepper.updates(batches)
    remainder = batches % stepper.accumulate
    world = process_count()
    began, images_before = time.monotonic(), position.loss_count
    if position.batches < batches:
        progress.begin(epoch, updates, math.ceil(position.batches / stepper.accumulate))
    stepper.optimizer.zero_grad()
    pending: list[Batch] = []
    buffers: list[Tensor] = []
    whole = replace(position)
    fault, sound = "", True

    def look(batch: Batch) -> Any:
        seed(batch.index, 1)
        return examine(plain, batch, loss_fn, autocast, gradient=sound)

    stream = _seeded(loader, seed)
    try:
        for index, (images, targets) in stream if position.batches < batches else ():
            if index < position.batches:
                continue
            images, targets = images.to(device), targets.to(device)
            seed(index, 1)
            if prepare is not None:
                images, targets = prepare(images, targets)
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            if not pending and (faults.skip or stepper.accumulate > 1):
                buffers = [buffer.clone() for buffer in plain.buffers()]
            pending.append(Batch(index, images, targets))
            update = (index + 1) % stepper.accumulate == 0 or index + 1 == batches
            steps = remainder if remainder and index >= batches - remainder else stepper.accumulate
            wait = model.no_sync() if hasattr(model, "no_sync") and not update else contextlib.nullcontext()
            with wait:
                with autocast():
                    logits = model(images)
                    check_labels(targets, logits.shape[1])
                    loss = loss_fn(logits, targets)
                value = loss.item()
                # All processes leave the same update out, and stop after the same one.
                unsound_here = not math.isfinite(value)
                unsound, stopping = any_of([unsound_here, stop()], device)
                if unsound and not fault:
                    whose = f"The loss became {value}" if unsound_here else "The loss of another process is not finite"
                    fault, sound = whose, False
                if not fault and not stepper.backward(loss / steps, update):
                    fault = "The gradient became infinite or nan"
            if not unsound_here:
                position.loss_sum += value * len(images)
                position.loss_count += len(images)
            if targets.dim() == 1:
                right = (logits.argmax(1) == targets).float().mean().item()
                position.right_sum += 100 * right * len(images)
                position.right_count += len(images)
            del logits, loss  # a second look at the batch needs their memory
            if not update:
                continue
            done = index // stepper.accumulate + 1
            stepper.optimizer.zero_grad()
            if fault:
                if faults.skip:
                    restore(plain, buffers)
                at = epoch * updates + done - 1
                faults.met(fault, pending, look, epoch=epoch, update=at, method=method())
                position.skipped += 1
                fault, sound = "", True
            else:
                faults.passed()
            pending = []
            position.batches = index + 1
            position.fallbacks += take_retried()
            rate = (position.loss_count - images_before) * world / (time.monotonic() - began)
            after_update(epoch * updates + done, position.loss)
            progress.update(done, position.loss, position.top1 if position.right_count else None, rate, lr())
            whole = replace(position)
            if stopping:
                raise Interrupted
    except (Interrupted, LoaderError):
        if pending:
            # The update in hand has more batches, which did not come: the run is resumed before it.
            restore(plain, buffers)
            vars(position).update(vars(whole))
        raise
    except torch.linalg.LinAlgError as error:
        raise GCPError(
            "The eigensolver did not converge, and a compiled model cannot solve a matrix by itself: go on without "
            "--torchcompile (--resume auto)."
        ) from error
    finally:
        stream.close()
        progress.end()
    if hasattr(stepper.optimizer, "sync_lookahead"):
        stepper.optimizer.sync_lookahead()
    total = totals(position, device)
    return {"loss": total.loss, "top1": total.top1, "skipped": total.skipped, "fallbacks": total.fallbacks}


def totals(position: Position, device: torch.device) -> Position:
    """The position in the epoch, its numbers summed over all processes; every process has to call it."""
    names = ("loss_sum", "loss_count", "right_sum", "right_count", "fallbacks")
    sums = summed(torch.tensor([getattr(position, name) for name in names], dtype=torch.float64), device).tolist()
    whole = replace(position, **dict(zip(names, sums, strict=True)))
    for name in ("loss_count", "right_count", "fallbacks"):
        setattr(whole, name, int(getattr(whole, name)))
    return whole


def _seeded(loader: Any, seed: Callable[[int, int], None]) -> Generator[tuple[int, Any], None, None]:
    """Batches with their numbers, each loaded from a seed of its own."""
    iterator = iter(loader)
    for index in itertools.count():
        if index:
            seed(index, 0)
        try:
            batch = next(iterator)
        except StopIteration:
            return
        yield index, batch
