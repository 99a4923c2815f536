"""Predicts the most probable classes of images, batch by batch."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.data import create_transform
from timm.utils import unwrap_model
from torch import Tensor
from tqdm import tqdm

from ..data import UnreadableImageError
from ..data.options import InputOptions, default_device
from ..data.preprocessing import image_dtype, image_mode, preprocessing
from ..errors import GCPError
from ..explanation.contributions import check_explainable, explain
from ..explanation.folder import ExplanationFolder
from ..output import BAR
from ..tasks import MULTI_LABEL, task_of_model
from ..text import printable
from .result import Prediction, PredictionList
from .sources import Images, Source, image_sources

__all__ = ["PredictionOptions", "predict_images"]


@dataclass(kw_only=True)
class PredictionOptions(InputOptions):
    """How images are read, and what is told of them.

    Attributes:
        top: number of classes per image.
        batch_size: images per batch.
        device: 'cpu', 'cuda', …; None takes CUDA where there is a device, else the CPU.
        threshold: of a multi-label model: a class of which the probability is above it is a label of the image; None
            takes 0.5.
        ignore_exif_orientation: do not turn images upright by their EXIF orientation.
        explain: folder for pictures of where the evidence is; '' for none.
    """

    top: int = 5
    batch_size: int = 32
    threshold: float | None = None
    device: str | None = None
    ignore_exif_orientation: bool = False
    explain: str = ""


def predict_images(model: Any, images: Images, options: PredictionOptions) -> PredictionList:
    """The most probable classes of images.

    Args:
        model: a timm model, compiled or not, of any floating-point dtype; its ``pretrained_cfg`` tells the
            preprocessing that the options leave open, and the names of its classes. It is moved to the device and left
            in evaluation mode.
        images: files, folders and PIL images, one or several.
        options: number of classes, preprocessing and device.

    Returns:
        The predictions, in the order of the images. Those that cannot be read are left out and listed in
        ``unreadable``.

    Raises:
        GCPError: no image that can be read, logits that are not finite, a model that cannot be explained, or a
            threshold for a model with one class for each image.
    """
    plain = unwrap_model(model)
    threshold = _threshold(plain, options)
    sources, device = image_sources(images), options.device or default_device()
    model = model.to(device).eval()
    config = preprocessing(options, model, use_test_size=True)
    names = _class_names(plain)
    explanations = None
    if options.explain:
        check_explainable(plain)
        explanations = ExplanationFolder(Path(options.explain), names, config["mean"], config["std"])
    found = PredictionList()
    for read in _batches(sources, options, config, found.unreadable):
        found.extend(_predict(model, read, names, options.top, threshold, device, explanations))
    if not found:
        raise GCPError(f"None of {len(sources)} images can be read: {found.unreadable[0]}")
    if explanations is not None:
        explanations.write()
    return found


def _batches(
    sources: Sequence[Source],
    options: PredictionOptions,
    config: dict[str, Any],
    unreadable: list[UnreadableImageError],
) -> Iterator[list[tuple[Source, Tensor]]]:
    """The images that can be read, preprocessed, in batches; the others are added to ``unreadable``."""
    transform: Any = create_transform(**config, is_training=False)
    mode, size = image_mode(config["input_size"][0]), options.batch_size
    hidden = len(sources) <= size or not sys.stderr.isatty()
    with tqdm(total=len(sources), desc="predicting", disable=hidden, bar_format=BAR) as bar:
        for start in range(0, len(sources), size):
            chunk = sources[start : start + size]
            read: list[tuple[Source, Tensor]] = []
            for source in chunk:
                try:
                    read.append((source, transform(source.read(mode, not options.ignore_exif_orientation))))
                except UnreadableImageError as error:
                    unreadable.append(error)
            if read:
                yield read
            bar.update(len(chunk))


def _class_names(model: Any) -> list[str]:
    """The model's label names, or its class numbers where it has none."""
    names = (model.pretrained_cfg or {}).get("label_names")
    if isinstance(names, (list, tuple)) and len(names) == model.num_classes:
        return [printable(str(name)) for name in names]
    return [str(label) for label in range(model.num_classes)]


def _predict(
    model: Any,
    read: Sequence[tuple[Source, Tensor]],
    names: Sequence[str],
    top: int,
    threshold: float | None,
    device: str,
    explanations: ExplanationFolder | None,
) -> Iterator[Prediction]:
    """The most probable classes of one batch, best first; with a folder of explanations, also why.

    Raises:
        GCPError: logits that are not finite.
    """
    sources, images = [source for source, _ in read], torch.stack([image for _, image in read])
    pixels = images.to(device, image_dtype(model))
    if explanations is None:
        every = _probabilities(model, pixels)
        _require_numbers(every, sources)
        probabilities, labels = every.topk(min(top, len(names)))
    else:
        explained = explain(unwrap_model(model), pixels, top=top)
        probabilities, labels = explained.probabilities, explained.classes
        _require_numbers(probabilities, sources)  # topk ranks NaN first
        explanations.add([source.name for source in sources], images, explained)
        every = probabilities if threshold is None else _probabilities(model, pixels)
    for source, shares, classes, row in zip(sources, probabilities.tolist(), labels.tolist(), every, strict=True):
        ranked = [(names[label], share) for label, share in zip(classes, shares, strict=True)]
        above = None if threshold is None else _above(threshold, row, names)
        yield Prediction(str(source.name), source.image, ranked, above)


@torch.inference_mode()
def _probabilities(model: Any, images: Tensor) -> Tensor:
    return task_of_model(unwrap_model(model)).probabilities(model(images).float()).cpu()


def _require_numbers(probabilities: Tensor, sources: Sequence[Source]) -> None:
    """Refuses logits that are not finite, which give no probabilities.

    Raises:
        GCPError: naming the first such image.
    """
    for source, row in zip(sources, probabilities, strict=True):
        if row.isnan().any():
            raise GCPError(f"The logits of {source.name} are not finite; check the weights of the model.")


def _above(threshold: float, probabilities: Tensor, names: Sequence[str]) -> list[tuple[str, float]]:
    """The classes whose probability is above a threshold, the most probable first."""
    shares, labels = probabilities.sort(descending=True, stable=True)
    return [
        (names[label], share)
        for label, share in zip(labels.tolist(), shares.tolist(), strict=True)
        if share > threshold
    ]


def _threshold(model: Any, options: PredictionOptions) -> float | None:
    """The probability above which a class is a label; None for a model with one class for each image."""
    if task_of_model(model) is MULTI_LABEL:
        return 0.5 if options.threshold is None else options.threshold
    if options.threshold is not None:
        raise GCPError(
            "`threshold` is for multi-label models, and this one has one class for each image; leave it out."
        )
    return None
