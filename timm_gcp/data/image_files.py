"""Tells which files are images and opens them, for training, evaluation, prediction and conversion alike."""

import functools
import importlib
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable
from typing import IO

from PIL import Image, ImageOps

from ..errors import GCPError
from ..text import some_of
from .image_mode import convert_image
from .system_errors import read_error

__all__ = [
    "UnreadableImageError",
    "count_left_out",
    "decode_image",
    "image_extensions",
    "is_image",
    "open_image",
    "prepare_image",
    "reason_of",
    "say_left_out",
]

_logger = logging.getLogger(__name__)

# Pillow opens these formats, but has no decoder for their pixels.
_NO_DECODER = {"BUFR", "EMF", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_avif": None}  # package -> function that registers it
_HEIF = (".heic", ".heif", ".hif")


class UnreadableImageError(GCPError):
    """An image file that cannot be decoded.

    ``str()`` is one sentence, also if a DataLoader worker raised the error: torch then raises it again in the main
    process with the worker's whole traceback as its message, which stays in ``args[0]``.
    """

    def __str__(self) -> str:
        return super().__str__().rsplit(f"{type(self).__name__}: ", 1)[-1].strip()


@functools.cache
def image_extensions() -> frozenset[str]:
    """The extensions (lower case, with the dot) of the image types that Pillow and its installed plugins decode.

    ``pillow-heif`` and ``pillow-avif-plugin`` are registered with Pillow if they are installed.
    """
    for package, register in _PLUGINS.items():
        try:
            plugin = importlib.import_module(package)
            if register:
                getattr(plugin, register)()
        except (ImportError, AttributeError, OSError):
            continue
    known = Image.registered_extensions().items()
    readable = {*Image.OPEN, "MPO"} - _NO_DECODER  # MPO: several JPEGs in a file, which the JPEG decoder opens
    return frozenset(ending for ending, kind in known if kind in readable)


def is_image(name: str, types: Collection[str] | None = None) -> bool:
    """Whether a file is an image by its extension. Hidden files (such as macOS's ``._a.jpg``) are not.

    Args:
        name: of the file, with or without its folder.
        types: extensions that count; None for ``image_extensions``.
    """
    base = os.path.basename(name)
    ending = os.path.splitext(base)[1].lower()
    return not base.startswith(".") and ending in (image_extensions() if types is None else types)


def say_left_out(folder: str | os.PathLike[str], names: Iterable[str], types: Collection[str] | None = None) -> None:
    """Logs a warning that counts the files of a folder that are not read as images, by extension.

    Args:
        folder: the folder.
        names: the files, relative to it.
        types: extensions that count as images; None for ``image_extensions``.
    """
    names = sorted(names)
    if names:
        files = "file is" if len(names) == 1 else "files are"
        _logger.warning("%s: %d %s not read as images: %s", folder, len(names), files, count_left_out(names, types))


def count_left_out(names: Iterable[str], types: Collection[str] | None = None) -> str:
    """Counts files that are not read as images, by extension: '16 .heic (pip install pillow-heif), 2 .txt'.

    Args:
        names: of the files.
        types: extensions that count as images; None for ``image_extensions``.
    """
    counts = Counter(
        "hidden" if is_image(os.path.basename(name).lstrip("."), types) else os.path.splitext(name)[1].lower()
        for name in names
    )
    kinds = []
    for ending, count in counts.most_common():
        remedy = " (pip install pillow-heif)" if ending in _HEIF and ending not in image_extensions() else ""
        kinds.append(f"{count} {ending or 'without an extension'}{remedy}")
    first = min(names, default="")
    return f"{some_of(kinds)}; the first is {first!r}"


def decode_image(file: str | os.PathLike[str] | IO[bytes], mode: str | None, orient: bool = True) -> Image.Image:
    """Decodes the first frame of an image, applies the EXIF orientation and converts it (see ``image_mode``).

    Args:
        file: path or open binary file.
        mode: of PIL, such as 'RGB'; None keeps the image's own.
        orient: rotate and mirror the image by its EXIF orientation, as image viewers do.

    Raises:
        Exception: the file cannot be decoded. Pillow's decoders raise errors of many classes.
    """
    image_extensions()  # registers the plugins, in every process
    with Image.open(file) as image:
        image.load()  # reads the whole file, so that a truncated one raises here
        if orient:
            _turn_upright(image)
        return convert_image(image, mode) if mode else image.copy()


def prepare_image(image: Image.Image, mode: str, orient: bool = True, name: str = "an image") -> Image.Image:
    """What `open_image` makes of a file, of an image that is open already; that one is not changed.

    Args:
        image: any.
        mode: of PIL, such as 'RGB'.
        orient: apply the EXIF orientation.
        name: of the image in the error.

    Raises:
        UnreadableImageError: it cannot be decoded or converted.
    """
    try:
        image.load()
        return convert_image(_upright(image) if orient else image, mode)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many classes
        raise UnreadableImageError(f"{name} cannot be read ({reason_of(error)}); give another.") from error


def _upright(image: Image.Image) -> Image.Image:
    """A copy of an image that `_turn_upright` has turned."""
    turned = image.copy()
    turned.format = image.format  # tells the range of a deep image
    _turn_upright(turned)
    return turned


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # a damaged EXIF block does not make the pixels unreadable
        _say_damaged(getattr(image, "filename", "") or "an image", reason_of(error))


@functools.lru_cache(maxsize=1024)
def _say_damaged(name: str, reason: str) -> None:
    _logger.warning("The EXIF block of %s is damaged (%s): its orientation is not applied", name, reason)


def open_image(
    file: str | os.PathLike[str], mode: str, orient: bool = True, remedy: str = "name others"
) -> Image.Image:
    """Decodes an image as ``decode_image`` does, with an error that names the file.

    Args:
        file: the image.
        mode: of PIL, such as 'RGB'.
        orient: apply the EXIF orientation.
        remedy: the end of the error's sentence, without its full stop.

    Raises:
        UnreadableImageError: there is no such file, or it cannot be decoded.
        ReadError: the operating system failed while it was read.
    """
    try:
        return decode_image(file, mode, orient)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, but also SyntaxError, ValueError, struct.error, ...
        if (failure := read_error(str(file), error)) is not None:
            raise failure from error
        raise UnreadableImageError(f"{file} cannot be read ({reason_of(error)}); {remedy}.") from error


def reason_of(error: BaseException | None) -> str:
    """Why an image cannot be read, as the part of a sentence in brackets."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error).__name__ == "UnidentifiedImageError":  # its message repeats the file object
        return "not an image of a known format"
    return " ".join(str(error).split()) or type(error).__name__
