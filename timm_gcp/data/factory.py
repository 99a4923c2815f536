"""One way to every data set: image folders, list files, textures, and what timm reads beside."""

import difflib
import importlib.util
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import timm.data
from timm.data.readers import get_img_extensions
from timm.data.readers.class_map import load_class_map
from timm.data.readers.reader_image_folder import find_images_and_targets

from ..errors import GCPError
from .image_list import ReaderImageList
from .strict import StrictImageDataset
from .textures import TextureDataset

_logger = logging.getLogger(__name__)

_TEXTURES = ("num_classes", "images_per_class", "img_size", "transform", "target_transform")
_LISTS = ("grocery", "list")
_PACKAGES = {  # timm's prefix -> the module it imports and what installs it; None needs nothing
    "torch": None,
    "hfds": ("datasets", "datasets"),
    "hfids": ("datasets", "datasets"),
    "tfds": ("tensorflow_datasets", "tensorflow-datasets"),
    "wds": ("webdataset", "webdataset"),
}
_TRAIN = ("train", "training")
_EVALUATION = ("val", "valid", "validation", "eval", "evaluation")
_TEST = ("test", "testing")
_HINTS = ("batch_size", "num_samples", "repeats", "search_split", "trust_remote_code")  # for streamed data sets
_NAMED = 5  # classes that a message names before it only counts


def create_dataset(
    name: str,
    root: str | os.PathLike | None = None,
    split: str = "validation",
    *,
    class_map: str | Mapping[str, int] = "",
    download: bool = False,
    input_img_mode: str = "RGB",
    skip_bad_images: bool = False,
    is_training: bool = False,
    seed: int = 0,
    **kwargs: Any,
) -> Any:
    """Opens a data set and checks it, so that what is wrong is said before any training.

    Args:
        name: '' for image folders (``root/train/<class>/*.jpg``, also a .tar file), 'list' (or 'grocery', the same)
            for list files (see ``ReaderImageList``), 'textures' for synthetic ones (see ``TextureDataset``), or a
            name that timm knows ('torch/cifar10', 'hfds/...', 'tfds/...', 'wds/...').
        root: folder of the data set; None for 'textures'.
        split: 'train', 'validation' or 'test' and timm's synonyms, or the name of a folder or list. For image
            folders '' means ``root`` itself, which also serves an evaluation split if there are no split folders.
        class_map: image folders: path of a text file with a class a line, in the order of the labels, or a mapping
            from class to label; images of other classes are left out. '' numbers the class folders in timm's
            (natural) order, those of the training split wherever there is one, so that labels agree.
        download: let timm fetch the data set, where it can.
        input_img_mode: PIL mode of the images.
        skip_bad_images: go on without unreadable images (see ``StrictImageDataset`` and ``check_images``).
        is_training: the split is trained on: every class must have an image, and streamed data sets shuffle.
        seed: of textures, and of the order of streamed data sets.
        **kwargs: the data set's own arguments ('textures': ``num_classes``, ``images_per_class``, ``img_size``), or
            timm's; None counts as not given.

    Returns:
        A data set in timm's form with ``class_names`` (names by label, or None) and ``num_classes`` (or None).

    Raises:
        GCPError: the data set does not exist, is empty or contradicts itself.
    """
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    if name == "textures":
        return TextureDataset(split, seed=seed, input_img_mode=input_img_mode, **_own(name, kwargs, _TEXTURES))
    prefix = name.partition("/")[0].lower()
    if name and name not in _LISTS and ("/" not in name or prefix not in _PACKAGES):
        known = ["textures", *_LISTS, *(f"{known}/..." for known in _PACKAGES)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(known)}, or leave it out for image folders"
        raise GCPError(f"--dataset {name!r} is unknown: {hint}")
    if name in _LISTS:
        _require_root(root)
        if class_map:
            raise GCPError("--class-map is for image folders: lists take their names from classes.csv or classes.txt")
        options = _own(name, kwargs, ("load_bytes", "transform", "target_transform"))
        reader = ReaderImageList(str(root), split, is_training)
        dataset = StrictImageDataset(
            root, reader=reader, skip_bad_images=skip_bad_images, input_img_mode=input_img_mode, **options
        )
        dataset.class_names, dataset.num_classes = reader.class_names, reader.num_classes
        return dataset
    arguments = {
        "is_training": is_training,
        "download": download,
        "seed": seed,
        "input_img_mode": input_img_mode,
        "class_map": _checked_class_map(class_map, root),
        **kwargs,
    }
    if name:
        package = _PACKAGES[prefix]
        if package and importlib.util.find_spec(package[0]) is None:
            raise GCPError(f"--dataset {name!r} needs a package that is not installed: pip install {package[1]}")
    else:
        types = frozenset(kwargs["input_key"].split(";")) if "input_key" in kwargs else get_img_extensions(as_set=True)
        root, arguments["class_map"] = _check_folder(root, split, arguments["class_map"], is_training, types)
        arguments["search_split"] = False
    dataset = _through_timm(name, root, split, arguments)
    if isinstance(dataset, timm.data.ImageDataset):
        dataset = StrictImageDataset(
            root,
            reader=dataset.reader,
            skip_bad_images=skip_bad_images,
            load_bytes=dataset.load_bytes,
            input_img_mode=dataset.input_img_mode,
            transform=dataset.transform,
            target_transform=dataset.target_transform,
            additional_features=dataset.additional_features,
        )
    dataset.class_names, dataset.num_classes = _classes(dataset)
    return dataset


def _own(name: str, kwargs: dict[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """The arguments that a data set of ours takes, without hints for streamed ones."""
    unknown = set(kwargs) - {*known, *_HINTS}
    if unknown:
        raise GCPError(
            f"--dataset {name} takes no argument {min(unknown)!r}: leave it out ({', '.join(known)} are known)"
        )
    return {key: value for key, value in kwargs.items() if key in known}


def _require_root(root: Any) -> None:
    if not root:
        raise GCPError("the folder of the data set is missing: give it with --data-dir")


def _checked_class_map(class_map: str | Mapping[str, int], root: Any) -> dict[str, int]:
    if isinstance(class_map, Mapping) or not class_map:
        return dict(class_map or {})
    if not str(class_map).endswith(".txt"):  # timm would unpickle a .pkl
        raise GCPError(f"--class-map {str(class_map)!r} is not a .txt file: write one with a class a line")
    try:
        index = load_class_map(str(class_map), str(root or ""))
    except (AssertionError, OSError, UnicodeError) as error:
        raise GCPError(
            f"--class-map {str(class_map)!r} cannot be read: give a text file with a class a line"
        ) from error
    index.pop("", None)  # an empty last line
    return index


def _through_timm(name: str, root: Any, split: str, arguments: dict[str, Any]) -> Any:
    where = f"--dataset {name!r}" if name else f"--data-dir {str(root)!r}"
    try:
        return timm.data.create_dataset(name, root=None if root is None else str(root), split=split, **arguments)
    except ImportError as error:
        package = error.name or str(error)
        raise GCPError(f"{where} needs a package that is not installed: pip install {package}") from error
    except Exception as error:  # assertions, and whatever the package behind the name raises
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise GCPError(
            f"{where}, split {split!r}, cannot be opened ({reason}): correct the name, the split or --data-dir"
        ) from error


def _classes(dataset: Any) -> tuple[list[str] | None, int | None]:
    """Class names by label and their number, from whatever the reader or torchvision's data set knows."""
    reader = getattr(dataset, "reader", dataset)
    index = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    if not index:
        return None, None
    names = {label: str(name) for name, label in index.items()}
    number = max(names) + 1
    one_to_one = len(index) == len(names) == number
    return [names[label] for label in range(number)] if one_to_one else None, number


# Image folders


def _check_folder(
    root: Any, split: str, class_map: dict[str, int], is_training: bool, types: Collection[str]
) -> tuple[Path, dict[str, int]]:
    """Finds the split's folder and its class -> label map, and refuses what timm would read as something else."""
    _require_root(root)
    root = Path(root)
    if root.is_file() and root.suffix == ".tar":
        return root, class_map
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise GCPError(
            f"--data-dir {str(root)!r} {what}: give the folder that holds train/<class> and validation/<class>"
        )
    training = is_training or split in _TRAIN
    folder = _find_split(root, split, training)
    have, empty = _scan(folder, types)
    if not have:
        known = ", ".join(sorted(types))
        raise GCPError(f"{str(folder)!r} holds no image ({known}): put images into a folder for each class")
    if "" in have:
        raise GCPError(
            f"{str(folder)!r} holds images outside its class folders: move them into a folder for each class"
        )
    if hidden := sorted(name for name in have if name.startswith(".")):
        raise GCPError(
            f"{str(folder)!r} holds images in the hidden folder {hidden[0]!r}, which would be a class: remove it"
        )
    if empty:
        raise GCPError(f"{str(folder)!r} has no image of class {_named(empty)}: add images, or remove the class folder")
    if class_map:
        _check_class_map(folder, class_map, have, training)
    elif not training and (train := _sibling_train(folder)):
        # timm numbers the classes of every split by itself: one that lacks a class would shift the labels after it
        class_map = find_images_and_targets(str(train), types=types, sort=False)[1]
        unknown = sorted(have - set(class_map))
        if class_map and unknown:
            raise GCPError(
                f"{str(folder)!r} has class {_named(unknown)}, which {str(train)!r} has not: rename it, or add it there"
            )
    return folder, class_map


def _check_class_map(folder: Path, class_map: dict[str, int], have: set[str], training: bool) -> None:
    absent = [name for name in class_map if name not in have]
    if absent and (training or len(absent) == len(class_map)):
        raise GCPError(
            f"{str(folder)!r} has no image of class {_named(absent)}, which --class-map names: add images, or take it "
            "out of the map"
        )
    left_out = sorted(have - set(class_map))
    if left_out:
        _logger.warning("Left out of %r, since the class map lacks it: %s", str(folder), _named(left_out))


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
        raise GCPError(f"{str(root / min(flat))!r} holds no class folders: put its images into a folder for each class")
    option = "--train-split" if training else "--val-split"
    if others:
        raise GCPError(
            f"--data-dir {str(root)!r} has no folder for split {split!r}, only {', '.join(others)}: choose one with "
            f"{option}"
        )
    if training or not group:
        raise GCPError(
            f"--data-dir {str(root)!r} has no folder {split!r}: make it, as {split}/<class>/*.jpg, or choose another "
            f"with {option}"
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


def _named(classes: list[str]) -> str:
    more = f" and {len(classes) - _NAMED} more" if len(classes) > _NAMED else ""
    return ", ".join(map(repr, classes[:_NAMED])) + more
