"""Finds pictures that occur twice: equal files and near-duplicates, in one split or several, also under two labels."""

from collections import defaultdict
from collections.abc import Sequence

from ..connected_groups import connected_groups
from .file_checks import BLANK, Scan
from .findings import NOTE, WARNING, Finding, Picture
from .perceptual_hash import near_pairs

__all__ = ["BITS", "check_duplicates"]

BITS = 4
"""Bits of 64 in which the hashes of near-duplicates differ at most."""


def check_duplicates(scans: Sequence[Scan]) -> list[Finding]:
    """Groups of equal files, and groups of images whose perceptual hashes are near each other.

    Blank images are left out of the latter: their hashes are noise.

    Args:
        scans: of the splits.
    """
    at = [(scan, index) for scan in scans for index in range(len(scan.facts))]
    facts = [scan.facts[index] for scan, index in at]
    pictures = [scan.picture(index) for scan, index in at]
    same = defaultdict(list)
    for i, each in enumerate(facts):
        if each.digest:
            same[each.digest].append(i)
    exact = [group for group in same.values() if len(group) > 1]
    first = {i: group[0] for group in exact for i in group}
    # One of each group of equal files stands for it.
    hashed = [i for i, each in enumerate(facts) if each.width and each.deviation >= BLANK and first.get(i, i) == i]
    pairs = near_pairs([facts[i].hash for i in hashed], BITS)
    near = connected_groups([(hashed[i], hashed[j]) for i, j, _ in pairs])
    return [
        *_findings("equal files", [[pictures[i] for i in group] for group in exact]),
        *_findings("near-duplicates", [[pictures[i] for i in group] for group in near]),
    ]


def _findings(what: str, groups: Sequence[Sequence[Picture]]) -> list[Finding]:
    """The groups by what they cost: two labels, two splits, or neither."""
    labels = [group for group in groups if len({each.label for each in group}) > 1]
    across = [group for group in groups if len({each.split for each in group}) > 1 and group not in labels]
    within = [group for group in groups if group not in labels and group not in across]
    sure = what == "equal files"
    looked = "" if sure else " (look at them: some may be alike and not the same)"
    kinds = (
        ("two labels", WARNING, labels, f"under two labels: one of them is wrong{looked}"),
        ("two splits", WARNING, across, f"in two splits: the accuracy there is too high{looked}"),
        ("repeated", NOTE, within, f"within one split{looked}"),
    )
    return [
        Finding(f"{what}, {kind}", severity, f"{_count(chosen)} of {what} {text}.", chosen)
        for kind, severity, chosen, text in kinds
        if chosen
    ]


def _count(groups: Sequence[Sequence[Picture]]) -> str:
    images = sum(map(len, groups))
    return f"{len(groups)} group{'s' if len(groups) > 1 else ''} ({images} images)"
