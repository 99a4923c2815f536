"""Nearest neighbours of images and near-duplicates, by the cosine of their vectors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..connected_groups import connected_groups
from ..errors import GCPError

__all__ = ["Duplicates", "Neighbours", "near_duplicates", "nearest"]

_ROWS = 1024
"""Images that are compared with all others at a time."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest other images of every image, nearest first.

    Attributes:
        index: ``[images, k]``.
        similarity: cosines, ``[images, k]``.
    """

    index: Tensor
    similarity: Tensor


@dataclass(frozen=True)
class Duplicates:
    """A group of images that are nearly the same: each is linked to the group by a pair.

    Attributes:
        images: indices, ascending.
        pairs: (image, other image, cosine), most similar first.
    """

    images: list[int]
    pairs: list[tuple[int, int, float]]


def nearest(vectors: Tensor, number: int = 8) -> Neighbours:
    """The nearest neighbours of every image.

    Args:
        vectors: of unit length, ``[images, D]``.
        number: of neighbours, or all where there are fewer.

    Raises:
        GCPError: vectors that are not finite.
    """
    if not vectors.isfinite().all():
        raise GCPError("Some vectors are not finite; check the images and the weights.")
    found = []
    for start in range(0, len(vectors), _ROWS):
        rows = torch.arange(start, min(start + _ROWS, len(vectors)))
        cosines = vectors[rows] @ vectors.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf
        found.append(cosines.topk(min(number, len(vectors) - 1), 1))
    similarity, index = (torch.cat(each) for each in zip(*found, strict=True))
    return Neighbours(index, similarity.clamp(-1, 1))


def near_duplicates(neighbours: Neighbours, least: float) -> list[Duplicates]:
    """Groups of images that are connected by pairs of a cosine of at least ``least``.

    Args:
        neighbours: of every image; a pair counts where one of the two is among the neighbours of the other.
        least: cosine of a pair.

    Returns:
        The groups, the one with the most similar pair first.
    """
    pairs: dict[tuple[int, int], float] = {}
    for image, rank in (neighbours.similarity >= least).nonzero().tolist():
        other = int(neighbours.index[image, rank])
        pairs[min(image, other), max(image, other)] = float(neighbours.similarity[image, rank])
    components = connected_groups(pairs)
    group_of = {image: number for number, images in enumerate(components) for image in images}
    groups: dict[int, Duplicates] = {}
    for (image, other), similarity in sorted(pairs.items(), key=lambda pair: -pair[1]):
        number = group_of[image]
        groups.setdefault(number, Duplicates(components[number], [])).pairs.append((image, other, similarity))
    return list(groups.values())
