"""Walks an image folder and tells the class of each image from its path."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import GCPError
from .image_files import count_left_out, is_image, say_left_out

__all__ = ["CLASS_FROM", "FolderScan", "case_twins", "class_of", "find_images", "natural_order", "scan_folder"]

CLASS_FROM = ("top", "leaf")
"""The folder of an image's path that is its class: the first below the split, or the one that holds the image."""


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Sorts as timm's ``natural_key``: numbers by value, letters without their case.

    Names that differ by case or leading zeros alone, which are equal there, have an order too; and a digit that is no
    decimal number, such as ``①``, is a letter.
    """
    parts = re.split(r"(\d+)", name.lower())  # every second part is a number
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


@dataclass
class FolderScan:
    """The files below a folder.

    Attributes:
        images: ``(path, folder)`` of every image; the folder is relative, '' for the scanned one.
        others: relative paths of the files that are not images.
        bottom: relative paths of the folders without subfolders.
        types: the extensions that counted as images; None for ``image_extensions``.
    """

    images: list[tuple[str, str]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    bottom: list[str] = field(default_factory=list)
    types: Collection[str] | None = None

    @property
    def folders(self) -> set[str]:
        """Relative paths of the folders with images in them."""
        return {folder for _, folder in self.images}

    @property
    def hidden(self) -> list[str]:
        """Relative paths of the hidden folders with images in them, and of those within hidden folders; sorted."""
        return sorted(folder for folder in self.folders if any(part.startswith(".") for part in folder.split(os.sep)))

    def classes(self, class_from: str) -> set[str]:
        """Names of the classes with an image; '' stands for images outside any class folder."""
        return {class_of(folder, class_from) for folder in self.folders}

    def empty(self, class_from: str) -> list[str]:
        """Class folders without an image.

        A folder without images inside a class is not counted, nor is a hidden one.

        Args:
            class_from: one of ``CLASS_FROM``.
        """
        have = self.folders
        if class_from == "top":
            found = {class_of(folder, "top") for folder in self.bottom} - self.classes("top")
        else:
            found = {folder for folder in self.bottom if not have & set(_upwards(folder))}
        return sorted(folder for folder in found if folder and not os.path.basename(folder).startswith("."))

    def other_files(self, name: str) -> str:
        """Counts the files below a folder that are not images, by extension; '' if there are none."""
        names = [file for file in self.others if _within(file, name)]
        return count_left_out(names, self.types) if names else ""


def class_of(folder: str, class_from: str) -> str:
    """The class of the images of a folder.

    Args:
        folder: relative to the split; '' is the split itself.
        class_from: one of ``CLASS_FROM``.
    """
    return folder.split(os.sep)[0] if class_from == "top" else os.path.basename(folder)


def case_twins(classes: Iterable[str]) -> list[str]:
    """The names of classes that differ from another one by capital letters alone, sorted."""
    groups = defaultdict(list)
    for name in classes:
        groups[name.casefold()].append(name)
    return sorted(name for group in groups.values() if len(group) > 1 for name in group)


def scan_folder(root: str | os.PathLike[str], types: Collection[str] | None = None) -> FolderScan:
    """Walks a folder, following links; one that leads back to a folder above it is left out.

    Args:
        root: the folder.
        types: extensions that count as images; None for ``image_extensions``.
    """
    scan = FolderScan(types=types)
    # Path of a folder → where the folders from the root down to it really are.
    places: dict[str, tuple[str, ...]] = {str(root): (os.path.realpath(root),)}
    for path, folders, files in os.walk(str(root), followlinks=True):
        relative = "" if Path(path) == Path(root) else os.path.relpath(path, root)
        for file in files:
            if is_image(file, types):
                scan.images.append((os.path.join(path, file), relative))
            else:
                scan.others.append(os.path.join(relative, file))
        if not folders:
            scan.bottom.append(relative)
        above, there = places.pop(path), list(folders)
        folders.clear()
        for name in there:
            inner = os.path.join(path, name)
            real = os.path.realpath(inner) if os.path.islink(inner) else os.path.join(above[-1], name)
            if real not in above:
                places[inner] = (*above, real)
                folders.append(name)
    return scan


def find_images(path: Path) -> list[Path]:
    """Lists the images in a folder and its subfolders, sorted. A path that is not a folder is returned as an image.

    Links are followed and hidden folders left out, as in training. A warning counts the other files of the folder.

    Args:
        path: a file or a folder.

    Raises:
        GCPError: the folder has no images.
    """
    if not path.is_dir():
        return [path]
    scan = scan_folder(path)
    hidden = set(scan.hidden)
    found = sorted(Path(file) for file, folder in scan.images if folder not in hidden)
    others = [*scan.others, *(os.path.relpath(file, path) for file, folder in scan.images if folder in hidden)]
    if not found:
        what = f" ({count_left_out(others)})" if others else ""
        raise GCPError(f"{path} has no images in it{what}; name another folder.")
    say_left_out(path, others)
    return found


def _upwards(folder: str) -> list[str]:
    """A relative folder and its parents."""
    return [str(path) for path in (Path(folder), *Path(folder).parents) if path != Path()]


def _within(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(folder + os.sep)
