"""Names of splits: their synonyms, and the file or folder of a split."""

from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = [
    "EVALUATION",
    "TEST",
    "TRAIN",
    "entry_of",
    "holds_folders",
    "is_training_split",
    "same_split",
    "split_folder",
    "split_remedy",
    "splits_in",
]

TRAIN = ("train", "training")
EVALUATION = ("val", "valid", "validation", "eval", "evaluation")
TEST = ("test", "testing")


def same_split(split: str) -> tuple[str, ...]:
    """The synonyms of a split's name, that name first."""
    return split, *next((group for group in (TRAIN, EVALUATION, TEST) if split.lower() in group), ())


def is_training_split(split: str) -> bool:
    """Whether a split's name means the training split."""
    return split.lower() in TRAIN


def entry_of(folder: Path, name: str) -> Path:
    """Finds the entry of a name in a folder, ignoring case (``train`` finds ``Train``).

    Args:
        folder: a folder that exists.
        name: of a file or folder; an entry of exactly this name is preferred.

    Returns:
        The path; that of the exact name if there is no such entry.
    """
    exact = folder / name
    if not name or exact.exists():
        return exact
    return next((entry for entry in sorted(folder.iterdir()) if entry.name.lower() == name.lower()), exact)


def holds_folders(folder: Path) -> bool:
    """Whether a folder holds folders, as a split does; a class that is called 'train' holds images."""
    return folder.is_dir() and any(entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))


def split_folder(root: Path, names: Iterable[str]) -> Path | None:
    """The folder of a split: the first of some names under which a folder holds folders; None if there is none."""
    return next((folder for name in names if holds_folders(folder := entry_of(root, name))), None)


def splits_in(root: Path) -> list[str]:
    """The folders of a folder that have the name of a split and hold folders, sorted."""
    names = (entry.name for entry in root.iterdir() if not entry.name.startswith("."))
    return sorted(name for name in names if name.lower() in (*TRAIN, *EVALUATION, *TEST) and holds_folders(root / name))


def split_remedy(splits: Sequence[str], training: bool) -> str:
    """The options that name another split, for the end of a sentence.

    Args:
        splits: names of those that there are.
        training: the split is to be trained on.
    """
    remedy = "test" if "test" in splits and not training else "NAME"
    return f"--train-split {remedy}" if training else f"--val-split {remedy} (validate: --split {remedy})"
