"""A finding: what was found, in which images, and whether it breaks a training."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..text import printable

__all__ = ["ERROR", "NOTE", "WARNING", "Finding", "Picture"]

ERROR, WARNING, NOTE = "error", "warning", "note"
"""An error ends a training or keeps it from starting; a warning costs accuracy; a note is good to know."""


@dataclass(frozen=True)
class Picture:
    """An image of a finding.

    Attributes:
        split: its split.
        index: in the split.
        file: its name, relative to the data set.
        label: name of its class.
        remark: what is special about it; '' for nothing.
    """

    split: str
    index: int
    file: str
    label: str
    remark: str = ""


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        kind: a short name, such as 'unreadable'.
        severity: `ERROR`, `WARNING` or `NOTE`.
        text: one sentence, with the remedy where there is one.
        groups: images that belong together, such as the copies of one photograph; single images are groups of one.
        classes: names of the classes that it is about.
    """

    kind: str
    severity: str
    text: str
    groups: Sequence[Sequence[Picture]] = ()
    classes: Sequence[str] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """The finding for a JSON file."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "text": self.text,
            "classes": [printable(each) for each in self.classes],
            "groups": [
                [{"split": p.split, "file": p.file, "label": p.label, "remark": p.remark} for p in group]
                for group in self.groups
            ],
        }
