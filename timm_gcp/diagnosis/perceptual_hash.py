"""A perceptual hash, and the images whose hashes are near each other."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

__all__ = ["SIDE", "near_pairs", "perceptual_hash"]

SIDE = 32
"""Height and width of the grey picture that is hashed."""
_LOW = 8  # frequencies in each direction
_AT = (np.arange(SIDE) + 0.5) * math.pi / SIDE
_COSINES = np.cos(np.arange(1, _LOW + 1)[:, None] * _AT)  # type II; without the constant, which is the brightness
_BITS = 64


def perceptual_hash(grey: np.ndarray) -> int:
    """The low frequencies of a picture, each above or under their median.

    Source: Zauner, *Implementation and Benchmarking of Perceptual Image Hash Functions*, 2010, the hash by DCT.

    Args:
        grey: ``[32, 32]``, float64.

    Returns:
        64 bits.
    """
    frequencies = (_COSINES @ grey @ _COSINES.T).ravel()
    bits = frequencies > np.median(frequencies)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_pairs(hashes: Sequence[int], most: int) -> list[tuple[int, int, int]]:
    """The pairs of hashes that differ in few bits.

    Two hashes that differ in at most d bits agree in one of any d + 1 parts of their bits: only hashes that share a
    part are compared.

    Args:
        hashes: 64 bits each.
        most: bits that may differ, d.

    Returns:
        ``(i, j, bits)`` with i < j, sorted.
    """
    values = np.array(hashes, dtype=np.uint64)
    bounds = np.linspace(0, _BITS, most + 2).astype(int).tolist()
    found: dict[tuple[int, int], int] = {}
    for low, high in itertools.pairwise(bounds):
        part = (values >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(part, kind="stable")
        borders = np.flatnonzero(np.diff(part[order])) + 1
        for group in np.split(order, borders):
            if len(group) > 1:
                _compare(values, np.sort(group), most, found)
    return sorted((i, j, bits) for (i, j), bits in found.items())


def _compare(values: np.ndarray, group: np.ndarray, most: int, found: dict[tuple[int, int], int]) -> None:
    for place, i in enumerate(group[:-1].tolist()):
        others = group[place + 1 :]
        differing = np.unpackbits((values[others] ^ values[i])[:, None].view(np.uint8), axis=1).sum(1)
        for at in np.flatnonzero(differing <= most).tolist():
            found[i, int(others[at])] = int(differing[at])
