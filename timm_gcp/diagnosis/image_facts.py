"""What one pass over the image files of a split shows: size, mode, hashes, and why a file cannot be read."""

import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..data.image_files import image_extensions, reason_of
from ..data.image_mode import convert_image
from ..output import BAR
from .perceptual_hash import SIDE, perceptual_hash
from .splits import Split

__all__ = ["ImageFacts", "scan_images"]

_BATCH = 256  # files handed to the pool at a time, which bounds the memory of its queue
_ORIENTATION = 0x0112  # tag of EXIF


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image file.

    Attributes:
        bytes: length of the file.
        digest: SHA-256 of its content; '' where it cannot be read.
        error: why it cannot be decoded; '' where it can.
        width, height: pixels, as stored; 0 where it cannot be decoded.
        mode: of PIL, as stored, with '+transparency' for a palette or colour key that is.
        wrong_suffix: the format, where the name of the file says another; else ''.
        orientation: of EXIF, 1 for upright.
        deviation: standard deviation of the grey values, 0 to 255; 0 for an image of one colour.
        hash: 64-bit perceptual hash.
    """

    bytes: int
    digest: str
    error: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    wrong_suffix: str = ""
    orientation: int = 1
    deviation: float = 0.0
    hash: int = 0


def scan_images(split: Split, workers: int | None = None) -> list[ImageFacts]:
    """Reads and decodes every image file of a split once.

    A JPEG file is decoded at an eighth to a half of its size where that suffices: all its bytes are read, so that a
    truncated one is noticed.

    Args:
        split: whose images are files.
        workers: threads (decoders release Python's lock); None for one per core.

    Returns:
        The facts, in the order of the split.
    """
    return list(_facts(split, workers))


def _facts(split: Split, workers: int | None) -> Iterator[ImageFacts]:
    paths = [path for path, *_ in split.dataset.reader.samples]
    image_extensions()  # registers the plugins
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        with tqdm(total=len(paths), desc=split.name, disable=None, bar_format=BAR) as bar:
            for start in range(0, len(paths), _BATCH):
                for facts in pool.map(facts_of, paths[start : start + _BATCH]):
                    bar.update()
                    yield facts
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, the queued images are not read


def facts_of(path: str) -> ImageFacts:
    """The facts of a file."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        return ImageFacts(0, "", reason_of(error))
    digest = hashlib.sha256(content).hexdigest()
    try:
        return _decoded(path, content, digest)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, but also SyntaxError, ValueError, struct.error, ...
        return ImageFacts(len(content), digest, reason_of(error))


def _decoded(path: str, content: bytes, digest: str) -> ImageFacts:
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        mode, kind = image.mode, str(image.format)
        if "transparency" in image.info and not mode.endswith("A"):
            mode += "+transparency"
        image.draft("RGB", (4 * SIDE, 4 * SIDE))
        image.load()
        try:
            orientation = int(image.getexif().get(_ORIENTATION, 1))
        except Exception:  # a damaged EXIF block does not make the pixels unreadable
            orientation = 1
        small = convert_image(image, "RGB").convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.float64)
    return ImageFacts(
        bytes=len(content),
        digest=digest,
        width=width,
        height=height,
        mode=mode,
        wrong_suffix=_wrong_suffix(path, kind),
        orientation=orientation,
        deviation=float(grey.std()),
        hash=perceptual_hash(grey),
    )


def _wrong_suffix(path: str, kind: str) -> str:
    """The format of a file whose name says another one; ''."""
    ending = os.path.splitext(path)[1].lower()
    said = Image.registered_extensions().get(ending)
    return "" if said is None or said == kind or {said, kind} == {"JPEG", "MPO"} else kind
