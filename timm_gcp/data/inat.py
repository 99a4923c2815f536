"""Reads the mini training set and the validation set of iNaturalist 2021: a folder for each species."""

import os
import re
from pathlib import Path

from ..errors import GCPError
from .reader import Listing

_FOLDERS = {"train": "train_mini", "val": "val"}
_SPECIES = re.compile(r"(?P<number>\d{5})_.+_(?P<genus>[^_]+)_(?P<species>[^_]+)")


def read_inat21_mini(folder: Path, split: str) -> Listing:
    """Reads one split of the folder into which ``train_mini.tar.gz`` and ``val.tar.gz`` are extracted.

    Args:
        folder: the one with ``train_mini/`` and ``val/``, whose folders have names such as
            ``00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris``.
        split: 'train' or 'val'.

    Returns:
        Images with the number of their species as label, sorted, and the species, such as 'Lumbricus terrestris'.

    Raises:
        GCPError: a folder has another name, or a species is missing.

    Source: Van Horn et al., Benchmarking Representation Learning for Natural World Image Collections, CVPR 2021.
    """
    root = folder / _FOLDERS[split]
    images, names = [], []
    for label, name in enumerate(sorted(entry.name for entry in os.scandir(root) if entry.is_dir())):
        match = _SPECIES.fullmatch(name)
        if match is None or int(match["number"]) != label:
            raise GCPError(
                f"{str(root / name)!r} is not the folder of species {label:05}: the folders are numbered without gaps; "
                f"extract {_FOLDERS[split]}.tar.gz again."
            )
        names.append(f"{match['genus']} {match['species']}")
        files = sorted(entry.name for entry in os.scandir(root / name) if not entry.name.startswith("."))
        images += [(os.path.join(root, name, file), label) for file in files]
    return images, names
