"""One update of the weights from one or more batches, and what is read from the device for it."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.utils import dispatch_clip_grad, unwrap_model
from torch import Tensor, nn

from ..distributed import any_of
from ..tasks import check_labels
from .faults import Batch
from .optimizer import classifiers
from .orthogonality import Orthogonality

__all__ = ["Stepper", "Update"]


@dataclass
class Update:
    """What the device said of one update, all of it read at once.

    Attributes:
        losses: mean loss of each batch.
        right: share of the images of each batch that were classified correctly; nan for soft targets.
        sizes: images of each batch.
        finite_loss: the loss is finite in every process.
        fault: why the weights were left as they are, '' where they were updated.
        stopping: a process was asked to stop.
    """

    losses: Sequence[float]
    right: Sequence[float]
    sizes: Sequence[int]
    finite_loss: bool
    fault: str
    stopping: bool


@dataclass
class Stepper:
    """Makes an update of the weights: forward and backward passes, clipping, accumulation and gradient scaler.

    Attributes:
        model: the model that is called, wrapped or not.
        optimizer: its optimiser.
        loss: logits and targets to a scalar.
        scaler: gradient scaler for float16, or None. It leaves out updates of its own while it looks for its scale;
            these are no faults, until the scale falls below 1.
        clip_grad: norm, value or factor, or None.
        clip_mode: 'norm', 'value' or 'agc'.
        accumulate: batches per update.
        frozen: parts of the model that are not trained; they stay in evaluation mode.
        autocast: makes the context of a forward pass.
        orthogonality: changes gradient and rate of the reduction before the pool, or None.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    loss: Callable[[Tensor, Tensor], Tensor]
    scaler: torch.amp.GradScaler | None = None
    clip_grad: float | None = None
    clip_mode: str = "norm"
    accumulate: int = 1
    frozen: Sequence[nn.Module] = ()
    autocast: Callable[[], Any] = contextlib.nullcontext
    orthogonality: Orthogonality | None = None

    def train_mode(self) -> None:
        """Puts the model into training mode, except for what is frozen."""
        self.model.train()
        for module in self.frozen:
            module.eval()

    def updates(self, batches: int) -> int:
        """Optimiser updates that so many batches make."""
        return math.ceil(batches / self.accumulate)

    def update(
        self, batches: Sequence[Batch], device: torch.device, before: Callable[[Batch], None], stop: Callable[[], bool]
    ) -> Update:
        """Makes one update from the batches of an accumulation.

        Loss, accuracy, labels and the largest gradient are read from the device together, once, before the weights
        change. (Distributed training waits once more; a gradient scaler does so three times, for its check and its
        scale before and after.)

        Args:
            batches: images ``[B, C, H, W]`` with targets, ``[B]`` labels or ``[B, K]`` soft targets.
            device: of the model.
            before: called with each batch before its forward pass; it may replace images and targets.
            stop: whether this process was asked to stop. All processes stop after the same update.

        Returns:
            What was read. With a fault in any process, no process updates its weights.

        Raises:
            GCPError: a label lies outside the model's classes.
        """
        numbers: list[Tensor] = []
        classes = 0
        for batch in batches:
            before(batch)
            with self._without_synchronisation(last=batch is batches[-1]):
                loss, logits = self._forward(batch)
                self._backward(loss / len(batches))
            classes = logits.shape[1]
            numbers.append(_numbers(loss.detach(), logits.detach(), batch.targets))
            del loss, logits  # a second look at the batch needs their memory
        gradient = torch.zeros((), device=device) if self.scaler is not None else self._largest_gradient()
        read = torch.cat([*numbers, _wide(gradient)[None]]).tolist()
        rows = [read[4 * index : 4 * index + 4] for index in range(len(batches))]
        check_labels(min(row[2] for row in rows), max(row[3] for row in rows), classes)
        losses = [row[0] for row in rows]
        faulty = next((loss for loss in losses if not math.isfinite(loss)), None)
        elsewhere, stopping = any_of([faulty is not None, stop()], device)
        fault = ""
        if faulty is not None:
            fault = f"The loss became {faulty}"
        elif elsewhere:
            fault = "The loss of another process is not finite"
        elif not math.isfinite(read[-1]):
            fault = "The gradient became infinite or nan"
        if not fault and not self._step():
            fault = "The gradient is infinite or nan even at a loss scale below 1"
        self.optimizer.zero_grad()
        right, sizes = [row[1] for row in rows], [len(batch.images) for batch in batches]
        return Update(losses, right, sizes, not elsewhere, fault, stopping)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with self.autocast():
            logits = self.model(batch.images)
            targets = batch.targets
            if targets.dim() == 1:
                # A label out of range would end a GPU's kernel; it is reported when the numbers are read.
                targets = targets.clamp(0, logits.shape[1] - 1)
            return self.loss(logits, targets), logits

    def _without_synchronisation(self, last: bool) -> Any:
        """Gradients of several processes meet at the last batch of an accumulation only."""
        return self.model.no_sync() if hasattr(self.model, "no_sync") and not last else contextlib.nullcontext()

    def _backward(self, loss: Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def _largest_gradient(self) -> Tensor:
        """The largest entry of the gradient: a sum of squares could overflow where no gradient does."""
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(grads, norm_type=math.inf)

    def _clipped(self) -> list[nn.Parameter]:
        """The parameters whose gradients are clipped: all, without the classifier in mode 'agc' as in timm."""
        # Not timm's model_parameters(exclude_head=True): it takes the last two parameters, which are the pool's here.
        head = classifiers(unwrap_model(self.model)) if self.clip_mode == "agc" else []
        spared = {id(parameter) for module in head for parameter in module.parameters()}
        return [parameter for parameter in self.model.parameters() if id(parameter) not in spared]

    def _step(self) -> bool:
        """Clips the gradient and updates the weights.

        Returns:
            False where the gradient scaler left the update out and has no scale left to try.
        """
        if self.scaler is not None and (self.clip_grad is not None or self.orthogonality is not None):
            self.scaler.unscale_(self.optimizer)
        if self.clip_grad is not None:
            dispatch_clip_grad(self._clipped(), value=self.clip_grad, mode=self.clip_mode)
        with self.orthogonality.applied(self.optimizer) if self.orthogonality else contextlib.nullcontext():
            if self.scaler is None:
                self.optimizer.step()
                return True
            before = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            # Halved after a gradient that is not finite, and kept or raised after any other.
            return (scale := self.scaler.get_scale()) >= 1 or scale >= before


def _numbers(loss: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """Loss, share of correct images, smallest and largest label; labels are 0 and the share nan for soft targets."""
    if targets.dim() == 1:
        right = (logits.argmax(1) == targets).float().mean()
        low, high = targets.aminmax()
    else:
        right = torch.full((), math.nan, device=loss.device)
        low = high = torch.zeros((), device=loss.device)
    return torch.stack([_wide(each) for each in (loss, right, low, high)])


def _wide(value: Tensor) -> Tensor:
    # Apple's GPUs have no float64.
    return value.to(torch.float32 if value.device.type == "mps" else torch.float64)
