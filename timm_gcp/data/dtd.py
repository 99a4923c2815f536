"""Reads the lists of the Describable Textures Dataset."""

import os
from pathlib import Path

from ..errors import GCPError
from ..text_files import numbered_lines
from .reader import Listing

_JOINED = {"trainval": ("train", "val")}


def read_dtd(folder: Path, split: str) -> Listing:
    """Reads one split of the folder ``dtd``, as its archive holds it: the first of its ten partitions.

    Args:
        folder: the one with ``labels/`` and ``images/``.
        split: 'train', 'val', 'test', or 'trainval', which joins the first two.

    Returns:
        Images with labels from 0, in the order of the lists, and the names of the textures in alphabetical order.

    Raises:
        GCPError: a list is malformed.

    Source: Cimpoi et al., Describing Textures in the Wild, CVPR 2014.
    """
    images = []
    for part in _JOINED.get(split, (split,)):
        file = folder / "labels" / f"{part}1.txt"
        for number, line in numbered_lines(file):
            name, slash, image = line.partition("/")
            if not slash or not image:
                raise GCPError(
                    f"{str(file)!r}, line {number}: {line!r} is not a texture and an image: extract the archive again."
                )
            images.append((os.path.join(folder, "images", name, image), name))
    names = sorted({name for _, name in images})
    index = {name: label for label, name in enumerate(names)}
    return [(path, index[name]) for path, name in images], names
