"""Names of splits: which of them mean the same, and where one lies in a folder."""

from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "EVALUATION",
    "TEST",
    "TRAIN",
    "entry_of",
    "holds_folders",
    "is_training_split",
    "same_split",
    "split_remedy",
]

TRAIN = ("train", "training")
EVALUATION = ("val", "valid", "validation", "eval", "evaluation")
TEST = ("test", "testing")


def same_split(split: str) -> tuple[str, ...]:
    """The names under which a split may be found, its own first."""
    return split, *next((group for group in (TRAIN, EVALUATION, TEST) if split.lower() in group), ())


def is_training_split(split: str) -> bool:
    """Whether a split is the training split by its name."""
    return split.lower() in TRAIN


def entry_of(folder: Path, name: str) -> Path:
    """The file or folder of a name in a folder, whichever way its letters are written (``train`` finds ``Train``).

    Args:
        folder: a folder that exists.
        name: the exact spelling is preferred.

    Returns:
        The path; that of the exact name where there is no such entry.
    """
    exact = folder / name
    if not name or exact.exists():
        return exact
    return next((entry for entry in sorted(folder.iterdir()) if entry.name.lower() == name.lower()), exact)


def holds_folders(folder: Path) -> bool:
    """Whether a folder can be a split: a class may be called 'train' as well, but holds images, not folders."""
    return folder.is_dir() and any(entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))


def split_remedy(splits: Sequence[str], training: bool) -> str:
    """The option that names another split, for the end of a sentence: 'test' where there is one to evaluate on."""
    remedy = "test" if "test" in splits and not training else "NAME"
    return f"--train-split {remedy}" if training else f"--val-split {remedy} (validate: --split {remedy})"
