"""Options of data sets, of the model's input and of loading, which training and evaluation share.

Names and meanings are timm's. The defaults here are those of the command line as well.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ..tasks import MULTI_LABEL, SINGLE_LABEL, Task
from .multi_label import MULTI_LABEL_SETS

__all__ = ["DatasetOptions", "InputOptions", "LoadingOptions", "TrainingDataOptions", "default_device"]


@dataclass(kw_only=True)
class DatasetOptions:
    """Which data set is read, and how.

    Attributes:
        dataset: '' for image folders, or a name that ``create_dataset`` takes.
        data_dir: folder of the data set.
        dataset_download: download the data set if it is not there.
        class_map: file with the class names in the order of their labels; '' for the order of the folders.
        class_from: image folders: the class is the first folder below the split ('top') or the innermost ('leaf').
        skip_bad_images: skip unreadable images with a warning.
        no_check_images: do not open every image before the start.
        ignore_exif_orientation: do not turn images upright by their EXIF orientation.
    """

    dataset: str = ""
    data_dir: str | None = None
    dataset_download: bool = False
    class_map: str = ""
    class_from: str = "top"
    skip_bad_images: bool = False
    no_check_images: bool = False
    ignore_exif_orientation: bool = False

    @property
    def task(self) -> Task:
        """Whether an image of this data set has one label or several."""
        return MULTI_LABEL if self.dataset in MULTI_LABEL_SETS else SINGLE_LABEL


@dataclass(kw_only=True)
class TrainingDataOptions(DatasetOptions):
    """The images to train on or fit to, and those to evaluate.

    Attributes:
        train_split: split that is trained on.
        val_split: split that is evaluated after every epoch; '' for none.
        val_fraction: share of every class to hold out of the training images where there is no evaluation split.
        val_seed: seed of that draw.
        held_out: whether images are held out; known once the data set is open.
    """

    train_split: str = "train"
    val_split: str = "validation"
    val_fraction: float = 0.0
    val_seed: int = 0
    held_out: bool = field(default=False, init=False)


@dataclass(kw_only=True)
class InputOptions:
    """The model's input; None (and '') takes the model's own setting.

    Attributes:
        img_size: height and width of the images, pixels.
        input_size: channels, height and width.
        in_chans: channels, 1 or 3.
        mean, std: mean and standard deviation of the pixels, one value or one per channel, on a scale of 0 to 1.
        interpolation: resampling filter of evaluation.
        crop_pct: share of the resized image that evaluation keeps.
        crop_mode: 'center', 'squash' or 'border'.
    """

    img_size: int | None = None
    input_size: Sequence[int] | None = None
    in_chans: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    interpolation: str = ""
    crop_pct: float | None = None
    crop_mode: str | None = None

    @property
    def channels(self) -> int | None:
        """Channels of the images; None takes the model's own."""
        return self.in_chans or (self.input_size[0] if self.input_size else None)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images; None takes the model's own."""
        if self.input_size:
            return self.input_size[1], self.input_size[2]
        return (self.img_size, self.img_size) if self.img_size else None


@dataclass(kw_only=True)
class LoadingOptions:
    """Device, precision, memory layout and loader processes.

    Attributes:
        device: 'cpu', 'cuda', 'cuda:1', …; None takes CUDA where there is a device, else the CPU.
        channels_last: channels_last memory layout.
        amp: mixed precision; the spectral part keeps its own.
        amp_dtype: 'float16' or 'bfloat16'.
        workers: processes that load images; 0 loads in the main process.
        pin_mem: pin CPU memory in the loader.
        no_prefetcher: do not use timm's prefetcher.
    """

    device: str | None = None
    channels_last: bool = False
    amp: bool = False
    amp_dtype: str = "float16"
    workers: int = 4
    pin_mem: bool = False
    no_prefetcher: bool = False

    @property
    def torch_device(self) -> torch.device:
        """The device that ``device`` means."""
        return torch.device(self.device or default_device())

    def autocast(self, device: torch.device) -> Callable[[], Any]:
        """The context of a forward pass on a device: autocast with ``amp``, else nothing."""
        if not self.amp:
            return contextlib.nullcontext
        return partial(torch.autocast, device_type=device.type, dtype=getattr(torch, self.amp_dtype))


def default_device() -> str:
    """'cuda' where there is one, else 'cpu'."""
    return "cuda" if torch.cuda.is_available() else "cpu"
