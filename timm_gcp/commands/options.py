"""Options that several commands have, in groups, and the dataclasses that are made from them."""

import argparse
import dataclasses
from typing import Any, TypeVar, cast

from ..data import CLASS_FROM, FINE_GRAINED
from ..data.options import DatasetOptions, InputOptions, LoadingOptions, TrainingDataOptions
from ..hybrid.options import HybridOptions
from ..models.named import ModelChoice
from .option_types import (
    BELOW_ONE,
    COUNT,
    COUNT_OR_ZERO,
    CROP,
    DEVIATION,
    MEAN,
    SEED,
    file_path,
    model_name,
    resampling,
)
from .parser import Pairs, Switch

__all__ = [
    "add_backbone",
    "add_data_folder",
    "add_data_set",
    "add_debug",
    "add_device",
    "add_hybrid_arguments",
    "add_image_size",
    "add_input",
    "add_loading",
    "add_weights",
    "model_choice",
    "options_of",
]


Options = TypeVar("Options")


def add_data_folder(group: Any) -> None:
    """Adds the folder of the data set to a parser or an argument group, as the other ``add_…`` add their options."""
    group.add_argument("data", type=file_path, nargs="?", metavar="DIR", help="data set folder")
    group.add_argument(
        "--data-dir", type=file_path, metavar="DIR", help="data set folder, where DIR is not given as an argument"
    )


def add_data_set(group: Any) -> None:
    """Adds the options that say how the folder is read."""
    group.add_argument(
        "--dataset",
        metavar="NAME",
        default="",
        help="'grocery' or 'list': list files; 'multilabel': CSV files of images with any number of labels; "
        f"'textures': synthetic; {', '.join(FINE_GRAINED)}: the official folder; or any name that timm reads, such as "
        "torch/cifar10 (default: image folders)",
    )
    group.add_argument("--dataset-download", action="store_true", help="download the data set if it is not there")
    group.add_argument(
        "--class-map",
        type=file_path,
        metavar="FILE",
        default="",
        help="file of class names in the order of their indices (default: sorted names of the folders)",
    )
    group.add_argument(
        "--class-from",
        default=DatasetOptions.class_from,
        choices=CLASS_FROM,
        help="image folders: the class is the first folder below the split (top) or the innermost one (leaf, as in "
        "timm)",
    )
    group.add_argument("--skip-bad-images", action="store_true", help="skip unreadable images with a warning")
    group.add_argument("--no-check-images", action="store_true", help="do not open every image before the start")


def add_holdout(group: Any, text: str) -> None:
    """Adds the options of a part of the training images that is held out.

    Args:
        group: an argument group.
        text: what ``--val-fraction`` does in this command.
    """
    group.add_argument(
        "--val-fraction", type=BELOW_ONE, default=TrainingDataOptions.val_fraction, metavar="F", help=text
    )
    group.add_argument(
        "--val-seed",
        type=SEED,
        default=TrainingDataOptions.val_seed,
        metavar="S",
        help="which images --val-fraction holds out",
    )


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """Adds the group of options of a frozen backbone."""
    group = parser.add_argument_group("Backbone")
    group.add_argument(
        "-m", "--model", type=model_name, default="", metavar="NAME", help="a model of timm's, a folder or hf-hub:ID"
    )
    add_weights(group, method=False)
    add_image_size(group)
    add_input(group)


def add_image_size(group: Any) -> None:
    """Adds ``--img-size``."""
    group.add_argument(
        "--img-size", type=COUNT, metavar="N", help="height and width of the images, pixels (default: the model's)"
    )


def add_input(group: Any, classes_of: str = "model or checkpoint") -> None:
    """Adds the options of the model's input and classifier, but ``--img-size``.

    Args:
        group: of options.
        classes_of: what has the number of classes that is taken by default.
    """
    group.add_argument(
        "--num-classes", type=COUNT, metavar="N", help=f"number of classes (default: that of the {classes_of})"
    )
    group.add_argument("--in-chans", type=COUNT, metavar="N", help="image channels, 3 or 1 (default: the model's)")
    group.add_argument(
        "--input-size", nargs=3, type=COUNT, metavar="N", help="channels, height and width (default: the model's)"
    )
    group.add_argument(
        "--crop-pct",
        type=CROP,
        metavar="P",
        help="share of the resized image kept in evaluation (default: the model's)",
    )
    group.add_argument(
        "--crop-mode",
        choices=("center", "squash", "border"),
        help="resize in evaluation: of the shorter side (center), of both to a square (squash), of the longer with a "
        "border (border) (default: the model's)",
    )
    group.add_argument(
        "--ignore-exif-orientation",
        action="store_true",
        help="read photographs as the sensor stored them, not turned upright by their EXIF orientation",
    )
    group.add_argument(
        "--mean", type=MEAN, nargs="+", help="mean of the pixels per channel, 0 to 1 (default: the model's)"
    )
    group.add_argument(
        "--std",
        type=DEVIATION,
        nargs="+",
        help="standard deviation of the pixels per channel, 0 to 1 (default: the model's)",
    )
    group.add_argument(
        "--interpolation",
        type=resampling,
        default="",
        metavar="NAME",
        help="resampling filter in evaluation (default: the model's)",
    )
    group.add_argument(
        "--model-kwargs", nargs="*", default={}, action=Pairs, metavar="K=V", help="arguments of timm.create_model"
    )
    group.add_argument(
        "--last-stride",
        type=int,
        choices=(1, 2),
        help="stride of the last stage of a ResNet, without dilation (default: the model's)",
    )


def add_weights(group: Any, method: bool = True) -> None:
    """Adds the checkpoint, and the method of a trained model.

    Args:
        group: an argument group.
        method: adds ``--method``.
    """
    group.add_argument(
        "--checkpoint",
        type=file_path,
        default="",
        metavar="FILE",
        help="checkpoint or run folder whose weights are loaded; those of a run name their model",
    )
    group.add_argument(
        "--use-ema",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="take the averaged weights of a checkpoint (default: those by which the run was ranked)",
    )
    if method:
        group.add_argument("--method", metavar="NAME", help="pool by this method (default: the model's)")


def add_device(group: Any) -> None:
    """Adds ``--device``."""
    group.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1, … (default: cuda where there is one, else cpu)"
    )


def add_loading(group: Any) -> None:
    """Adds precision, memory layout and the loader's processes."""
    group.add_argument("--channels-last", action=Switch, help="channels_last memory layout")
    group.add_argument("--amp", action="store_true", help="mixed precision; the spectral part keeps its own precision")
    group.add_argument(
        "--amp-dtype", default=LoadingOptions.amp_dtype, choices=("float16", "bfloat16"), help="number format of --amp"
    )
    group.add_argument(
        "-j",
        "--workers",
        type=COUNT_OR_ZERO,
        default=LoadingOptions.workers,
        metavar="N",
        help="processes that load images",
    )
    group.add_argument("--pin-mem", action="store_true", help="pin CPU memory in the loader")
    group.add_argument("--no-prefetcher", action="store_true", help="disable timm's prefetcher")


def add_debug(group: Any) -> None:
    """Adds ``--debug``."""
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_hybrid_arguments(group: Any) -> None:
    """Adds the options of the hybrid protocol to a parser, ours or that of a script of timm's.

    Args:
        group: an argument group.
    """
    # --switch-conditioning is an option of our training alone, which has a monitor.
    group.add_argument(
        "--hybrid",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="train with --warm-method while the learning rate is large, then with the model's own method "
        "(default: on where the model's own method is another root)",
    )
    group.add_argument(
        "--warm-method",
        default=HybridOptions.warm_method,
        metavar="NAME",
        help="method of the first epochs of the hybrid protocol (default: %(default)s)",
    )
    group.add_argument(
        "--switch-lr-fraction",
        type=float,
        metavar="F",
        help="switch once the learning rate is at most this fraction of its peak (default: 0.1)",
    )
    group.add_argument(
        "--switch-epoch",
        type=int,
        metavar="N",
        help="switch at epoch N, counted from 0; with another rule, at epoch N at the latest (default: none)",
    )
    group.add_argument(
        "--switch-last-decay",
        action=Switch,
        help="switch at the last decay of the learning rate, in a schedule that falls in steps",
    )


def options_of(kind: type[Options], args: argparse.Namespace, **given: Any) -> Options:
    """Makes a dataclass of options from parsed arguments of the same names.

    Args:
        kind: the dataclass.
        args: parsed arguments; others are left out.
        **given: values that are not among the arguments.
    """
    names = [each.name for each in dataclasses.fields(cast(Any, kind)) if each.init and each.name not in given]
    return kind(**{name: getattr(args, name) for name in names if hasattr(args, name)}, **given)


def model_choice(args: argparse.Namespace, **given: Any) -> ModelChoice:
    """The model that parsed arguments name.

    Args:
        args: parsed arguments.
        **given: fields of the choice that are not taken from them.
    """
    size = options_of(InputOptions, args)
    own = {"in_chans": size.channels, "image_size": size.image_size}
    return options_of(ModelChoice, args, **own, **given)
