"""The diagnosis of a data set: counts, files, sizes, duplicates, suggestions, and the time of an epoch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import GCPError
from .class_balance import Balance, balance_of, check_classes
from .duplicates import check_duplicates
from .file_checks import Scan, check_files
from .findings import ERROR, NOTE, WARNING, Finding
from .image_facts import scan_images
from .image_sizes import Sizes, sizes_of
from .options import DiagnosisOptions
from .speed import Speed, time_epoch
from .splits import Split, open_splits
from .suggestions import STANDARD, Suggestion, batch_size, image_size, suggest

__all__ = ["Diagnosis", "diagnose"]

_ORDER = {ERROR: 0, WARNING: 1, NOTE: 2}


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        data: name or folder of the data set.
        splits: that can be opened; the first is the one to train on.
        balances: by split, where the labels are known.
        sizes: by split, where the images are files.
        findings: errors first.
        suggestions: for the training.
        speed: of an epoch; None where it was not timed.
    """

    data: str
    splits: Sequence[Split]
    balances: dict[str, Balance]
    sizes: dict[str, Sizes]
    findings: Sequence[Finding]
    suggestions: Sequence[Suggestion]
    speed: Speed | None = field(default=None)

    @property
    def breaks(self) -> bool:
        """Whether a finding would break a training."""
        return any(finding.severity == ERROR for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis for a JSON file."""
        speed = None
        if self.speed is not None:
            own = {"epoch_seconds": self.speed.epoch_seconds, "bottleneck": self.speed.bottleneck}
            speed = {**asdict(self.speed), **own}
        return {
            "data": self.data,
            "breaks_a_training": self.breaks,
            "splits": [
                {
                    "name": split.name,
                    "images": split.images,
                    "counts": _counts(split),
                    "balance": asdict(self.balances[split.name]) if split.name in self.balances else None,
                    "quantiles": asdict(self.sizes[split.name]) if split.name in self.sizes else None,
                }
                for split in self.splits
            ],
            "findings": [finding.as_dict() for finding in self.findings],
            "suggestions": [asdict(each) for each in self.suggestions],
            "speed": speed,
        }


def _counts(split: Split) -> dict[str, int] | None:
    counts = split.counts
    return None if counts is None else dict(zip(split.class_names, counts.tolist(), strict=True))


def diagnose(options: DiagnosisOptions) -> Diagnosis:
    """Looks at every image of a data set, and times an epoch.

    Args:
        options: which data set, and for which model.

    Raises:
        GCPError: there is no such folder.
    """
    splits, findings = open_splits(options)
    if not splits and not findings:
        findings = [Finding("no images", ERROR, "There is no split with images.")]
    findings += check_classes(splits)
    scans = []
    for split in splits:
        if split.files:
            scans.append(Scan(split, scan_images(split)))
            continue
        text = f"{split.name}: the images are not files, so sizes, damage and duplicates are not looked at."
        findings.append(Finding("not scanned", NOTE, text))
    for scan in scans:
        findings += check_files(scan)
        findings += _lost_classes(scan)
    findings += check_duplicates(scans)
    balances = {split.name: balance for split in splits if (balance := balance_of(split)) is not None}
    sizes = {scan.split.name: found for scan in scans if (found := sizes_of(scan.facts)) is not None}
    speed = None
    if splits and options.model:
        broken = any(finding.severity == ERROR for finding in findings)
        speed, trouble = _timed(splits[0], options, sizes.get(splits[0].name), broken)
        findings += trouble
    first = splits[0].name if splits else ""
    return Diagnosis(
        data=str(options.data_dir or options.dataset),
        splits=splits,
        balances=balances,
        sizes=sizes,
        findings=sorted(findings, key=lambda finding: _ORDER[finding.severity]),
        suggestions=suggest(
            balances.get(first), sizes.get(first), findings, len(splits) > 1, bool(splits) and splits[0].multi_label
        ),
        speed=speed,
    )


def _lost_classes(scan: Scan) -> list[Finding]:
    """Classes of whose images none can be read."""
    labels = scan.split.labels
    if labels is None:
        return []
    readable = {int(label) for label, facts in zip(labels, scan.facts, strict=True) if not facts.error}
    lost = [scan.split.class_names[label] for label in sorted(set(labels.tolist()) - readable)]
    text = f"{scan.split.name}: no image of class {', '.join(map(repr, lost))} can be read: replace the files."
    return [Finding("empty class", ERROR, text, classes=lost)] if lost else []


def _timed(
    split: Split, options: DiagnosisOptions, sizes: Sizes | None, broken: bool
) -> tuple[Speed | None, list[Finding]]:
    """The time of an epoch, or why there is none."""
    try:
        images = split.images or 0
        if broken or not images:
            text = f"An epoch of {options.model} was not timed: {'mend the errors' if broken else 'no images'} first."
            return None, [Finding("not timed", NOTE, text)]
        size = options.img_size or (image_size(sizes) if sizes else STANDARD)
        return time_epoch(split, options, size, options.batch_size or batch_size(images)), []
    except GCPError as error:
        return None, [Finding("not timed", WARNING, f"An epoch of {options.model} could not be timed: {error}")]
