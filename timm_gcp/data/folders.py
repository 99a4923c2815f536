"""Image folders, ``root/<split>/<class>/*.jpg``: what timm would silently read as something else is refused."""

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from timm.data.readers.reader_image_folder import find_images_and_targets

from ..errors import GCPError
from ..text import some_quoted

_logger = logging.getLogger(__name__)

_TRAIN = ("train", "training")
_EVALUATION = ("val", "valid", "validation", "eval", "evaluation")
_TEST = ("test", "testing")


def require_root(root: Any) -> None:
    """Refuses a data set that needs a folder and was given none."""
    if not root:
        raise GCPError("the folder of the data set is missing: give it with --data-dir.")


def check_folder(
    root: Any, split: str, class_map: dict[str, int], is_training: bool, types: Collection[str]
) -> tuple[Path, dict[str, int]]:
    """Finds the split's folder and its class -> label map, and refuses what timm would read as something else."""
    require_root(root)
    root = Path(root)
    if root.is_file() and root.suffix == ".tar":
        return root, class_map
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise GCPError(
            f"--data-dir {str(root)!r} {what}: give the folder that holds train/<class> and validation/<class>."
        )
    training = is_training or split in _TRAIN
    folder = _find_split(root, split, training)
    have, empty = _scan(folder, types)
    if not have:
        known = ", ".join(sorted(types))
        raise GCPError(f"{str(folder)!r} holds no image ({known}): put images into a folder for each class.")
    if "" in have:
        raise GCPError(
            f"{str(folder)!r} holds images outside its class folders: move them into a folder for each class."
        )
    if hidden := sorted(name for name in have if name.startswith(".")):
        raise GCPError(
            f"{str(folder)!r} holds images in the hidden folder {hidden[0]!r}, which would be a class: remove it."
        )
    if empty:
        raise GCPError(
            f"{str(folder)!r} has no image of class {some_quoted(empty)}: add images, or remove the class folder."
        )
    if class_map:
        _check_class_map(folder, class_map, have, training)
    elif not training and (train := _sibling_train(folder)):
        # timm numbers the classes of every split by itself: one that lacks a class would shift the labels after it
        class_map = find_images_and_targets(str(train), types=types, sort=False)[1]
        unknown = sorted(have - set(class_map))
        if class_map and unknown:
            raise GCPError(
                f"{str(folder)!r} has class {some_quoted(unknown)}, which {str(train)!r} lacks: rename it, or add it "
                "there."
            )
    return folder, class_map


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


def _find_split(root: Path, split: str, training: bool) -> Path:
    if not split:
        return root
    group = next((group for group in (_TRAIN, _EVALUATION, _TEST) if split in group), ())
    for candidate in (split, *group):
        if _holds_folders(root / candidate):
            return root / candidate
    every = (*_TRAIN, *_EVALUATION, *_TEST)
    others = [name for name in every if _holds_folders(root / name)]
    folders = {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    flat = folders & {split, *group}
    if flat and (others or folders <= set(every)):
        raise GCPError(
            f"{str(root / min(flat))!r} holds no class folders: put its images into a folder for each class."
        )
    option = "--train-split" if training else "--val-split (validate: --split)"
    if others:
        raise GCPError(
            f"--data-dir {str(root)!r} has no folder for split {split!r}, only {', '.join(others)}: choose one with "
            f"{option}."
        )
    if training or not group:
        raise GCPError(
            f"--data-dir {str(root)!r} has no folder {split!r}: make it, as {split}/<class>/*.jpg, or choose another "
            f"with {option}."
        )
    return root  # no splits: the class folders themselves, to evaluate on


def _holds_folders(folder: Path) -> bool:
    """Whether a folder can be a split: a class may be called 'train' as well, but holds images, not folders."""
    return folder.is_dir() and any(entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))


def _sibling_train(folder: Path) -> Path | None:
    folder = folder.absolute()
    if folder.name not in (*_EVALUATION, *_TEST):
        return None
    return next((folder.parent / name for name in _TRAIN if _holds_folders(folder.parent / name)), None)


def _scan(folder: Path, types: Collection[str]) -> tuple[set[str], list[str]]:
    """The classes of a split (by timm's rule the last part of every path with images) and its empty class folders.

    Empty is a folder at the bottom of the tree without images, unless it lies within a class.
    """
    have: set[str] = set()
    empty = []
    within: set[str] = set()  # folders with images, and what lies in them
    for path, folders, files in os.walk(folder, followlinks=True):
        relative = os.path.relpath(path, folder)
        top = relative == os.curdir
        if any(os.path.splitext(file)[1].lower() in types for file in files):
            have.add("" if top else os.path.basename(path))
            if not top:
                within.add(path)
        elif os.path.dirname(path) in within:
            within.add(path)
        elif not folders and not top and not os.path.basename(path).startswith("."):
            empty.append(relative)
    return have, sorted(empty)
