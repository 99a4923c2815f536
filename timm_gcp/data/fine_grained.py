"""The table of fine-grained data sets that are read by name from their official folders, one row per data set."""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torchvision import datasets

from ..errors import GCPError
from .dogs import read_dogs
from .download import fetch_archive, fetch_with_torchvision
from .dtd import read_dtd
from .inat import read_inat21_mini
from .reader import Listing, SampleReader
from .splits import is_training_split, same_split, split_remedy
from .torchvision_sets import read_aircraft, read_cars, read_flowers, read_food, read_pets
from .visipedia import LISTS, read_cub, read_nabirds

_WORDS = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class FineGrained:
    """A row of the table.

    Attributes:
        title: the data set's own name.
        folder: its folder as the archive or torchvision calls it.
        parts: files and folders that it must hold; the folder is recognised by the first of them.
        read: reads a split of the folder.
        classes: number of classes.
        images: number of images by split.
        licence: who may use it.
        homepage: where it is described.
        by_hand: how to get it without ``--dataset-download``: the end of a sentence, without its full stop.
        fetch: downloads the folder (second argument: what messages call it, third: remedy); None if there is no way.
        any_name: the folder may have another name, which torchvision does not allow.
    """

    title: str
    folder: str
    parts: tuple[str, ...]
    read: Callable[[Path, str], Listing]
    classes: int
    images: Mapping[str, int]
    licence: str
    homepage: str
    by_hand: str
    fetch: Callable[[Path, str, str], None] | None = None
    any_name: bool = False


FINE_GRAINED = {
    "cub": FineGrained(
        title="CUB-200-2011",
        folder="CUB_200_2011",
        parts=(*LISTS, "images"),
        read=read_cub,
        classes=200,
        images={"train": 5994, "test": 5794},
        licence="non-commercial research and teaching; the photographs belong to their authors",
        homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        by_hand="download CUB_200_2011.tgz from https://data.caltech.edu/records/65de6-vp158 and extract it",
        fetch=partial(
            fetch_archive,
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            "97eceeb196236b17998738112f37df78",
        ),
        any_name=True,
    ),
    "nabirds": FineGrained(
        title="NABirds",
        folder="nabirds",
        parts=("hierarchy.txt", *LISTS, "images"),
        read=read_nabirds,
        classes=555,
        images={"train": 23929, "test": 24633},
        licence="non-commercial research and education; the photographs belong to their authors",
        homepage="https://dl.allaboutbirds.org/nabirds",
        by_hand="accept its terms of use at https://dl.allaboutbirds.org/nabirds, download nabirds.tar.gz and extract "
        "it",
        any_name=True,
    ),
    "inat21-mini": FineGrained(
        title="iNaturalist 2021 mini",
        folder="inat2021",
        parts=("train_mini", "val"),
        read=read_inat21_mini,
        classes=10000,
        images={"train": 500000, "val": 100000},
        licence="non-commercial research and education; the photographs belong to their authors",
        homepage="https://github.com/visipedia/inat_comp/tree/master/2021",
        by_hand="download train_mini.tar.gz and val.tar.gz from "
        "https://github.com/visipedia/inat_comp/tree/master/2021 and extract both into one folder",
        any_name=True,
    ),
    "aircraft": FineGrained(
        title="FGVC-Aircraft",
        folder="fgvc-aircraft-2013b",
        parts=("data/variants.txt", "data/images"),
        read=read_aircraft,
        classes=100,
        images={"train": 3334, "val": 3333, "trainval": 6667, "test": 3333},
        licence="non-commercial research",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        by_hand="download fgvc-aircraft-2013b.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/ and "
        "extract it",
        fetch=partial(fetch_with_torchvision, datasets.FGVCAircraft),
    ),
    "cars": FineGrained(
        title="Stanford Cars",
        folder="stanford_cars",
        parts=(
            "devkit/cars_meta.mat",
            "devkit/cars_train_annos.mat",
            "cars_test_annos_withlabels.mat",
            "cars_train",
            "cars_test",
        ),
        read=read_cars,
        classes=196,
        images={"train": 8144, "test": 8041},
        licence="none stated; the photographs are from the web",
        homepage="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",  # offline since 2023
        by_hand="look for a copy with https://github.com/pytorch/vision/issues/7545 and extract cars_train.tgz, "
        "cars_test.tgz and car_devkit.tgz into a folder 'stanford_cars', with cars_test_annos_withlabels.mat beside "
        "them",
    ),
    "dogs": FineGrained(
        title="Stanford Dogs",
        folder="stanford_dogs",
        parts=("train_list.mat", "test_list.mat", "Images"),
        read=read_dogs,
        classes=120,
        images={"train": 12000, "test": 8580},
        licence="non-commercial research, as ImageNet, which the photographs are from",
        homepage="http://vision.stanford.edu/aditya86/ImageNetDogs/",
        by_hand="download images.tar and lists.tar from http://vision.stanford.edu/aditya86/ImageNetDogs/ and extract "
        "both into one folder",
        any_name=True,
    ),
    "flowers": FineGrained(
        title="Flowers-102",
        folder="flowers-102",
        parts=("setid.mat", "imagelabels.mat", "jpg"),
        read=read_flowers,
        classes=102,
        images={"train": 1020, "val": 1020, "trainval": 2040, "test": 6149},
        licence="none stated; the photographs are from the web",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        by_hand="download 102flowers.tgz, imagelabels.mat and setid.mat from "
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/ into a folder 'flowers-102' and extract the first",
        fetch=partial(fetch_with_torchvision, datasets.Flowers102),
    ),
    "pets": FineGrained(
        title="Oxford-IIIT Pets",
        folder="oxford-iiit-pet",
        parts=("annotations/trainval.txt", "annotations/test.txt", "images"),
        read=read_pets,
        classes=37,
        images={"trainval": 3680, "test": 3669},
        licence="CC BY-SA 4.0",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        by_hand="download images.tar.gz and annotations.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/pets/ and "
        "extract both into a folder 'oxford-iiit-pet'",
        fetch=partial(fetch_with_torchvision, datasets.OxfordIIITPet),
    ),
    "food": FineGrained(
        title="Food-101",
        folder="food-101",
        parts=("meta/train.json", "meta/test.json", "images"),
        read=read_food,
        classes=101,
        images={"train": 75750, "test": 25250},
        licence="scientific fair use; the photographs belong to their authors",
        homepage="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        by_hand="download food-101.tar.gz from https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/ and "
        "extract it",
        fetch=partial(fetch_with_torchvision, datasets.Food101),
    ),
    "dtd": FineGrained(
        title="Describable Textures",
        folder="dtd",
        parts=("labels/train1.txt", "labels/val1.txt", "labels/test1.txt", "images"),
        read=read_dtd,
        classes=47,
        images={"train": 1880, "val": 1880, "trainval": 3760, "test": 1880},
        licence="research; the photographs are from the web",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        by_hand="download dtd-r1.0.1.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/dtd/ and extract it",
        fetch=partial(
            fetch_archive,
            "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            "fff73e5086ae6bdbea199a49dfb8a4c1",
        ),
        any_name=True,
    ),
}
"""Name for ``--dataset`` → row."""


class FineGrainedReader(SampleReader):
    """Reads a data set of the table and compares it with its row.

    Args:
        name: a name of ``FINE_GRAINED``.
        root: the data set's folder, or the one that holds it under its official name.
        split: one of the row's, or a synonym; 'train' means 'trainval' where that is the only training split.
        is_training: the split is trained on (this changes messages only).
        download: download the data set if it is missing.

    Raises:
        GCPError: the folder is another one or incomplete, there is no such split, or the download fails.
    """

    def __init__(
        self, name: str, root: str | os.PathLike[str], split: str, is_training: bool = False, download: bool = False
    ) -> None:
        row = FINE_GRAINED[name]
        split = _find_split(row, split, is_training)
        folder = _find_folder(row, Path(os.path.abspath(root)), download)
        super().__init__(folder)
        listed, self.class_names = row.read(folder, split)
        self.samples, self.num_classes = listed, row.classes
        _check(row, split, folder, listed, self.class_names)


def _find_split(row: FineGrained, split: str, is_training: bool) -> str:
    training = is_training or is_training_split(split)
    for candidate in (*same_split(split), *(("trainval",) if is_training_split(split) else ())):
        if candidate in row.images:
            return candidate
    splits = list(row.images)
    raise GCPError(
        f"{row.title} has no split {split!r}, only {', '.join(splits)}: choose one with "
        f"{split_remedy(splits, training)}."
    )


def _find_folder(row: FineGrained, root: Path, download: bool) -> Path:
    inner = root if root.name == row.folder else root / row.folder
    folder = root if (root / row.parts[0]).exists() else inner
    if download and _missing(row, folder):
        if row.fetch is None:
            raise GCPError(f"{row.title} cannot be downloaded by --dataset-download: {row.by_hand}.")
        print(f"{row.title}: {row.licence} ({row.homepage})", file=sys.stderr)
        row.fetch(folder, row.title, row.by_hand)
    missing = _missing(row, folder)
    if row.parts[0] in missing:
        offer = "add --dataset-download, or " if row.fetch else "or "
        raise GCPError(
            f"--data-dir {str(root)!r} is not {row.title}, which has {row.parts[0]!r}: give the folder that holds it "
            f"(usually '{row.folder}'), {offer}{row.by_hand}."
        )
    if missing:
        raise GCPError(f"{row.title} in {str(folder)!r} is incomplete, {missing[0]!r} is missing: {row.by_hand}.")
    if folder.name != row.folder and not row.any_name:
        raise GCPError(f"torchvision reads {row.title} under the name {row.folder!r} only: rename {str(folder)!r}.")
    return folder


def _missing(row: FineGrained, folder: Path) -> list[str]:
    return [part for part in row.parts if not (folder / part).exists()]


def _check(
    row: FineGrained, split: str, folder: Path, listed: list[tuple[str, int]], class_names: list[str] | None
) -> None:
    """Compares what was read with the row's numbers: a truncated archive leaves lists without their images."""
    names: dict[str, list[str]] = defaultdict(list)
    for path, _ in listed:
        where, name = os.path.split(os.path.normpath(path))
        names[where].append(name)
    absent = []
    for where, wanted in names.items():
        inside = where.startswith(f"{folder}{os.sep}") and os.path.isdir(where)
        there = set(os.listdir(where)) if inside else set()  # checking every file by itself is slow on a network
        absent += [os.path.join(where, name) for name in wanted if name not in there]
    expected, found = row.images[split], len(listed) - len(absent)
    if found != expected or absent:
        such = f" (missing: {os.path.relpath(absent[0], folder)!r})" if absent else ""
        raise GCPError(
            f"{row.title} has {expected} {_WORDS.get(split, split)} images, {found} were found in {str(folder)!r}"
            f"{such}: remove the folder and extract the archive again."
        )
    number = max(len({label for _, label in listed}), len(class_names or ()))
    if number != row.classes or not all(0 <= label < row.classes for _, label in listed):
        raise GCPError(
            f"{row.title} has {row.classes} classes, {number} were found in {str(folder)!r}: remove the folder and "
            "extract the archive again."
        )
