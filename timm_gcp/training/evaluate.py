"""Evaluates a model on a data set: the metrics of its task and the loss, in one call or on a loader."""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn
from tqdm import tqdm

from ..data import divide, split_to_evaluate
from ..data.class_names import check_classes, class_names
from ..data.holdout import same_images
from ..data.loaders import evaluation_loader
from ..data.open_dataset import open_dataset
from ..data.options import DatasetOptions, InputOptions, LoadingOptions
from ..data.preprocessing import image_dtype, preprocessing
from ..distributed import summed
from ..errors import GCPError
from ..output import BAR
from ..pooling import find_pools
from ..tasks import SINGLE_LABEL, Task
from .allocator import keep_heap
from .out_of_memory import naming_the_batch

__all__ = ["Evaluation", "EvaluationOptions", "evaluate", "evaluate_model"]

_logger = logging.getLogger(__name__)

_WHOLE = "all images"
"""What is evaluated of class folders without splits."""


@dataclass(kw_only=True)
class EvaluationOptions(DatasetOptions, InputOptions, LoadingOptions):
    """What a model is evaluated on, and how.

    Attributes:
        split: split that is evaluated.
        val_fraction: evaluate on the part of the training images that training with this share held out; 0 takes the
            split.
        val_seed: seed of that draw.
        batch_size: images per batch.
        tta: 'mirror' averages the logits of each image and its mirror image.
    """

    split: str = "validation"
    val_fraction: float = 0.0
    val_seed: int = 0
    batch_size: int = 256
    tta: str = ""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        task: whether an image has one label or several.
        metrics: of the task, beside the loss: ``top1`` and ``top5``, per cent (with five classes or fewer, top-5 is
            always right); of several labels per image ``map``, ``micro_f1`` and ``macro_f1``, per cent, and
            ``without_positives``, the number of classes that no image has.
        loss: mean cross-entropy, binary for several labels per image.
        count: number of images.
        images_per_second: loading included.
        split: what was evaluated.
        held_out: whether it is the part of the training images that was held out.
        method: method of covariance pooling; '' without it.
        parameters: of the model.
        img_size: width of the images, pixels.
        crop_pct: share of the resized image that was kept.
        interpolation: resampling filter.
        tta: as in the options.
        predictions: image by image, ``Predictions`` or ``MultiLabelPredictions``.
        images: what was evaluated, a data set in timm's form.
    """

    task: Task
    metrics: Mapping[str, float]
    loss: float
    count: int
    images_per_second: float
    split: str
    held_out: bool
    method: str
    parameters: int
    img_size: int
    crop_pct: float
    interpolation: str
    tta: str
    predictions: Any = field(repr=False, compare=False)
    images: Any = field(repr=False, compare=False)

    @property
    def top1(self) -> float:
        """Top-1 accuracy, per cent; nan for several labels per image."""
        return self.metrics.get("top1", math.nan)

    @property
    def top5(self) -> float:
        """Top-5 accuracy, per cent; nan for several labels per image."""
        return self.metrics.get("top5", math.nan)


def evaluate_model(
    model: Any, options: EvaluationOptions, examine: Callable[[Any], None] = lambda dataset: None
) -> Evaluation:
    """Evaluates a model on a data set.

    Args:
        model: a timm model, compiled or not, of any floating-point dtype; its ``pretrained_cfg`` tells the
            preprocessing that the options leave open.
        options: data, preprocessing, device and loading.
        examine: a further check of the data set, before its images are opened and before a part of it is taken.

    Raises:
        GCPError: a data set that cannot be had, whose classes are not the model's or that is empty; or memory that
            does not suffice.

    Example::

        model = timm.create_model("local-dir:runs/birds/model", pretrained=True)
        print(evaluate_model(model, EvaluationOptions(data_dir="birds", split="test")).top1)
    """
    device = options.torch_device
    keep_heap(device)
    model = model.to(device, memory_format=torch.channels_last if options.channels_last else torch.preserve_format)
    data_config = preprocessing(options, model, use_test_size=True)
    plain = unwrap_model(model)
    dataset, split, held_out = _open(options, plain, data_config["input_size"][0], examine)
    recorder = options.task.recorder()
    less = naming_the_batch(options.batch_size, device, "lower -b or --img-size, or add --amp")
    with less, evaluation_loader(options, dataset, data_config, device, options.batch_size) as loader:
        metrics = evaluate(
            model,
            loader,
            device=device,
            autocast=options.autocast(device),
            channels_last=options.channels_last,
            tta=options.tta,
            description="evaluating",
            record=recorder.add,
            task=options.task,
        )
    pools = find_pools(plain)
    return Evaluation(
        loss=metrics.pop("loss"),
        count=int(metrics.pop("count")),
        images_per_second=metrics.pop("images_per_second"),
        task=options.task,
        metrics=metrics,
        split=split,
        held_out=held_out,
        method=pools[0].method if pools else "",
        parameters=sum(p.numel() for p in model.parameters()),
        img_size=data_config["input_size"][-1],
        crop_pct=data_config["crop_pct"],
        interpolation=data_config["interpolation"],
        tta=options.tta,
        predictions=recorder.predictions(dataset, split, class_names(plain, dataset)),
        images=dataset,
    )


def _open(
    options: EvaluationOptions, model: nn.Module, channels: int, examine: Callable[[Any], None]
) -> tuple[Any, str, bool]:
    """The images to evaluate, what they are, and whether they are a held-out part of the training images."""

    def check(opened: Any) -> None:
        check_classes(model, opened)
        examine(opened)

    fraction, seed = options.val_fraction, options.val_seed
    divided = split_to_evaluate(options.dataset, options.data_dir, options.split, fraction)
    dataset = open_dataset(
        options,
        options.split if divided is None else divided,
        channels,
        is_training=divided is not None,
        download=options.dataset_download,
        examine=check,
    )
    if divided is None:
        whole = not options.dataset and same_images("", options.data_dir, "", options.split)
        return dataset, _WHOLE if whole else options.split, False
    return divide(dataset, fraction, seed)[1], f"{divided or _WHOLE}, {fraction:g} held out (seed {seed})", True


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
    record: Callable[[Tensor, Tensor], None] | None = None,
    task: Task = SINGLE_LABEL,
) -> dict[str, float]:
    """Evaluates a classifier on a data set, exactly: every image counts once, also in a short last batch.

    A warning counts the images whose logits are not all finite.

    Args:
        model: the model; it is left in evaluation mode.
        loader: batches of images ``[B, C, H, W]`` and labels ``[B]``, or ``[B, K]`` for several labels per image; not
            shuffled.
        device: where the model is.
        autocast: makes the context of the forward pass.
        channels_last: memory layout of the input.
        tta: 'mirror' averages the logits of an image and its mirror image.
        description: title of a progress bar on a terminal; '' for none.
        between: called after every batch.
        record: called with the logits ``[B, K]`` and the labels of every batch of this process.
        task: whether an image has one label or several.

    Returns:
        ``loss``, the metrics of the task (`Evaluation.metrics`), ``count`` of images and ``images_per_second``, loading
        included.

    Raises:
        GCPError: the data set is empty, or the labels do not fit the model's classes.
    """
    model.eval()
    meter = task.meter(device)
    dtype = image_dtype(model)
    odd = torch.zeros((), dtype=torch.int64, device=device)
    began = time.monotonic()
    quiet = not description or not sys.stderr.isatty()
    batches = tqdm(loader, description, len(loader), leave=False, disable=quiet, dynamic_ncols=True, bar_format=BAR)
    for images, labels, real in _without_padding(batches, loader):
        images, labels = images.to(device, dtype), labels.to(device)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast():
            logits = model(images)
            if tta == "mirror":
                logits = (logits + model(images.flip(-1))) / 2
        logits, labels = logits.float()[:real], labels[:real]
        odd += (~logits.isfinite()).any(1).sum()
        meter.add(logits, labels)
        if record is not None:
            record(logits, labels)
        between()
    metrics = meter.result(device)
    if not metrics["count"]:
        raise GCPError("There is no image to evaluate; check --data-dir and the split.")
    if number := int(summed(odd, device)):
        _logger.warning(
            "The logits of %d of %d images are not finite, and count as wrong: check the weights, or evaluate without "
            "--amp.",
            number,
            metrics["count"],
        )
    metrics["images_per_second"] = metrics["count"] / max(time.monotonic() - began, 1e-9)
    return metrics


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
