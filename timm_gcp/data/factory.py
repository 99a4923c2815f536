"""Opens a data set by its name: image folders, image lists, fine-grained benchmarks, textures, or timm's."""

import contextlib
import difflib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any

import timm.data
from timm.data.readers import get_img_extensions, set_img_extensions

from ..errors import GCPError
from ..text import one_line, printable
from .class_map import read_class_map
from .fine_grained import FINE_GRAINED, FineGrainedReader
from .image_dataset import StrictImageDataset
from .image_files import image_extensions
from .image_folder import FolderReader, require_root
from .image_list import ReaderImageList
from .multi_label import MULTI_LABEL_SETS, MultiLabelReader
from .reader import SampleReader
from .textures import TextureDataset

_TEXTURES = ("num_classes", "images_per_class", "img_size", "transform", "target_transform")
_LISTS = ("grocery", "list")
_OWN = (*_LISTS, *MULTI_LABEL_SETS, *FINE_GRAINED)
_NAMES = {  # where a data set has its class names from
    **dict.fromkeys(_LISTS, "from classes.csv or classes.txt"),
    **dict.fromkeys(MULTI_LABEL_SETS, "from classes.txt or train.csv"),
}
_READING = ("load_bytes", "transform", "target_transform")  # arguments of timm's ImageDataset
_PACKAGES = {  # timm's prefix -> the module it imports and the package to install; None: installed with timm
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
    orient: bool = True,
    class_from: str = "top",
    is_training: bool = False,
    seed: int = 0,
    **kwargs: Any,
) -> Any:
    """Opens a data set and checks it before any training.

    Args:
        name: '' for image folders (``root/train/<class>/*.jpg``, also a .tar file), 'list' (or 'grocery', the same)
            for list files (see ``ReaderImageList``), 'multilabel' for CSV files of images with any number of labels
            (see ``MultiLabelReader``), 'textures' for synthetic ones (see ``TextureDataset``), 'cub',
            'aircraft' or another of ``FINE_GRAINED`` for its official folder (see ``FineGrainedReader``), or a name
            that timm knows ('torch/cifar10', 'hfds/...', 'tfds/...', 'wds/...').
        root: folder of the data set; None for 'textures'.
        split: 'train', 'validation' or 'test' and timm's synonyms, or the name of a folder or list. For image
            folders '' means ``root`` itself, which is also taken for an evaluation split if there are no split folders.
        class_map: image folders: path of a text file with one class per line, in the order of the labels, or a mapping
            from class to label; images of other classes are left out. '' numbers the class folders in timm's (natural)
            order, those of the training split if there is one, so that the labels of all splits agree.
        download: download the data set if it is missing and timm or its row in ``FINE_GRAINED`` can.
        input_img_mode: PIL mode of the images.
        skip_bad_images: skip unreadable images (see ``StrictImageDataset`` and ``check_images``).
        orient: apply the EXIF orientation of images, in the data sets that are read file by file (folders, .tar files,
            lists, the named ones, 'hfds/...'); the packages behind other names decode images themselves.
        class_from: image folders: 'top' for the folders directly below the split as the classes, 'leaf' for those that
            hold the images (see ``FolderReader``). For a .tar file it is always 'leaf'.
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
    _check_name(name)
    reading: dict[str, Any] = {"skip_bad_images": skip_bad_images, "orient": orient, "input_img_mode": input_img_mode}
    if name in _OWN:
        require_root(root)
        if class_map:
            source = _NAMES.get(name, "with them")
            raise GCPError(f"--class-map is for image folders: --dataset {name} brings its names {source}.")
        options = _own(name, kwargs, _READING)
        listed = _reader(name, str(root), split, is_training, download)
        dataset = StrictImageDataset(root, reader=listed, **reading, **options)
        dataset.class_names, dataset.num_classes = listed.class_names, listed.num_classes
        dataset.multi_label = name in MULTI_LABEL_SETS
        return dataset
    labels = read_class_map(class_map, root)
    if not name and not _is_tar(root):
        options = _own(name, kwargs, (*_READING, "input_key"))
        key = options.pop("input_key", None)
        types = frozenset(key.split(";")) if key else None
        folders = FolderReader(root or "", split, labels, is_training, class_from, types)
        dataset = StrictImageDataset(folders.root, reader=folders, **reading, **options)
    else:
        hints = {"is_training": is_training, "download": download, "seed": seed, "input_img_mode": input_img_mode}
        with _every_extension():
            dataset = _through_timm(name, root, split, {**hints, "class_map": labels, **kwargs})
        if isinstance(dataset, timm.data.ImageDataset):
            options = {key: getattr(dataset, key) for key in (*_READING, "additional_features")}
            dataset = StrictImageDataset(root, reader=dataset.reader, **reading, **options)
    dataset.class_names, dataset.num_classes = _classes(dataset)
    return dataset


def _reader(name: str, root: str, split: str, is_training: bool, download: bool) -> SampleReader:
    """The reader of a data set of ours that is read from lists."""
    if name in _LISTS:
        return ReaderImageList(root, split, is_training)
    if name in MULTI_LABEL_SETS:
        return MultiLabelReader(root, split)
    return FineGrainedReader(name, root, split, is_training, download)


def _check_name(name: str) -> None:
    """Raises a ``GCPError`` for an unknown name, or if the package behind it is not installed."""
    prefix = name.partition("/")[0].lower()
    if not name or name in _OWN:
        return
    if "/" not in name or prefix not in _PACKAGES:
        known = ["textures", *_OWN, *(f"{known}/..." for known in _PACKAGES)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(known)}, or leave it out for image folders."
        raise GCPError(f"--dataset {name!r} is unknown: {hint}")
    package = _PACKAGES[prefix]
    if package and importlib.util.find_spec(package[0]) is None:
        raise GCPError(f"--dataset {name!r} needs a package that is not installed: pip install {package[1]}.")


def _is_tar(root: Any) -> bool:
    return bool(root) and os.path.isfile(root) and os.path.splitext(root)[1] == ".tar"


@contextlib.contextmanager
def _every_extension() -> Iterator[None]:
    """Makes timm's readers of .tar files accept our image types inside a block."""
    before = get_img_extensions()
    set_img_extensions(tuple(sorted(image_extensions())))
    try:
        yield
    finally:
        set_img_extensions(before)


def _own(name: str, kwargs: dict[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """Checks the arguments of a data set of ours and leaves out those that only streamed ones take."""
    unknown = set(kwargs) - {*known, *_HINTS}
    if unknown:
        what = f"--dataset {name}" if name else "an image folder"
        raise GCPError(f"{what} takes no argument {min(unknown)!r}: leave it out ({', '.join(known)} are known).")
    return {key: value for key, value in kwargs.items() if key in known}


def _through_timm(name: str, root: Any, split: str, arguments: dict[str, Any]) -> Any:
    where = f"--dataset {name!r}" if name else f"--data-dir {str(root)!r}"
    try:
        return timm.data.create_dataset(name, root=None if root is None else str(root), split=split, **arguments)
    except ImportError as error:
        module = error.name or one_line(error)  # the package to install may have another name
        raise GCPError(
            f"{where} needs the module {module}, which is not installed; install the package that has it."
        ) from error
    except Exception as error:  # assertions, and errors of the package behind the name
        raise GCPError(
            f"{where}, split {split!r}, cannot be opened ({one_line(error)}): correct the name, the split or "
            "--data-dir."
        ) from error


def _classes(dataset: Any) -> tuple[list[str] | None, int | None]:
    """Class names by label and their number, from the reader or from torchvision's data set; None where unknown.

    The names can be written in UTF-8; the reader keeps those of its folders.
    """
    reader = getattr(dataset, "reader", dataset)
    index = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    if not index:
        return None, None
    names = {label: printable(str(name)) for name, label in index.items()}
    number = max(names) + 1
    one_to_one = len(index) == len(names) == number
    return [names[label] for label in range(number)] if one_to_one else None, number
