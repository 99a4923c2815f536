"""Holds a part of the training images out for evaluation if a data set has no evaluation split."""

import copy
import hashlib
import logging
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ..errors import GCPError
from ..text import some_quoted
from .image_dataset import StrictImageDataset
from .multi_label import MULTI_LABEL_SETS
from .splits import EVALUATION, TEST, TRAIN, entry_of, is_training_split, same_split, split_folder

__all__ = ["LISTED", "check_apart", "divide", "held_out", "same_images", "split_to_divide", "split_to_evaluate"]

_logger = logging.getLogger(__name__)

LISTED = {"list": ".txt", "grocery": ".txt", **dict.fromkeys(MULTI_LABEL_SETS, ".csv")}
"""Data sets of which each split is a file, and how its name ends."""


def split_to_divide(
    name: str,
    root: str | None,
    train_split: str,
    val_split: str,
    fraction: float,
    remedy: str = "--val-split '' to hold images out",
) -> str | None:
    """The split that ``--val-fraction`` divides.

    Args:
        name: ``--dataset``.
        root: folder of the data set.
        train_split: ``--train-split``.
        val_split: ``--val-split``; '' for none.
        fraction: ``--val-fraction``; 0 holds nothing out.
        remedy: the option that divides the training images although there is an evaluation split, for the warning.

    Returns:
        The split to open, '' for the class folders in ``root`` itself; None if nothing is held out, because
        the fraction is 0 or there is an evaluation split (a warning says so).
    """
    if not fraction:
        return None
    if val_split and _has_split(name, root, val_split):
        _logger.warning(
            "Evaluation uses split %r, so nothing is held out of the training images; --val-fraction %g is for data "
            "without such a split (give %s all the same).",
            val_split,
            fraction,
            remedy,
        )
        return None
    every = (*TRAIN, *EVALUATION, *TEST)
    if not name and is_training_split(train_split) and not any(_has_split(name, root, split) for split in every):
        return ""
    return train_split


def split_to_evaluate(name: str, root: str | None, split: str, fraction: float) -> str | None:
    """The split that training divided, of which ``timm-gcp validate --val-fraction`` evaluates the held-out part.

    Args:
        name: ``--dataset``.
        root: folder of the data set.
        split: ``--split``: the split that was divided, or the name of an evaluation split for the training split.
        fraction: ``--val-fraction``.

    Returns:
        As ``split_to_divide``.
    """
    if split.lower() in EVALUATION:
        return split_to_divide(name, root, "train", split, fraction, "--split train to evaluate images held out of it")
    return split_to_divide(name, root, split, "", fraction)


def same_images(name: str, root: str | None, split: str, other: str) -> bool:
    """Whether two names of splits stand for the same images of a data set.

    Args:
        name: ``--dataset``.
        root: folder of the data set.
        split: a name; '' for the class folders in ``root`` itself.
        other: another one.
    """
    if other in same_split(split):
        return True
    if name or not root or not Path(root).is_dir():
        return False
    # Without a folder of their own, both are the class folders in the root.
    first, second = (split_folder(Path(root), same_split(each)) if each else None for each in (split, other))
    return first == second


def _has_split(name: str, root: str | None, split: str) -> bool:
    """Whether a data set has a split; assumed for data sets that are neither image folders nor lists of images."""
    if name not in ("", *LISTED):
        return True
    if not root or not Path(root).is_dir():
        return False
    if name:
        ending = LISTED[name]
        stem = split.removesuffix(ending)
        return any(entry_of(Path(root), f"{each}{ending}").is_file() for each in same_split(stem))
    return split_folder(Path(root), same_split(split)) is not None


def held_out(samples: Iterable[tuple[str, int]], fraction: float, seed: int) -> set[str]:
    """Draws the images to hold out, class by class.

    The images of a class are ordered by a hash of seed and name, and the first of them are held out. The draw depends
    neither on the machine nor on the order of the files, and an additional image moves at most one other image.

    Args:
        samples: name and label of every image; names are relative to the data set.
        fraction: of each class, rounded; at least one image of a class that has two, and never all images.
        seed: of the draw.

    Returns:
        The names that are held out.
    """
    classes: dict[int, set[str]] = defaultdict(set)
    for name, label in samples:
        classes[label].add(name)
    held: set[str] = set()
    for names in classes.values():
        number = min(max(int(fraction * len(names) + 0.5), 1), len(names) - 1)
        held.update(sorted(names, key=lambda name: _digest(name, seed))[:number])
    return held


def _digest(name: str, seed: int) -> bytes:
    # The same bytes on every system: Windows separates by \, macOS decomposes accents.
    plain = unicodedata.normalize("NFC", name.replace("\\", "/"))
    return hashlib.sha256(f"{seed}\n{plain}".encode("utf-8", "surrogateescape")).digest()


def divide(dataset: Any, fraction: float, seed: int) -> tuple[Any, Any]:
    """Divides a data set into images to train on and images held out (see ``held_out``).

    Args:
        dataset: what ``create_dataset`` returned for image files; not changed.
        fraction: of each class to hold out; of all images where an image has any number of labels.
        seed: of the draw.

    Returns:
        The images to train on and those held out, in the order of the data set, with its labels and class names.

    Raises:
        GCPError: the data set is not a list of image files, or no class has two images.
    """
    samples = getattr(getattr(dataset, "reader", None), "samples", None)
    if not isinstance(dataset, StrictImageDataset) or not isinstance(samples, list):
        raise GCPError(
            "--val-fraction divides image folders and lists of images; give this data set's own --val-split NAME, or "
            "--val-fraction 0 --val-split '' to train without evaluation."
        )
    names = [str(dataset.filename(index)) for index in range(len(samples))]
    labels = [0 if dataset.multi_label else label for _, label in samples]
    held = held_out(zip(names, labels, strict=True), fraction, seed)
    if not held:
        raise GCPError(
            "--val-fraction has nothing to hold out, since no class has two images: add images, or give "
            "--val-fraction 0 --val-split '' to train without evaluation (and --train-split '' where the class folders "
            "are not in a folder 'train')."
        )
    without = set(labels) - {label for name, label in zip(names, labels, strict=True) if name in held}
    if without:
        known = dataset.class_names
        classes = [known[label] if known else str(label) for label in sorted(without)]
        _logger.warning("Trained on but not evaluated, since there is one image of the class: %s", some_quoted(classes))
    return _part(dataset, names, set(names) - held), _part(dataset, names, held)


def _part(dataset: Any, names: list[str], wanted: Collection[str]) -> Any:
    part = copy.copy(dataset)
    part.reader = copy.copy(dataset.reader)
    part.reader.samples = [sample for name, sample in zip(names, dataset.reader.samples, strict=True) if name in wanted]
    part.skipped = []
    return part


def _files(dataset: Any) -> list[str] | None:
    """The path of each image, of those in a .tar the path within it; None where a data set has no such paths."""
    samples = getattr(getattr(dataset, "reader", None), "samples", None)
    if samples is None:
        return None
    if isinstance(samples, list):
        return [path for path, _ in samples]
    return [str(dataset.filename(index, absolute=True)) for index in range(len(samples))]


def check_apart(train: Any, evaluation: Any, train_split: str, val_split: str) -> None:
    """Compares the images of the evaluation split with those of the training split, and warns of images in both.

    Args:
        train: data set to train on.
        evaluation: data set to evaluate on.
        train_split: ``--train-split``.
        val_split: ``--val-split``.

    Raises:
        GCPError: all evaluation images are trained on, although the names of the splits differ.
    """
    trained, evaluated = _files(train), _files(evaluation)
    if trained is None or evaluated is None:
        return
    files = set(trained)
    both = sum(path in files for path in evaluated)
    if both == len(evaluated) and train_split != val_split:
        part = "--val-split '' --val-fraction 0.2 to hold a fifth of every class out, or "
        divisible = isinstance(train.reader.samples, list)  # not the images of a .tar
        raise GCPError(
            f"--val-split {val_split!r} would evaluate on images that are trained on, all {both} of them: give "
            f"{part if divisible else ''}--val-split ''{' alone' if divisible else ''} to train without evaluation."
        )
    if both:
        _logger.warning(
            "%d of %d images of --val-split %r are trained on as well, so the accuracy there is too high.",
            both,
            len(evaluated),
            val_split,
        )
