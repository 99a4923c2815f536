"""Reads data sets by torchvision: the paths and labels only, so that images are opened and checked as elsewhere."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torchvision import datasets

from ..errors import GCPError
from ..text import one_line
from .reader import Listing

# torchvision's interface gives images, not paths; the private attributes with paths are the same from 0.21 to 0.29.


def read_aircraft(folder: Path, split: str) -> Listing:
    """Reads a split of FGVC-Aircraft by variant. Source: Maji et al., arXiv:1306.5151."""
    dataset = _open(datasets.FGVCAircraft, folder, split)
    return _pairs(zip(dataset._image_files, dataset._labels, strict=True)), list(dataset.classes)


def read_cars(folder: Path, split: str) -> Listing:
    """Reads a split of Stanford Cars.

    Source: Krause et al., 3D Object Representations for Fine-Grained Categorization, 3dRR 2013.
    """
    dataset = _open(datasets.StanfordCars, folder, split)
    return _pairs(dataset._samples), list(dataset.classes)


def read_flowers(folder: Path, split: str) -> Listing:
    """Reads a split of Flowers-102; 'trainval' joins 'train' and 'val'. Source: Nilsback and Zisserman, ICVGIP 2008."""
    samples, names = [], None
    for part in ("train", "val") if split == "trainval" else (split,):
        dataset = _open(datasets.Flowers102, folder, part)
        samples += _pairs(zip(dataset._image_files, dataset._labels, strict=True))
        names = getattr(dataset, "classes", None)  # torchvision 0.21 has no names
    return samples, names and list(names)


def read_pets(folder: Path, split: str) -> Listing:
    """Reads a split of Oxford-IIIT Pets, 37 breeds. Source: Parkhi et al., Cats and Dogs, CVPR 2012."""
    dataset = _open(datasets.OxfordIIITPet, folder, split)
    return _pairs(zip(dataset._images, dataset._labels, strict=True)), list(dataset.classes)


def read_food(folder: Path, split: str) -> Listing:
    """Reads a split of Food-101.

    Source: Bossard et al., Food-101 - Mining Discriminative Components with Random Forests, ECCV 2014.
    """
    dataset = _open(datasets.Food101, folder, split)
    return _pairs(zip(dataset._image_files, dataset._labels, strict=True)), [
        name.replace("_", " ") for name in dataset.classes
    ]


def _open(kind: Any, folder: Path, split: str) -> Any:
    try:
        return kind(str(folder.parent), split)
    except Exception as error:  # torchvision raises errors of many classes at a damaged list
        raise GCPError(
            f"{str(folder)!r} cannot be read ({one_line(error)}): remove the folder and extract the archive again."
        ) from error


def _pairs(samples: Iterable[tuple[Any, Any]]) -> list[tuple[str, int]]:
    return [(str(path), int(label)) for path, label in samples]  # labels from .mat files are NumPy's
