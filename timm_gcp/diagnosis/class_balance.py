"""Counts the images of each class, and finds imbalance, small, empty and missing classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..text import some_quoted
from .findings import ERROR, NOTE, WARNING, Finding
from .splits import Split

__all__ = ["FEW", "Balance", "balance_of", "check_classes"]

FEW = 5
"""Images of a class under which it is called small: the fewest for which the project has measured a probe."""
IMBALANCED = 3.0
"""Images of the largest class over those of the smallest from which a split is called imbalanced."""


@dataclass(frozen=True)
class Balance:
    """How the images of a split are spread over its classes.

    Attributes:
        images: in all.
        classes: with an image.
        smallest, median, largest: images of a class, among those with an image.
    """

    images: int
    classes: int
    smallest: int
    median: float
    largest: int

    @property
    def ratio(self) -> float:
        """Images of the largest class over those of the smallest."""
        return self.largest / self.smallest if self.smallest else 0.0


def balance_of(split: Split) -> Balance | None:
    """The balance of a split; None where its labels are known only when the images are read."""
    counts = split.counts
    if counts is None:
        return None
    there = counts[counts > 0]
    if not len(there):
        return Balance(0, 0, 0, 0.0, 0)
    return Balance(len(split.dataset), len(there), int(there.min()), float(np.median(there)), int(there.max()))


def check_classes(splits: Sequence[Split]) -> list[Finding]:
    """What the counts of the classes show. The first split is the one that is trained on.

    Args:
        splits: of the data set.
    """
    found = []
    known = {split.name: (split, counts) for split in splits if (counts := split.counts) is not None}
    for split in splits:
        if split.name not in known and split.images != 0:
            text = f"{split.name}: the labels are known only when the images are read, so classes are not counted."
            found.append(Finding("not counted", NOTE, text))
    for number, (split, counts) in enumerate(known.values()):
        found += _of_a_split(split, counts, trained=number == 0)
    if len(known) > 1:
        found += _apart(known)
    return found


def _of_a_split(split: Split, counts: np.ndarray, trained: bool) -> list[Finding]:
    found = []
    names = np.array(split.class_names)
    if not counts.sum():
        return [Finding("no images", ERROR, f"{split.name}: there is no image with a label.")]
    empty = names[counts == 0].tolist() if trained else []
    if empty:
        text = f"{split.name}: no image of class {some_quoted(empty)}: add images, or take the class out."
        found.append(Finding("empty class", ERROR, text, classes=empty))
    if trained and (counts > 0).sum() < 2 and not split.multi_label:
        found.append(Finding("one class", ERROR, f"{split.name}: images of one class alone teach nothing: add others."))
    few = names[(counts > 0) & (counts < FEW)].tolist()
    if few and trained:
        text = f"{split.name}: {len(few)} class{'es have' if len(few) > 1 else ' has'} under {FEW} images "
        found.append(Finding("small class", WARNING, f"{text}({some_quoted(few)}).", classes=few))
    balance = balance_of(split)
    assert balance is not None
    if trained and balance.ratio >= IMBALANCED:
        most = split.class_names[int(counts.argmax())]
        least = split.class_names[int(np.where(counts > 0, counts, counts.max() + 1).argmin())]
        text = (
            f"{split.name}: the largest class ({most!r}, {balance.largest}) has {balance.ratio:.1f} times the images "
            f"of the smallest ({least!r}, {balance.smallest})."
        )
        found.append(Finding("imbalance", WARNING, text))
    return found


def _apart(known: dict[str, tuple[Split, np.ndarray]]) -> list[Finding]:
    """Classes that are in one split and not in another."""
    found = []
    there = {
        name: {split.class_names[label] for label in np.flatnonzero(counts).tolist()}
        for name, (split, counts) in known.items()
    }
    trained, *others = there
    for name in others:
        if unseen := sorted(there[name] - there[trained]):
            text = f"{name}: class {some_quoted(unseen)} is not in {trained!r}, so it is never learned."
            found.append(Finding("unseen class", ERROR, text, classes=unseen))
        if missing := sorted(there[trained] - there[name]):
            text = f"{name}: no image of class {some_quoted(missing)}, which {trained!r} has: it is not evaluated."
            found.append(Finding("missing class", WARNING, text, classes=missing))
    return found
