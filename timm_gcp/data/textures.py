"""A synthetic data set of woven textures whose classes have equal means and differ in second-order statistics only."""

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..errors import GCPError
from ..output import BAR
from .splits import same_split

# The direction in RGB along which a thread varies. Entries are +-1, so every thread gives every channel the same
# variance, and two threads differ only in the signs of the correlations between channels.
_THREADS = {
    "grey": (1, 1, 1),  # dark to light
    "gold": (1, 1, -1),  # blue to yellow
    "rose": (1, -1, 1),  # green to magenta
    "teal": (-1, 1, 1),  # red to cyan
}
# (warp, weft), each pair followed by its mirror: the two have the same channel covariance and the same spectrum in
# every channel, and differ only in the covariance between channels at different pixels.
_WEAVES = [
    weave
    for a, b in [("grey", "gold"), ("rose", "teal"), ("grey", "rose"), ("gold", "teal"), ("grey", "teal"),
                 ("gold", "rose")]
    for weave in ((a, b), (b, a))
]  # fmt: skip
_SPLITS = {"train": 0, "validation": 1, "test": 2}
_IMAGES_PER_CLASS = {"train": 100, "validation": 50, "test": 50}

_FREQUENCY = (0.10, 0.20)  # of a thread, in cycles per pixel, drawn for every image
_BANDWIDTH = 0.35  # of log-frequency
_SPREAD = np.deg2rad(12)  # of a thread's direction
_TILT = np.deg2rad(15)  # largest rotation of the whole texture, either way
_CONTRAST = (0.10, 0.20)  # standard deviation of a channel, of the range [0, 1]
_CAST = 0.04  # standard deviation of an image's mean colour
_GRAIN = 0.05  # standard deviation of white noise


class TextureDataset(Dataset):
    """Woven textures made of coloured noise, generated when they are read.

    Every image is the sum of two bands of Gaussian noise: a warp (vertical threads) and a weft (horizontal threads).
    Each band runs along one direction c in RGB, with entries +-1, and the class is the pair of directions
    (``gold-warp-teal-weft``). All classes therefore share the mean colour and the distribution of every channel's
    intensity: the mean of an image over its pixels tells nothing about its class. What differs is second-order: the
    covariance between channels, c_warp c_warpᵀ + c_weft c_weftᵀ, and, between a class and its mirror (warp and weft
    exchanged), only the covariance between channels of neighbouring pixels. Mean colour, contrast, the share of the
    two bands, thread width and tilt vary from image to image, with the same distribution in all classes.

    An image depends on ``(seed, split, index)`` and ``img_size`` alone; ``label = index % num_classes``.

    Args:
        split: 'train', 'validation' or 'test' (or one of timm's synonyms).
        num_classes: 2 to 12.
        images_per_class: by default 100 in 'train' and 50 in the other splits.
        img_size: side of the square image in pixels, 16 or more.
        seed: of the images; 0 or more.
        input_img_mode: the PIL mode of the images.
        transform: applied to the PIL image.
        target_transform: applied to the label.

    Raises:
        GCPError: an argument is out of its range.
    """

    def __init__(
        self,
        split: str = "train",
        num_classes: int = 8,
        images_per_class: int | None = None,
        img_size: int = 64,
        seed: int = 0,
        input_img_mode: str = "RGB",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
    ) -> None:
        self.split = next((name for name in same_split(split) if name in _SPLITS), "")
        if not self.split:
            raise GCPError(f"textures have no split {split!r}: use one of {', '.join(_SPLITS)}.")
        if images_per_class is None:
            images_per_class = _IMAGES_PER_CLASS[self.split]
        if not 2 <= num_classes <= len(_WEAVES):
            raise GCPError(f"textures come in 2 to {len(_WEAVES)} classes, not {num_classes}: change num_classes.")
        if images_per_class < 1:
            raise GCPError(f"textures need at least 1 image per class, not {images_per_class}: raise images_per_class.")
        if img_size < 16:
            raise GCPError(f"textures of {img_size} pixels are too small to show a thread: use img_size 16 or more.")
        if seed < 0:
            raise GCPError(f"the seed of textures is {seed}: use 0 or a positive number.")
        self._weaves = _WEAVES[:num_classes]
        self.class_names = [f"{warp}-warp-{weft}-weft" for warp, weft in self._weaves]
        self.num_classes = num_classes
        self.img_size = img_size
        self.seed = seed
        self.input_img_mode = input_img_mode
        self.transform = transform
        self.target_transform = target_transform
        self._length = num_classes * images_per_class

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        label = self._label(index)
        image: Any = self.image(index)
        if self.input_img_mode:
            image = image.convert(self.input_img_mode)
        if self.transform is not None:
            image = self.transform(image)
        return image, label if self.target_transform is None else self.target_transform(label)

    @property
    def targets(self) -> list[int]:
        """The label of each image, before ``target_transform``, under torchvision's name."""
        return [index % self.num_classes for index in range(self._length)]

    def _label(self, index: int) -> int:
        if not 0 <= index < self._length:
            raise IndexError(f"index {index} is outside the {self._length} images")
        return index % self.num_classes

    def image(self, index: int) -> Image.Image:
        """The image before any transform: PIL, RGB, ``img_size`` × ``img_size`` pixels."""
        warp, weft = self._weaves[self._label(index)]
        rng = np.random.default_rng([self.seed, _SPLITS[self.split], index])
        tilt = rng.uniform(-_TILT, _TILT)
        share = rng.uniform(0.35, 0.65)
        contrast = rng.uniform(*_CONTRAST)
        pixels = np.zeros((self.img_size, self.img_size, 3))
        # the wave of vertical threads runs along x (angle 0), that of horizontal threads along y
        for thread, angle, part in ((warp, tilt, share), (weft, tilt + np.pi / 2, 1 - share)):
            band = _oriented_noise(rng, self.img_size, angle, rng.uniform(*_FREQUENCY))
            pixels += np.sqrt(part) * band[..., None] * np.array(_THREADS[thread])
        pixels = 0.5 + contrast * pixels + rng.normal(0, _CAST, 3) + rng.normal(0, _GRAIN, pixels.shape)
        return Image.fromarray((255 * pixels.clip(0, 1)).round().astype(np.uint8))

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """The name that ``write_textures`` gives the image; there is no file, so ``absolute`` has no effect."""
        name = f"{index:06d}.png"
        return name if basename else f"{self.class_names[self._label(index)]}/{name}"

    def filenames(self, basename: bool = False, absolute: bool = False) -> list[str]:
        """The names of all images, in order (see ``filename``)."""
        return [self.filename(index, basename, absolute) for index in range(self._length)]


def _oriented_noise(rng: np.random.Generator, size: int, angle: float, frequency: float) -> np.ndarray:
    """Gaussian noise ``[size, size]`` of mean 0 and variance 1 whose waves run along ``angle`` (radians from x)."""
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    radius = np.hypot(fx, fy)
    radius[0, 0] = 1.0  # any positive number: the amplitude of the mean is set to 0 below
    turn = np.arctan2(fy, fx) - angle
    off_axis = np.arctan2(np.abs(np.sin(turn)), np.abs(np.cos(turn)))  # a wave and its opposite are the same
    amplitude = np.exp(-((np.log(radius / frequency) / _BANDWIDTH) ** 2 + (off_axis / _SPREAD) ** 2) / 2)
    amplitude[0, 0] = 0.0
    white = np.fft.fft2(rng.standard_normal((size, size)))
    return np.fft.ifft2(white * amplitude).real / np.sqrt(np.mean(amplitude**2))


def write_textures(
    folder: str | os.PathLike[str],
    num_classes: int = 8,
    images_per_class: int | None = None,
    validation_per_class: int | None = None,
    img_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Writes textures as an image folder: ``train/<class>/*.png`` and ``validation/<class>/*.png``.

    The folder appears under its name only once it is complete.

    Args:
        folder: where to write; it must not exist, or be empty.
        num_classes: as for ``TextureDataset``.
        images_per_class: of 'train'; by default 100.
        validation_per_class: of 'validation'; by default 50.
        img_size: side of the images in pixels.
        seed: of the images.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        The folder.

    Raises:
        GCPError: the folder holds something already or cannot be written, or an argument is out of its range.
    """
    folder = Path(folder)
    splits = [
        TextureDataset(split, num_classes, number, img_size, seed)
        for split, number in (("train", images_per_class), ("validation", validation_per_class))
    ]
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GCPError(f"{str(folder)!r} exists already: name a new folder, or remove it first.")
    part = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}.tmp")
    try:
        part.mkdir(parents=True)
        for split in splits:
            for name in split.class_names:
                (part / split.split / name).mkdir(parents=True)
        work = itertools.chain.from_iterable(((split, index) for index in range(len(split))) for split in splits)
        bar = tqdm(work, "textures", sum(map(len, splits)), disable=None if progress else True, bar_format=BAR)
        for split, index in bar:
            split.image(index).save(part / split.split / split.filename(index))
        if folder.exists():
            folder.rmdir()
        os.replace(part, folder)
    except OSError as error:
        raise GCPError(
            f"{str(folder)!r} cannot be written ({error.strerror or error}): name a folder on a disk with room that "
            "you may write to."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder
