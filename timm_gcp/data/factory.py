"""One way to every data set: image folders, list files, textures, and what timm reads beside."""

import difflib
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import timm.data
from timm.data.readers import get_img_extensions
from timm.data.readers.class_map import load_class_map

from ..errors import GCPError
from ..text import one_line
from .fine_grained import FINE_GRAINED, FineGrainedReader
from .folders import check_folder, require_root
from .image_list import ReaderImageList
from .strict import StrictImageDataset
from .textures import TextureDataset

_TEXTURES = ("num_classes", "images_per_class", "img_size", "transform", "target_transform")
_LISTS = ("grocery", "list")
_PACKAGES = {  # timm's prefix -> the module it imports and what installs it; None needs nothing
    "torch": None,
    "hfds": ("datasets", "datasets"),
    "hfids": ("datasets", "datasets"),
    "tfds": ("tensorflow_datasets", "tensorflow-datasets"),
    "wds": ("webdataset", "webdataset"),
}
_HINTS = ("batch_size", "num_samples", "repeats", "search_split", "trust_remote_code")  # for streamed data sets


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
            for list files (see ``ReaderImageList``), 'textures' for synthetic ones (see ``TextureDataset``), 'cub',
            'aircraft' or another of ``FINE_GRAINED`` for its official folder (see ``FineGrainedReader``), or a name
            that timm knows ('torch/cifar10', 'hfds/...', 'tfds/...', 'wds/...').
        root: folder of the data set; None for 'textures'.
        split: 'train', 'validation' or 'test' and timm's synonyms, or the name of a folder or list. For image
            folders '' means ``root`` itself, which also serves an evaluation split if there are no split folders.
        class_map: image folders: path of a text file with a class a line, in the order of the labels, or a mapping
            from class to label; images of other classes are left out. '' numbers the class folders in timm's
            (natural) order, those of the training split wherever there is one, so that labels agree.
        download: fetch the data set if it is not there, where timm or its row in ``FINE_GRAINED`` can.
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
    listed = name in _LISTS or name in FINE_GRAINED
    if name and not listed and ("/" not in name or prefix not in _PACKAGES):
        known = ["textures", *_LISTS, *FINE_GRAINED, *(f"{known}/..." for known in _PACKAGES)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(known)}, or leave it out for image folders."
        raise GCPError(f"--dataset {name!r} is unknown: {hint}")
    if listed:
        require_root(root)
        if class_map:
            source = "from classes.csv or classes.txt" if name in _LISTS else "with them"
            raise GCPError(f"--class-map is for image folders: --dataset {name} brings its names {source}.")
        options = _own(name, kwargs, ("load_bytes", "transform", "target_transform"))
        reader = (
            ReaderImageList(str(root), split, is_training)
            if name in _LISTS
            else FineGrainedReader(name, str(root), split, is_training, download)
        )
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
            raise GCPError(f"--dataset {name!r} needs a package that is not installed: pip install {package[1]}.")
    else:
        types = frozenset(kwargs["input_key"].split(";")) if "input_key" in kwargs else get_img_extensions(as_set=True)
        root, arguments["class_map"] = check_folder(root, split, arguments["class_map"], is_training, types)
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
            f"--dataset {name} takes no argument {min(unknown)!r}: leave it out ({', '.join(known)} are known)."
        )
    return {key: value for key, value in kwargs.items() if key in known}


def _checked_class_map(class_map: str | Mapping[str, int], root: Any) -> dict[str, int]:
    if isinstance(class_map, Mapping) or not class_map:
        return dict(class_map or {})
    if not str(class_map).endswith(".txt"):  # timm would unpickle a .pkl
        raise GCPError(f"--class-map {str(class_map)!r} is not a .txt file: write one with a class a line.")
    try:
        index = load_class_map(str(class_map), str(root or ""))
    except (AssertionError, OSError, UnicodeError) as error:
        raise GCPError(
            f"--class-map {str(class_map)!r} cannot be read: give a text file with a class a line."
        ) from error
    index.pop("", None)  # an empty last line
    return index


def _through_timm(name: str, root: Any, split: str, arguments: dict[str, Any]) -> Any:
    where = f"--dataset {name!r}" if name else f"--data-dir {str(root)!r}"
    try:
        return timm.data.create_dataset(name, root=None if root is None else str(root), split=split, **arguments)
    except ImportError as error:
        module = error.name or one_line(error)  # of a package whose name may be another one
        raise GCPError(
            f"{where} needs the module {module}, which is not installed; install the package that has it."
        ) from error
    except Exception as error:  # assertions, and whatever the package behind the name raises
        raise GCPError(
            f"{where}, split {split!r}, cannot be opened ({one_line(error)}): correct the name, the split or "
            "--data-dir."
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
