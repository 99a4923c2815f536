"""Folds of a training part that keep series together: each is a block of consecutive file numbers of every class.

Photographs of one class are taken in series, and neighbours in a series are all but the same picture. A fold drawn at
random holds out photographs whose neighbours are trained on, so it flatters whatever fits most; a block does less. A
fifth of the grocery photographs as a block is still too much like the rest (95 % right, whatever the head); a half is
not.
"""

import re
from collections import defaultdict
from pathlib import Path

FOLDS = 2


def write_folds(source: Path, out: Path) -> Path:
    """A folder with the photographs of `source` (as links), its lists, and ``fold0-train.txt``, ``fold0-val.txt``, ….

    Args:
        source: a data set of list files (``train.txt``, ``val.txt``, ``test.txt`` with lines ``path, label, …``).
        out: the folder to write; what is there already is left.

    Returns:
        `out`.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in ("train", "val", "test"):
        listed = (source / f"{name}.txt").read_text()
        (out / f"{name}.txt").write_text(listed)
        for folder in {line.split("/")[0] for line in listed.splitlines()}:
            if not (out / folder).exists():
                (out / folder).symlink_to((source / folder).resolve())
    if (source / "classes.csv").is_file():
        (out / "classes.csv").write_bytes((source / "classes.csv").read_bytes())
    lines = (source / "train.txt").read_text().splitlines()
    for fold in range(FOLDS):
        train, held = split_blocks(lines, fold)
        (out / f"fold{fold}-train.txt").write_text("\n".join(train) + "\n")
        (out / f"fold{fold}-val.txt").write_text("\n".join(held) + "\n")
    return out


def split_blocks(lines: list[str], fold: int) -> tuple[list[str], list[str]]:
    """Parts a list into what is trained on and what is held out: the `fold`-th half of every class.

    Args:
        lines: ``path, label, …``.
        fold: 0 or 1.

    Returns:
        The lines to train on and the lines held out.
    """
    by_class = defaultdict(list)
    for line in lines:
        by_class[line.split(",")[1].strip()].append(line)
    train, held = [], []
    for members in by_class.values():
        members.sort(key=_file_number)
        start, stop = (len(members) * bound // FOLDS for bound in (fold, fold + 1))
        held += members[start:stop]
        train += members[:start] + members[stop:]
    return train, held


def _file_number(line: str) -> tuple[int, str]:
    path = line.split(",")[0].strip()
    numbers = re.findall(r"\d+", Path(path).stem)
    return (int(numbers[-1]) if numbers else 0), path
