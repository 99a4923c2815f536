"""Finds unreadable and suspicious files, and counts the modes of the images."""

from collections import Counter
from collections.abc import Callable, Sequence

from ..text import printable, some_of
from .findings import ERROR, NOTE, WARNING, Finding, Picture
from .image_facts import ImageFacts
from .splits import Split

__all__ = ["BLANK", "Scan", "check_files"]

BLANK = 2.0
"""Standard deviation of the grey values, of 0 to 255, under which an image counts as blank."""
SMALL = 32
"""Pixels of the shorter side under which an image counts as tiny."""
LONG = 4.0
"""Longer side over the shorter one from which an image counts as long."""


class Scan:
    """A split with the facts of its files.

    Args:
        split: whose images are files.
        facts: of the images, in the order of the split.
    """

    def __init__(self, split: Split, facts: Sequence[ImageFacts]) -> None:
        self.split, self.facts = split, facts

    def picture(self, index: int, remark: str = "") -> Picture:
        """An image of the split, for a finding."""
        labels = self.split.labels
        label = "" if labels is None else self.split.class_names[int(labels[index])]
        return Picture(self.split.name, index, printable(self.split.dataset.filename(index)), label, remark)

    def chosen(self, test: Callable[[ImageFacts], str]) -> list[Picture]:
        """The images for which a test has a remark."""
        return [self.picture(i, remark) for i, facts in enumerate(self.facts) if (remark := test(facts))]


def check_files(scan: Scan) -> list[Finding]:
    """What the files of a split show.

    Args:
        scan: of the split.
    """
    name, total = scan.split.name, len(scan.facts)
    found = []

    def add(kind: str, severity: str, test: Callable[[ImageFacts], str], text: str) -> None:
        if pictures := scan.chosen(test):
            files = some_of([f"{each.file} ({each.remark})" for each in pictures], 3)
            said = f"{name}: {len(pictures)} of {total} images {text}: {files}."
            found.append(Finding(kind, severity, said, [[each] for each in pictures]))

    add("unreadable", ERROR, lambda f: f.error, "cannot be read (replace them, or train with --skip-bad-images)")
    add("blank", WARNING, _blank, "show nothing")
    add("tiny", WARNING, lambda f: _size(f) if f.width and min(f.width, f.height) < SMALL else "", "are tiny")
    add("long", NOTE, lambda f: _size(f) if _aspect(f) >= LONG else "", f"have an aspect ratio of {LONG:g} or more")
    add("wrong suffix", NOTE, lambda f: f.wrong_suffix, "have another format than their name says; they are read")
    add("rotated", NOTE, _rotated, "are turned by their EXIF orientation, as training turns them")
    if modes := _modes(scan.facts):
        found.append(Finding("modes", NOTE, f"{name}: {modes}; they are converted to RGB."))
    return found


def _modes(facts: Sequence[ImageFacts]) -> str:
    """Modes other than RGB with their numbers; '' for none."""
    words = {"L": "grey", "1": "black and white", "CMYK": "CMYK", "P": "palette", "RGBA": "alpha", "LA": "grey, alpha"}
    counts = Counter(each.mode for each in facts if each.mode not in ("", "RGB"))
    return ", ".join(f"{count} of mode {mode} ({words.get(mode, 'other')})" for mode, count in counts.most_common())


def _blank(facts: ImageFacts) -> str:
    return "one colour" if facts.width and facts.deviation < BLANK else ""


def _rotated(facts: ImageFacts) -> str:
    return f"orientation {facts.orientation}" if facts.orientation not in (0, 1) else ""


def _size(facts: ImageFacts) -> str:
    return f"{facts.width}×{facts.height}"


def _aspect(facts: ImageFacts) -> float:
    return max(facts.width, facts.height) / max(min(facts.width, facts.height), 1)
