"""A loss or a gradient that is not finite: where it was first seen, what the batch was, and what to do about it."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import GCPError
from ..files import save_atomically
from ..hybrid.monitor import conditioning, largest_k, split_groups
from ..pooling import GlobalCovariancePool, find_pools
from ..text import some_of

__all__ = ["Batch", "Faults", "Findings", "examine"]

_logger = logging.getLogger(__name__)

REMEDY = "lower --lr, add --clip-grad 5, train longer with the warm method or another one, or leave --amp out"
KEPT = 10
"""Batches that a run with ``--on-nonfinite skip`` saves; the next ones are only counted."""
IN_A_ROW = 100
"""Updates skipped one after another that end a run all the same: nothing is being learned."""


@dataclass
class Batch:
    """What one forward pass saw.

    Attributes:
        index: position in the epoch.
        images: ``[B, C, H, W]``, as the model got them.
        targets: labels ``[B]`` or soft targets ``[B, K]``.
    """

    index: int
    images: Tensor
    targets: Tensor


@dataclass
class Findings:
    """What a second pass over a batch showed.

    Attributes:
        where: what was first not finite, as a part of a sentence; '' where everything was finite this time.
        kappa: condition numbers of the covariances, nan for features that are not finite: one per image, or with the
            pool's ``groups`` one for each group of channels, those of the first image first.
        largest_k: largest 1/(λi − λj) of each covariance, in the same order.
    """

    where: str
    kappa: Tensor
    largest_k: Tensor


def examine(
    model: nn.Module,
    batch: Batch,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    autocast: Callable[[], Any],
    gradient: bool = False,
) -> Findings:
    """Runs a batch through a model once more, and looks at every layer. Buffers and gradients stay as they are.

    Args:
        model: the model without wrappers, in the mode in which it met the fault.
        batch: the batch.
        loss_fn: logits and targets to a scalar.
        autocast: makes the context of the forward pass.
        gradient: looks at the gradients too.
    """
    seen = _Seen()
    handles = seen.watch(model, gradient)
    before = [buffer.clone() for buffer in model.buffers()]
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    grads: Sequence[Tensor | None] = ()
    try:
        with torch.set_grad_enabled(gradient):
            with autocast():
                loss = loss_fn(model(batch.images), batch.targets)
            if gradient:
                # Not backward(): the hooks of DistributedDataParallel would talk to the other processes.
                grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
        restore(model, before)
    wrong = [name for name, grad in zip(weights, grads, strict=False) if grad is not None and not _finite(grad)]
    where = _in_the_input(model, batch) or seen.first(loss) or (f"the gradient of {wrong[-1]}" if wrong else "")
    nothing = torch.empty(0)
    return Findings(
        where,
        torch.cat([conditioning(x)[:, 0].cpu() for x in seen.features]) if seen.features else nothing,
        torch.cat([largest_k(x).cpu() for x in seen.features]) if seen.features else nothing,
    )


class _Seen:
    """What hooks on every layer saw of one forward and backward pass.

    Attributes:
        outputs: layers whose output was not finite, in the order of the forward pass.
        backward: layer and whether the gradient of its output was finite, in the order of the backward pass.
        features: the maps whose covariance is taken, each group of channels as a map of its own.
    """

    def __init__(self) -> None:
        self.outputs: list[str] = []
        self.backward: list[tuple[str, bool]] = []
        self.features: list[Tensor] = []

    def watch(self, model: nn.Module, gradient: bool) -> list[RemovableHandle]:
        """Sets hooks on the layers and the covariance pools of a model; on gradients too if asked to."""
        watched = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, GlobalCovariancePool) or not any(module.children())
        }
        handles = [module.register_forward_hook(self._hook(name, gradient)) for name, module in watched.items()]
        for pool in find_pools(model):
            handles.append(pool.reduce.register_forward_hook(self._keep(pool.options.groups)))
        return handles

    def _keep(self, groups: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.features.append(split_groups(output.detach().clone(), groups))

        return hook

    def _hook(self, name: str, gradient: bool) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return
            if not _finite(output):
                self.outputs.append(name)
            if gradient and output.requires_grad:
                output.register_hook(lambda grad: self.backward.append((name, _finite(grad))))

        return hook

    def first(self, loss: Tensor) -> str:
        """What was first not finite between the input and the gradients of the weights; '' if nothing was."""
        if self.outputs:
            return f"the output of {self.outputs[0]}"
        if not _finite(loss):
            return "the loss itself"
        # Gradients run from the loss down: the last layer with a finite one is the layer that spoiled the next.
        spoiled = next((i for i, (_, finite) in enumerate(self.backward) if not finite), None)
        if spoiled is None:
            return ""
        return f"the gradient that leaves {self.backward[spoiled - 1][0] if spoiled else 'the loss'}"


def _in_the_input(model: nn.Module, batch: Batch) -> str:
    """Whether the images or the weights are not finite; '' if both are."""
    if not _finite(batch.images):
        return f"image {next(i for i, image in enumerate(batch.images) if not _finite(image))} of the batch"
    stale = next((name for name, parameter in model.named_parameters() if not _finite(parameter)), None)
    return f"the weights {stale}" if stale else ""


def restore(model: nn.Module, buffers: Sequence[Tensor]) -> None:
    """Puts buffers back: a batch that is not finite spoils the running statistics of batch norm for good."""
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)


def _finite(x: Tensor) -> bool:
    return bool(x.isfinite().all())


class Faults:
    """What a run does about losses and gradients that are not finite.

    Args:
        folder: the run folder, where the batches go.
        skip: leaves such updates out; else the first one ends the run.
        names: the files of a batch of the present epoch.
        rank: of this process.
    """

    def __init__(
        self, folder: Path, *, skip: bool = False, names: Callable[[int], list[str]] = lambda index: [], rank: int = 0
    ) -> None:
        self.folder, self.skip, self.names, self.rank = folder, skip, names, rank
        self._saved = self._in_a_row = 0

    def passed(self) -> None:
        """An update was made."""
        self._in_a_row = 0

    def met(
        self,
        what: str,
        batches: Sequence[Batch],
        look: Callable[[Batch], Findings],
        *,
        epoch: int,
        update: int,
        method: str | None,
    ) -> None:
        """Examines the batches of an update that cannot be made, saves the one at fault, and says so.

        Args:
            what: what became of it, such as 'The loss became nan'.
            batches: the batches of the update.
            look: runs one of them again (``examine``).
            epoch: from 0.
            update: since the start of the run, from 1.
            method: the method in force.

        Raises:
            GCPError: unless such updates are skipped; then only after too many in a row.
        """
        self._in_a_row += 1
        place = f"at update {update} (epoch {epoch + 1}){f' under method {method!r}' if method else ''}"
        if self.skip and self._saved >= KEPT and self._in_a_row < IN_A_ROW:
            _logger.warning("%s %s; skipped", what, place)
            return
        batch, findings = batches[-1], None
        for batch in batches:
            findings = look(batch)
            if findings.where:
                break
        assert findings is not None
        text = f"{what} {place}, batch {batch.index + 1} of the epoch{self._describe(batch, findings)}"
        text += f"; the batch is in {self._save(batch, findings, epoch, update, method)}"
        if not self.skip:
            raise GCPError(f"{text}; {REMEDY}, or go on without such updates (--on-nonfinite skip){self._again()}.")
        if self._in_a_row >= IN_A_ROW:
            raise GCPError(
                f"{text}; {IN_A_ROW} updates in a row were skipped, so nothing is learned: {REMEDY}{self._again()}."
            )
        _logger.warning("%s; skipped", text)

    def _again(self) -> str:
        last = self.folder / "last.pth.tar"
        return f"; each of these takes effect with --resume {last}" if last.exists() else ""

    def _describe(self, batch: Batch, findings: Findings) -> str:
        names = self.names(batch.index)
        text = f" ({some_of(names, 3)})" if names else ""
        # The batch of another process, or what only the compiled model does.
        text += f": first not finite is {findings.where}" if findings.where else ": a second pass over it was finite"
        if len(findings.kappa):
            text += f"; largest κ {_largest(findings.kappa)}, largest |K| {_largest(findings.largest_k)}"
            bad = int(findings.kappa.isnan().sum())
            text += f", {bad} of {len(findings.kappa)} covariances without any" if bad else ""
        return text

    def _save(self, batch: Batch, findings: Findings, epoch: int, update: int, method: str | None) -> Path:
        self._saved += 1
        content = {"images": batch.images.detach().cpu().contiguous(), "targets": batch.targets.cpu().contiguous()}
        if len(findings.kappa):
            content.update(kappa=findings.kappa.contiguous(), largest_k=findings.largest_k.contiguous())
        numbers = {"epoch": epoch + 1, "update": update, "batch": batch.index + 1}  # from 1, as in the message
        about = {**numbers, "method": method, "where": findings.where}
        metadata = {key: str(value) for key, value in about.items()} | {"files": json.dumps(self.names(batch.index))}
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"nonfinite-{update}{f'-{self.rank}' if self.rank else ''}.safetensors"
        save_atomically(path, lambda file: file.write(save(content, metadata)))
        return path


def _largest(values: Tensor) -> str:
    known = values[~values.isnan()]
    return f"{float(known.max()):.2g}" if len(known) else "unknown"
