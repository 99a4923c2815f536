"""Parts of a training part: folds, and a number of images per class.

A fold holds out a block of consecutive file numbers of every class.

Photographs of one class were taken in series, and neighbours in a series are nearly identical. A random fold holds out
photographs whose neighbours are trained on, so it favours overfitting; a block does so less. A block of a fifth of the
grocery photographs is still too similar to the rest (95 % top-1 with every head); a half is not.
"""

import contextlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

FOLDS = 2


def write_folds(source: Path, out: Path) -> Path:
    """Writes a folder with links to the images of `source`, its lists, and ``fold0-train.txt``, ``fold0-val.txt``, ….

    Args:
        source: a data set of list files (``train.txt``, ``val.txt``, ``test.txt`` with lines ``path, label, …``).
        out: the folder to write; links that exist are kept.

    Returns:
        `out`.
    """
    _link(source, out)
    lines = (source / "train.txt").read_text().splitlines()
    for fold in range(FOLDS):
        train, held = split_blocks(lines, fold)
        (out / f"fold{fold}-train.txt").write_text("\n".join(train) + "\n")
        (out / f"fold{fold}-val.txt").write_text("\n".join(held) + "\n")
    return out


def write_subset(source: Path, out: Path, images: int) -> Path:
    """Writes a folder with links to the images of `source`, its lists, and ``train-<images>.txt``.

    Args:
        source: a data set of list files, as for `write_folds`.
        out: the folder to write; links that exist are kept.
        images: number of images per class, drawn at random with seed 0; a class that has fewer keeps them all. What
            a smaller number draws is a part of what a larger one draws.

    Returns:
        `out`.
    """
    _link(source, out)
    lines = (source / "train.txt").read_text().splitlines()
    kept = draw_per_class([line.split(",")[1].strip() for line in lines], images, seed=0)
    (out / f"train-{images}.txt").write_text("".join(f"{lines[index]}\n" for index in kept))
    return out


def draw_per_class(labels: Sequence[Hashable], images: int, seed: int) -> list[int]:
    """Indices of some images of every class, in ascending order.

    Args:
        labels: of all images.
        images: per class; a class that has fewer keeps them all.
        seed: of the draw. With one seed, what a smaller number draws is a part of what a larger one draws.
    """
    taken: Counter[Hashable] = Counter()
    kept = []
    for index in random.Random(seed).sample(range(len(labels)), len(labels)):
        taken[labels[index]] += 1
        if taken[labels[index]] <= images:
            kept.append(index)
    return sorted(kept)


def _link(source: Path, out: Path) -> None:
    """Makes a folder with the lists of `source` and links to its folders of images."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("train", "val", "test"):
        listed = (source / f"{name}.txt").read_text()
        (out / f"{name}.txt").write_text(listed)
        for folder in {line.split("/")[0] for line in listed.splitlines()}:
            with contextlib.suppress(FileExistsError):  # another run may make the same link
                (out / folder).symlink_to((source / folder).resolve())
    for name in ("classes.csv", "classes.txt"):
        if (source / name).is_file():
            (out / name).write_bytes((source / name).read_bytes())


def split_blocks(lines: list[str], fold: int) -> tuple[list[str], list[str]]:
    """Divides a list into lines to train on and lines to hold out: the `fold`-th half of every class.

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
