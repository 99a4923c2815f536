"""The page of a diagnosis, with pictures of what was found, and the tables behind it."""

from pathlib import Path
from typing import Any

from ..reports.page import save_page
from ..reports.tables import save_table
from ..reports.thumbnails import Thumbnails
from ..training.progress import clock
from .diagnose import Diagnosis
from .findings import Finding, Picture

__all__ = ["PAGE", "save_report"]

PAGE = "doctor.html"
_SIDE = 160  # pixels of a picture
_GROUPS, _OF_A_GROUP, _SINGLE = 24, 6, 24
"""The most of everything that a finding shows."""


def save_report(folder: Path, found: Diagnosis) -> Path:
    """Writes the page, ``findings.csv`` with all images of the findings, and ``classes.csv`` with the counts.

    Args:
        folder: where; it is made.
        found: the diagnosis.

    Returns:
        The page.

    Raises:
        GCPError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    thumbnails = {split.name: Thumbnails(split.dataset) for split in found.splits}
    rows = _class_rows(found)
    save_page(
        folder / PAGE,
        "diagnosis.html",
        data=Path(found.data).name or found.data,
        found=found,
        findings=[_shown(finding, thumbnails) for finding in found.findings],
        splits=[split.name for split in found.splits],
        classes=rows,
        epoch=clock(found.speed.epoch_seconds) if found.speed else "",
    )
    save_table(
        folder / "findings.csv",
        ("finding", "severity", "group", "split", "image", "class", "remark"),
        (
            (finding.kind, finding.severity, number, each.split, each.file, each.label, each.remark)
            for finding in found.findings
            for number, group in enumerate(finding.groups, 1)
            for each in group
        ),
    )
    save_table(folder / "classes.csv", ("class", *(split.name for split in found.splits)), rows)
    return folder / PAGE


def _class_rows(found: Diagnosis) -> list[list[Any]]:
    """Class by class the images of each split."""
    counts = [
        dict(zip(split.class_names, each.tolist(), strict=True)) if (each := split.counts) is not None else {}
        for split in found.splits
    ]
    names = list(dict.fromkeys(name for each in counts for name in each))
    return [[name, *(each.get(name) for each in counts)] for name in names]


def _shown(finding: Finding, thumbnails: dict[str, Thumbnails]) -> dict[str, Any]:
    """A finding with its pictures."""

    def photo(each: Picture) -> dict[str, Any]:
        # A file that cannot be read has no picture, and the finding says why.
        picture = None if finding.kind == "unreadable" else thumbnails[each.split].uri(each.index, _SIDE)
        return {"picture": picture, "file": each.file, "label": each.label, "split": each.split, "remark": each.remark}

    single = all(len(group) == 1 for group in finding.groups)
    most = _SINGLE if single else _GROUPS
    groups = [
        {"photos": [photo(each) for each in group[:_OF_A_GROUP]], "more": max(0, len(group) - _OF_A_GROUP)}
        for group in finding.groups[:most]
    ]
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "text": finding.text,
        "single": single,
        "groups": groups,
        "more": max(0, len(finding.groups) - most),
    }
