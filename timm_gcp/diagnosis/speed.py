"""Times an epoch on this machine: the loader alone and the training step alone, with real batches of the data set."""

import itertools
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..data.loaders import GuardedLoader, training_loader
from ..data.options import InputOptions
from ..data.preprocessing import preprocessing
from ..errors import GCPError
from ..models.named import create_model
from ..text import first_line
from ..training.faults import Batch
from ..training.out_of_memory import naming_the_batch
from ..training.progress import peak_memory
from ..training.step import Stepper
from .options import DiagnosisOptions
from .splits import Split

__all__ = ["Speed", "time_epoch"]

_LESS_MEMORY = "lower -b or --img-size"


@dataclass(frozen=True)
class Speed:
    """What was timed.

    Attributes:
        model, img_size, batch_size, device, workers: of the timing.
        loader: images per second that are loaded, augmented and collated.
        step: images per second of forward pass, backward pass and update.
        memory: the most that the process has taken, as a phrase; '' where it cannot be told.
        images: of an epoch.
    """

    model: str
    img_size: int
    batch_size: int
    device: str
    workers: int
    loader: float
    step: float
    memory: str
    images: int

    @property
    def epoch_seconds(self) -> float:
        """Seconds of an epoch of training: what is slower decides, or, without loader processes, both in turn."""
        if self.workers == 0:
            return self.images / self.loader + self.images / self.step
        return self.images / min(self.loader, self.step)

    @property
    def bottleneck(self) -> str:
        """'loader' or 'training step'."""
        return "loader" if self.loader < self.step else "training step"


def time_epoch(split: Split, options: DiagnosisOptions, img_size: int, batch_size: int) -> Speed:
    """Times loader and training step of a model with random weights, which take as long as others.

    Args:
        split: to train on.
        options: model, device, precision, augmentation and loader processes; half of ``seconds`` is for each part, and
            a part takes at least two batches.
        img_size: height and width of the images, pixels.
        batch_size: images per batch, at most those of the split.

    Raises:
        GCPError: the model cannot be had, does not take such images, or memory does not suffice.
    """
    device = options.torch_device
    batch_size = min(batch_size, len(split.dataset))
    classes = max(len(split.class_names), 2)
    model: Any = create_model(options.model, num_classes=classes, image_size=(img_size, img_size))
    layout = torch.channels_last if options.channels_last else torch.preserve_format
    model = model.to(device, memory_format=layout)
    config = preprocessing(InputOptions(img_size=img_size), model)
    loader = training_loader(
        split.dataset,
        workers=options.workers,
        seed=0,
        input_size=config["input_size"],
        mean=config["mean"],
        std=config["std"],
        batch_size=batch_size,
        use_prefetcher=not options.no_prefetcher,
        pin_memory=options.pin_mem,
        device=device,
        scale=options.scale,
        color_jitter=options.color_jitter,
        interpolation="random",
    )
    try:
        batch, loaded = _time_loader(loader, options.seconds / 2, options.workers)
    finally:
        loader.close()
    with naming_the_batch(batch_size, device, _LESS_MEMORY):
        step = _time_step(model, batch, options, options.seconds / 2, device)
    return Speed(
        model=options.model,
        img_size=img_size,
        batch_size=batch_size,
        device=str(device),
        workers=options.workers,
        loader=loaded,
        step=step,
        memory=peak_memory(device),
        images=len(split.dataset),
    )


def _time_loader(loader: GuardedLoader, seconds: float, workers: int) -> tuple[Any, float]:
    """A batch, and the images per second; the start of the processes and what they prepare meanwhile do not count."""
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    batch = next(batches)
    for _ in range(min(2 * workers, len(loader) - 1)):  # prefetched while the processes started
        next(batches)
    began, images = time.perf_counter(), 0
    while images == 0 or time.perf_counter() - began < seconds:
        batch = next(batches)
        images += len(batch[0])
    return batch, images / (time.perf_counter() - began)


def _time_step(model: nn.Module, batch: Any, options: DiagnosisOptions, seconds: float, device: torch.device) -> float:
    """Images per second of updates on one batch, after one that does not count."""
    images, targets = (each.to(device) for each in batch)
    if options.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    stepper = Stepper(model, optimizer, nn.CrossEntropyLoss(), autocast=options.autocast(device))
    stepper.train_mode()

    def update() -> None:
        stepper.update([Batch(0, images, targets)], device, lambda _: None, lambda: False)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    try:
        update()
    except (ValueError, TypeError, AssertionError) as error:  # models raise all kinds for a size that they do not take
        raise GCPError(f"{options.model} cannot take these images: {first_line(error)}; give another.") from error
    began, updates = time.perf_counter(), 0
    while updates == 0 or time.perf_counter() - began < seconds:
        update()
        updates += 1
    return updates * len(images) / (time.perf_counter() - began)
