"""Opens the splits of a data set for a diagnosis: what a training would refuse becomes a finding."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.class_counts import class_counts, class_labels
from ..data.class_map import read_class_map
from ..data.factory import create_dataset
from ..data.folder_scan import FolderScan, case_twins, class_of, natural_order, scan_folder
from ..data.image_dataset import StrictImageDataset
from ..data.image_files import count_left_out
from ..data.reader import SampleReader
from ..data.splits import EVALUATION, TEST, TRAIN, same_split, split_folder
from ..errors import GCPError
from ..text import printable, some_quoted
from .findings import ERROR, NOTE, WARNING, Finding
from .options import DiagnosisOptions

__all__ = ["Split", "open_splits"]

_GROUPS = (("train", TRAIN), ("validation", EVALUATION), ("test", TEST))


@dataclass
class Split:
    """One split of a data set.

    Attributes:
        name: 'train', 'validation', …; 'all' for class folders without splits.
        dataset: in timm's form.
        class_names: by label; the numbers of the labels where the data set has no names.
        labels: of the images, ``[N]``; None where an image may have several, or they are known only when it is read.
    """

    name: str
    dataset: Any
    class_names: list[str]
    labels: np.ndarray | None

    @functools.cached_property
    def counts(self) -> np.ndarray | None:
        """Images of each class; None where the labels are not known."""
        return class_counts(self.dataset, len(self.class_names))

    @property
    def images(self) -> int | None:
        """Number of images; None where it is known only when they are read."""
        return len(self.dataset) if hasattr(self.dataset, "__len__") else None

    @property
    def multi_label(self) -> bool:
        """Whether an image has any number of labels."""
        return bool(getattr(self.dataset, "multi_label", False))

    @property
    def files(self) -> bool:
        """Whether the images are files that can be looked at one by one."""
        return isinstance(getattr(self.dataset, "reader", None), SampleReader)


def open_splits(options: DiagnosisOptions) -> tuple[list[Split], list[Finding]]:
    """Opens the splits of a data set.

    Args:
        options: which data set.

    Returns:
        The splits that can be opened, and what is wrong with the others.

    Raises:
        GCPError: the folder does not exist, or a split that the options name.
    """
    root = options.data_dir
    if options.dataset or (root and os.path.isfile(root)):
        return _named(options)
    if not root or not Path(root).is_dir():
        raise GCPError(f"The data set folder {str(root)!r} does not exist; give the folder of the images.")
    return _folders(options, Path(root))


def _named(options: DiagnosisOptions) -> tuple[list[Split], list[Finding]]:
    """The splits of a data set that is no image folder, each opened as for training."""
    found: list[Split] = []
    refused: dict[str, str] = {}
    # timm takes no notice of the name of a split where the data set is one file.
    usual = ["all"] if not options.dataset else [each for each, _ in _GROUPS]
    for name in options.splits or usual:
        try:
            dataset = create_dataset(
                options.dataset,
                options.data_dir,
                name,
                class_map=options.class_map,
                download=options.dataset_download,
                skip_bad_images=options.skip_bad_images,
                orient=not options.ignore_exif_orientation,
                class_from=options.class_from,
            )
        except GCPError as error:
            refused[name] = str(error)
            continue
        labels = class_labels(dataset)
        number = dataset.num_classes or (0 if labels is None or not len(labels) else int(labels.max()) + 1)
        names = dataset.class_names or [str(label) for label in range(number)]
        found.append(Split(name, dataset, [str(each) for each in names], labels))
    severity = NOTE if found and not options.splits else ERROR
    findings = [
        Finding("split", severity, f"Split '{name}' cannot be opened: {reason}") for name, reason in refused.items()
    ]
    return found, findings


def _folders(options: DiagnosisOptions, root: Path) -> tuple[list[Split], list[Finding]]:
    """The splits of image folders, also of those that a training refuses."""
    places = _places(options, root)
    scans = {name: scan_folder(place) for name, place in places.items()}
    findings: list[Finding] = []
    if not options.splits and not {"train", "all"} & set(places):
        text = (
            f"There is no split to train on, only {', '.join(places)}: make train/<class>, or choose one by --splits."
        )
        findings.append(Finding("split", ERROR, text))
    classes: set[str] = set()
    for name, scan in scans.items():
        findings += _of_the_folders(scan, places[name], name, options.class_from)
        classes |= scan.classes(options.class_from) - {""}
    if twins := case_twins(classes):
        text = f"Classes differ by capital letters alone, and count as several: {some_quoted(twins)}."
        findings.append(Finding("capital letters", WARNING, text, classes=twins))
    names = sorted(classes, key=natural_order)
    label_of = {each: label for label, each in enumerate(names)}
    if given := read_class_map(options.class_map, options.data_dir):
        label_of, by_label = given, {label: name for name, label in given.items()}
        names = [by_label.get(label, str(label)) for label in range(max(by_label) + 1)]
        if left_out := sorted(classes - set(given)):
            text = f"The class map lacks {some_quoted(left_out)}: the images are left out."
            findings.append(Finding("left out", NOTE, text, classes=left_out))
    names = [printable(each) for each in names]
    found = []
    for name, scan in scans.items():
        reader = SampleReader(places[name])
        labelled = ((path, class_of(folder, options.class_from)) for path, folder in scan.images)
        samples = ((path, label_of[each]) for path, each in labelled if each in label_of)
        reader.samples = sorted(samples, key=lambda sample: natural_order(sample[0]))
        dataset = StrictImageDataset(str(places[name]), reader=reader, orient=not options.ignore_exif_orientation)
        dataset.class_names, dataset.num_classes = names, len(names)
        labels = np.array([label for _, label in reader.samples], dtype=np.int64)
        found.append(Split(name, dataset, names, labels))
    return found, findings


def _places(options: DiagnosisOptions, root: Path) -> dict[str, Path]:
    """Name and folder of each split."""
    if options.splits:
        places = {}
        for name in options.splits:
            place = split_folder(root, same_split(name))
            if place is None:
                raise GCPError(f"{str(root)!r} has no folder for split {name!r}; leave --splits out, or correct it.")
            places[name] = place
        return places
    places = {name: place for name, synonyms in _GROUPS if (place := split_folder(root, synonyms)) is not None}
    return places or {"all": root}


def _of_the_folders(scan: FolderScan, place: Path, name: str, class_from: str) -> list[Finding]:
    """What is wrong with the folders of a split."""
    found = []
    if not scan.images:
        there = f" among its files ({scan.other_files('')})" if scan.others else ""
        found.append(Finding("no images", ERROR, f"{name}: {str(place)!r} holds no image{there}."))
    elif empty := scan.empty(class_from):
        text = f"{name}: no image of class {some_quoted(empty)}: add images, or remove the class folder."
        found.append(Finding("empty class", ERROR, text, classes=empty))
    if "" in scan.folders:
        text = f"{name}: images lie outside the class folders: move them into a folder for each class."
        found.append(Finding("outside", ERROR, text))
    if scan.hidden:
        text = f"{name}: images lie in the hidden folder {scan.hidden[0]!r}: remove it."
        found.append(Finding("hidden", ERROR, text))
    if scan.others:
        number = f"{len(scan.others)} file{'s are' if len(scan.others) > 1 else ' is'}"
        text = f"{name}: {number} not read as images: {count_left_out(scan.others)}."
        found.append(Finding("other files", NOTE, text))
    if class_from == "top" and (nested := [folder for folder in scan.folders if os.sep in folder]):
        text = (
            f"{name}: images lie in folders within a class ({some_quoted(sorted(nested), 3)}) and count to the class "
            "above; if the inner folders are the classes, give --class-from leaf."
        )
        found.append(Finding("nested", WARNING, text))
    return found
