"""``timm_gcp.probe``: a probe from Python, on a folder of images, on batches or on arrays."""

import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..data.options import TrainingDataOptions
from ..errors import GCPError
from ..models.deepcopy import copy_model
from ..models.folder import channels_of
from ..models.named import ModelChoice, load_model
from ..models.names import plain_name
from ..text import first_line, nearest
from .backbone import Backbone
from .directions import SUBSET, Directions, directions_of, spaced
from .features import FeatureArrays
from .options import ProbeOptions
from .probe import Probe, Say, fit_probe, fit_to_features

__all__ = ["probe"]


def probe(
    model: str | nn.Module,
    train: Any,
    evaluation: Any = None,
    *,
    class_names: list[str] | None = None,
    cache: str | PathLike[str] | None = None,
    say: Say = print,
    **options: Any,
) -> Probe:
    """Fits a classifier with covariance features to a frozen backbone.

    Args:
        model: a timm model; or a name, model folder or run folder, whose weights are loaded
            (``<backbone>_<method>.init-<tag>`` stands for ``<backbone>.<tag>`` and that method). A model is not
            changed; the probe's model is a copy in float32, without the wrapper of a compiled one.
        train: a folder of images; or batches of images ``[B, C, H, W]``, preprocessed for the model, and labels
            ``[B]``, from a ``DataLoader``, a list or anything else that can be passed through twice; or a pair of
            arrays, images ``[N, C, H, W]`` and labels ``[N]``. Images are floating-point numbers, labels whole numbers
            from 0.
        evaluation: batches or arrays to evaluate. With a folder, its evaluation split is evaluated.
        class_names: by label, with batches and arrays; a folder has its own.
        cache: with a folder: where its features are kept for the next call; None does not keep them.
        say: takes lines for the user.
        **options: attributes of `ProbeOptions` by name, such as ``method``, ``components``, ``compare`` and ``device``.

    Returns:
        The probe. ``.model`` is a timm model, ``.save(folder)`` writes it, ``.results`` has the accuracies, and
        ``print`` shows them as a table.

    Raises:
        GCPError: bad input of any kind; the message names the remedy.

    Example::

        found = timm_gcp.probe("vit_small_patch14_dinov2", "my-photos", img_size=224, compare=True)
        print(found)
        found.save("my-classifier")
    """
    known = {each.name for each in fields(ProbeOptions) if each.init}
    for name in options:
        if name not in known:
            raise GCPError(f"A probe has no option '{name}'{nearest(name, known)}")
    if isinstance(model, str) and (plain := plain_name(model)):
        model, options = plain.of_backbone, {"method": plain.method, **options}
    chosen = ProbeOptions(**options)
    # The head that is fitted is in float32, so the copy of the backbone is.
    if isinstance(model, str):
        network = load_model(ModelChoice(model=model, in_chans=chosen.channels, image_size=chosen.image_size))
    else:
        network = copy_model(unwrap_model(model)).float()
    if not isinstance(train, (str, PathLike)):
        of_data = {each.name for each in fields(TrainingDataOptions)} | {"views"}
        for name in of_data & set(options):
            raise GCPError(f"`{name}` goes with a folder of images, not with batches or arrays; leave it out.")
        if cache is not None:
            raise GCPError("`cache` goes with a folder of images; features of batches stay in memory.")
        return _fit_to_batches(network, chosen, train, evaluation, class_names, say)
    if evaluation is not None or class_names is not None:
        raise GCPError("A folder of images has its own evaluation split and class names: give `val_split` instead.")
    chosen = replace(chosen, data_dir=str(train))
    if cache is not None:
        return fit_probe(network, chosen, Path(cache), say)
    with tempfile.TemporaryDirectory() as folder:
        return fit_probe(network, chosen, Path(folder), say)


def _fit_to_batches(
    model: nn.Module, options: ProbeOptions, train: Any, evaluation: Any, class_names: list[str] | None, say: Say
) -> Probe:
    backbone = Backbone(model, options)
    began = time.monotonic()
    channels = channels_of(model)
    batches = _batches(train, options.batch_size, channels)
    some = batches
    if _is_pair(train):
        images, labels = _pair(train)
        chosen = spaced(len(images))
        some = _batches((images[chosen], labels[chosen]), options.batch_size, channels)
    directions = directions_of(_some_maps(backbone, some), options.components)
    trained = _features(backbone, batches, directions)
    evaluated = None
    if evaluation is not None:
        evaluated = _features(backbone, _batches(evaluation, options.batch_size, channels), directions)
    seconds = time.monotonic() - began
    classes = _number_of_classes(trained, evaluated, class_names)
    found = fit_to_features(model, options, backbone, directions, trained, evaluated, classes, say)
    found.class_names = class_names
    found.seconds = {"features": round(seconds, 1), **found.seconds}
    return found


def _number_of_classes(train: FeatureArrays, evaluation: FeatureArrays | None, names: list[str] | None) -> int:
    """The number of classes by the labels and the names.

    Raises:
        GCPError: fewer names than classes, or a label that is evaluated and not among the classes.
    """
    largest = int(train.labels().max())
    if names is not None and len(names) <= largest:
        raise GCPError(f"`class_names` names {len(names)} of {largest + 1} classes; give a name for each.")
    classes = largest + 1 if names is None else len(names)
    evaluated = -1 if evaluation is None else int(evaluation.labels().max())
    if evaluated >= classes:
        raise GCPError(
            f"`evaluation` has the label {evaluated}, and the training images have labels up to {classes - 1}; "
            "evaluate on images of the same classes."
        )
    return classes


@dataclass(frozen=True)
class _Checked:
    """Batches of images and labels, checked as they pass.

    Attributes:
        batches: as they were given; passed through as often as this is.
        channels: of the images that the model takes; None if it does not tell.
    """

    batches: Iterable[Any]
    channels: int | None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for given in self.batches:
            images, labels = _pair(given)
            if not images.is_floating_point():
                raise GCPError(
                    f"The images are of {_dtype(images)}: give floating-point numbers, preprocessed for the model "
                    "(timm.data.create_transform)."
                )
            if images.dim() != 4 or self.channels not in (None, images.shape[1]):
                wanted = "" if self.channels is None else f" with C={self.channels}, as the model takes them"
                raise GCPError(
                    f"The images are {list(images.shape)}: give [B, C, H, W]{wanted} (images of [B, H, W, C]: "
                    "images.movedim(3, 1))."
                )
            if labels.is_floating_point() or labels.is_complex() or labels.dim() != 1:
                raise GCPError(
                    f"The labels are {list(labels.shape)} of {_dtype(labels)}: give whole numbers [B], one per image."
                )
            if len(labels) and int(labels.min()) < 0:
                raise GCPError(f"There is a label {int(labels.min())}; number the classes from 0.")
            yield images.float(), labels


def _pair(given: Any) -> tuple[Tensor, Tensor]:
    """Images and labels as tensors.

    Raises:
        GCPError: something that is no two of them.
    """
    try:
        images, labels = (torch.as_tensor(each) for each in given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise GCPError(
            f"Images and labels are given as two tensors or arrays, [B, C, H, W] and [B], not as a "
            f"{type(given).__name__} such as this ({first_line(error)})."
        ) from error
    return images, labels


def _dtype(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _batches(given: Any, size: int, channels: int | None) -> Iterable[Any]:
    """Batches of images and labels, as they are given; a pair of arrays is divided into some.

    Args:
        given: the batches, or a pair of arrays.
        size: of the batches of a pair.
        channels: as `_Checked` takes them.

    Raises:
        GCPError: neither batches nor arrays, or arrays of different lengths; while they are passed through, images or
            labels of a wrong kind.
    """
    if not _is_pair(given):
        if not isinstance(given, Iterable):
            raise GCPError(
                f"Something of type {type(given).__name__} holds no images; give a folder, batches or a pair of arrays."
            )
        return _Checked(given, channels)
    images, labels = _pair(given)
    if labels.dim() != 1 or len(images) != len(labels):
        shapes = f"{list(images.shape)} and {list(labels.shape)}"
        raise GCPError(f"A pair of arrays is images [N, C, H, W] and labels [N], not {shapes}.")
    return _Checked(DataLoader(TensorDataset(images, labels), size), channels)


def _is_pair(given: Any) -> bool:
    """Whether something is a pair of arrays, and not two batches."""
    return isinstance(given, (tuple, list)) and len(given) == 2 and not _is_batch(given[0])


def _is_batch(given: Any) -> bool:
    """Whether something is images and labels, and not images alone."""
    return isinstance(given, (tuple, list)) and len(given) == 2 and getattr(given[0], "ndim", 0) == 4


def _some_maps(backbone: Backbone, batches: Iterable[Any]) -> Iterable[Tensor]:
    """Maps of the first batches, of as many images as directions are found in."""
    count = 0
    for images, _ in batches:
        yield backbone.features(images).maps
        count += len(images)
        if count >= SUBSET:
            return


def _features(backbone: Backbone, batches: Iterable[Any], directions: Directions) -> FeatureArrays:
    """Features of all images, in memory.

    Raises:
        GCPError: there is no image, or its features are not finite.
    """
    found = FeatureArrays(directions)
    for images, labels in batches:
        found.add(backbone.features(images), labels)
    if not found.images:
        raise GCPError("There is no image to fit to; give batches that can be passed through more than once.")
    return found
