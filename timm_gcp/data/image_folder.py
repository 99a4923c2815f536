"""Finds, checks and reads image folders, ``root/<split>/<class>/*.jpg``."""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..errors import GCPError
from ..text import some_quoted
from .folder_scan import CLASS_FROM, FolderScan, case_twins, class_of, natural_order, scan_folder
from .holdout import LISTED
from .image_files import say_left_out
from .reader import SampleReader
from .splits import EVALUATION, TEST, TRAIN, entry_of, holds_folders, is_training_split, same_split, splits_in

__all__ = ["FolderReader", "require_root"]

_logger = logging.getLogger(__name__)

_EVALUATED = "--val-split (validate: --split; embed: --splits)"
"""Options that name a split which is not trained on."""


def require_root(root: Any) -> None:
    """Raises a ``GCPError`` if no folder was given."""
    if not root:
        raise GCPError("the folder of the data set is missing: give it with --data-dir.")


class FolderReader(SampleReader):
    """Reads image folders, in timm's order of images and labels.

    Warnings count the files that are not images and name the folders within class folders.

    Args:
        root: the folder with the splits, or a split itself.
        split: name of the split; '' for ``root`` itself.
        class_map: class → label; if it is empty, the classes are numbered in natural order, those of the training split
            if there is one, so that the labels of all splits agree.
        is_training: the split is trained on: every class must have an image.
        class_from: 'top': the folders directly below the split are the classes, and include deeper folders;
            'leaf': the folders that hold the images are the classes (as in timm).
        types: extensions that count as images; None for ``image_extensions``.

    Attributes:
        class_to_idx: class → label.

    Raises:
        GCPError: there is no such folder or split, or its images do not lie in class folders.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "",
        class_map: dict[str, int] | None = None,
        is_training: bool = False,
        class_from: str = "top",
        types: Collection[str] | None = None,
    ) -> None:
        require_root(root)
        if class_from not in CLASS_FROM:
            raise GCPError(f"--class-from {class_from!r} is unknown: use {' or '.join(CLASS_FROM)}.")
        training = is_training or is_training_split(split)
        folder = _find_split(_folder(Path(root)), split, is_training)
        super().__init__(folder)
        scan = scan_folder(folder, types)
        _check(scan, folder, class_from)
        if class_map:
            _check_class_map(folder, class_map, scan.classes(class_from), training)
        elif not training and (train := _sibling_train(folder)):
            # numbered on its own, a split that lacks a class would shift the later labels
            class_map = _numbered(scan_folder(train, types).classes(class_from))
            if unknown := sorted(scan.classes(class_from) - set(class_map)):
                raise GCPError(
                    f"{str(folder)!r} has class {some_quoted(unknown)}, which {str(train)!r} lacks: rename it, or add "
                    "it there."
                )
        self.class_to_idx = class_map or _numbered(scan.classes(class_from))
        labelled = ((path, self.class_to_idx.get(class_of(inner, class_from))) for path, inner in scan.images)
        kept = ((path, label) for path, label in labelled if label is not None)
        self.samples = sorted(kept, key=lambda sample: natural_order(sample[0]))
        self.num_classes = 1 + max(self.class_to_idx.values())
        _say_nested(scan, folder, class_from)
        if twins := case_twins(self.class_to_idx):
            _logger.warning(
                "%s: classes differ by capital letters alone, and count as several: %s.", folder, some_quoted(twins)
            )
        say_left_out(folder, scan.others, types)


def _numbered(classes: Collection[str]) -> dict[str, int]:
    return {name: label for label, name in enumerate(sorted(classes, key=natural_order))}


def _folder(root: Path) -> Path:
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise GCPError(
            f"--data-dir {str(root)!r} {what}: give the folder that holds train/<class> and validation/<class>."
        )
    return root


def _check(scan: FolderScan, folder: Path, class_from: str) -> None:
    """Raises a ``GCPError`` if a split's images do not lie in class folders."""
    if not scan.images:
        there = f" among its files ({scan.other_files('')})" if scan.others else ""
        raise GCPError(f"{str(folder)!r} holds no image{there}: put images into a folder for each class.")
    if "" in scan.folders:
        raise GCPError(
            f"{str(folder)!r} holds images outside its class folders: move them into a folder for each class."
        )
    if scan.hidden:
        raise GCPError(f"{str(folder)!r} holds images in the hidden folder {scan.hidden[0]!r}: remove it.")
    if empty := scan.empty(class_from):
        there = next((f" (files in {name!r}: {found})" for name in empty if (found := scan.other_files(name))), "")
        raise GCPError(
            f"{str(folder)!r} has no image of class {some_quoted(empty)}{there}: add images, or remove the class "
            "folder."
        )


def _check_class_map(folder: Path, class_map: dict[str, int], have: set[str], training: bool) -> None:
    absent = [name for name in class_map if name not in have]
    if absent and (training or len(absent) == len(class_map)):
        raise GCPError(
            f"{str(folder)!r} has no image of class {some_quoted(absent)}, which --class-map names: add images, or "
            "take it out of the map."
        )
    left_out = sorted(have - set(class_map))
    if left_out:
        _logger.warning("Left out of %r, since the class map lacks it: %s", str(folder), some_quoted(left_out))


def _say_nested(scan: FolderScan, folder: Path, class_from: str) -> None:
    """Warns if the other choice of ``class_from`` would give other classes."""
    if class_from == "top":
        nested = Counter(inner for _, inner in scan.images if os.sep in inner)
        if nested:
            classes = {class_of(inner, "top") for inner in nested}
            _logger.warning(
                "%s: %d images lie in folders within a class (%s) and belong to the class above (%s); if the inner "
                "folders are the classes, give --class-from leaf.",
                folder,
                nested.total(),
                some_quoted(sorted(nested, key=natural_order), 3),
                some_quoted(sorted(classes, key=natural_order), 3),
            )
        return
    places = defaultdict(list)
    for inner in sorted(scan.folders):
        places[class_of(inner, "leaf")].append(inner)
    for name, found in places.items():
        if len(found) > 1:
            _logger.warning("%s: %s together make the class %r.", folder, some_quoted(found), name)


def _find_split(root: Path, split: str, is_training: bool) -> Path:
    others = splits_in(root)
    if not split:
        if others and all(_is_split(entry.name) for entry in root.iterdir() if entry.is_dir()):
            raise GCPError(
                f"--data-dir {str(root)!r} holds splits ({', '.join(others)}) and no class folders: name a split, or "
                "give the folder of one."
            )
        return root
    names = same_split(split)
    for candidate in names:
        if holds_folders(entry := entry_of(root, candidate)):
            return entry
    folders = {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    flat = {name for name in folders if name in names or name.lower() in names}
    if flat and (others or all(_is_split(name) for name in folders)):
        raise GCPError(
            f"{str(root / min(flat))!r} holds no class folders: put its images into a folder for each class."
        )
    if not folders:
        raise GCPError(
            f"--data-dir {str(root)!r} holds no class folders: put its images into a folder for each class, or give "
            f"the folder that holds the class folders.{_of_a_list(root, names)}"
        )
    if others:
        raise GCPError(f"--data-dir {str(root)!r} has no folder for split {split!r}, {_remedy(others, is_training)}")
    if is_training or is_training_split(split) or len(names) == 1:
        option = "--train-split" if is_training else _EVALUATED
        whole = ""
        if is_training:
            whole = (
                "; or use the class folders that are there, with --val-fraction 0.2 to hold a fifth of every "
                "class out for evaluation, or with --train-split '' --val-split '' on all images without evaluation"
            )
        raise GCPError(
            f"--data-dir {str(root)!r} has no folder {split!r}: make it, as {split}/<class>/*.jpg, or choose another "
            f"with {option}{whole}.{_of_a_list(root, names)}"
        )
    return root  # no splits: the class folders themselves, to evaluate on


def _is_split(name: str) -> bool:
    """Whether a folder has the name of a split; hidden folders do not count as others."""
    return name.startswith(".") or name.lower() in (*TRAIN, *EVALUATION, *TEST)


def _of_a_list(root: Path, names: Collection[str]) -> str:
    """A sentence for a folder that holds a list of this split; '' without one."""
    for dataset, ending in LISTED.items():
        if any((root / f"{name}{ending}").is_file() for name in names):
            return f" For the list {next(iter(names))}{ending} give --dataset {dataset}."
    return ""


def _remedy(others: list[str], is_training: bool) -> str:
    """The end of the sentence about a missing split: the splits that exist, and what to do."""
    if is_training:
        return f"only {', '.join(others)}: choose one with --train-split."
    if all(is_training_split(name) for name in others):
        return (
            f"only {others[0]!r}: give --val-fraction 0.2 to hold a fifth of every class out, move images of every "
            f"class to validation/<class>, or give --val-split '' to train without evaluation (validate: --split "
            f"{others[0]})."
        )
    return f"only {', '.join(others)}: choose one with {_EVALUATED}."


def _sibling_train(folder: Path) -> Path | None:
    folder = folder.absolute()
    if folder.name.lower() not in (*EVALUATION, *TEST):
        return None
    candidates = (entry_of(folder.parent, name) for name in TRAIN)
    return next((candidate for candidate in candidates if holds_folders(candidate)), None)
