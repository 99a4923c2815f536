"""The arguments of ``timm-gcp``'s commands: timm's names and meanings, and a few of ours."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import timm.optim
import torch
import yaml
from timm.utils import ParseKwargs

from ..data import CLASS_FROM, FINE_GRAINED
from ..errors import GCPError
from ..files import check_output_folder, is_stream
from ..methods import get_method
from ..text import nearest
from ..weights.upstream import TRIU_ORDERS
from .config_file import read_mapping
from .freezing import PARTS
from .glossary import GLOSSARY
from .option_types import (
    BELOW_ONE,
    CROP,
    DEVIATION,
    MEAN,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    experiment_name,
    file_path,
    model_name,
    policy,
    resampling,
    train_resampling,
)
from .recipe import find_recipe, recipe_names
from .unknown_options import unknown_arguments
from .value_checks import check_compiler, check_device, check_model_kwargs, check_optimizer, check_ranges, image_mode

DEMONSTRATION = "test_resnet_svdpade.grocery"
"""The model whose weights are in the package, so that ``predict`` works without a network."""

SCHEDULERS = ("cosine", "tanh", "step", "multistep", "poly", "plateau", "constant", "wsd", "rsqrt", "none")


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are ours: one sentence, no page of usage."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, with the near names of an option that is not there."""
        parsed, extra = self.parse_known_args(args, namespace)
        if extra:
            self.error(unknown_arguments(extra, self._option_string_actions, self.prog))
        return parsed

    def error(self, message: str) -> NoReturn:
        raise GCPError(f"{message} (see {self.prog} --help)")


class _Switch(argparse.BooleanOptionalAction):
    """``--name``, off by default, with a ``--no-name`` for what a recipe or ``--config`` turns on."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str, default: bool | None = False) -> None:
        super().__init__(option_strings, dest, default=default, help=help)


class _Pairs(ParseKwargs):
    """timm's ``K=V …``, with a word for what is no pair."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        for value in values:
            try:
                super().__call__(parser, argparse.Namespace(), [value], option_string)
            except (ValueError, SyntaxError):
                parser.error(f"argument {option_string}: {value!r} is not of the form K=V")
        super().__call__(parser, namespace, values, option_string)


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Data")
    group.add_argument("data", type=file_path, nargs="?", metavar="DIR", help="data set folder (same as --data-dir)")
    group.add_argument("--data-dir", type=file_path, metavar="DIR", help="data set folder")
    group.add_argument(
        "--dataset",
        metavar="NAME",
        default="",
        help="data set type: '' image folders, 'grocery' or 'list' list files, 'textures' synthetic, the official "
        f"folder of {', '.join(FINE_GRAINED)}, "
        "or any name that timm reads, such as torch/cifar10 (default: '')",
    )
    group.add_argument("--dataset-download", action="store_true", help="download the data set if it is not there")
    group.add_argument(
        "--class-map", type=file_path, metavar="FILE", default="", help="file that maps class names to indices"
    )
    group.add_argument(
        "--class-from",
        default="top",
        choices=CLASS_FROM,
        help="image folders: the class is the first folder below the split (top) or the innermost one (leaf, as in "
        "timm; default: top)",
    )
    group.add_argument("--skip-bad-images", action="store_true", help="leave unreadable images out and go on")
    group.add_argument("--no-check-images", action="store_true", help="don't open every image before the start")


def _add_input(group: Any) -> None:
    group.add_argument("--num-classes", type=int, metavar="N", help="number of classes (default: the data set's)")
    group.add_argument("--img-size", type=int, metavar="N", help="image size (default: the model's)")
    group.add_argument("--in-chans", type=int, metavar="N", help="image channels (default: 3)")
    group.add_argument("--input-size", nargs=3, type=int, metavar="N", help="channels, height and width")
    group.add_argument("--crop-pct", type=CROP, metavar="P", help="share of the resized image kept in evaluation")
    group.add_argument(
        "--crop-mode",
        choices=("center", "squash", "border"),
        help="evaluation's resize: of the shorter side, of both to a square, of the longer with a border "
        "(default: the model's)",
    )
    group.add_argument(
        "--ignore-exif-orientation",
        action="store_true",
        help="read photographs as their sensor stored them (default: turned upright by their EXIF orientation)",
    )
    group.add_argument("--mean", type=MEAN, nargs="+", help="mean of the pixels, 0 to 1")
    group.add_argument("--std", type=DEVIATION, nargs="+", help="standard deviation of the pixels")
    group.add_argument("--interpolation", type=resampling, default="", metavar="NAME", help="resampling in evaluation")
    group.add_argument("--model-kwargs", nargs="*", default={}, action=_Pairs, metavar="K=V")
    group.add_argument("--last-stride", type=int, choices=(1, 2), help="stride of a ResNet's last stage, undilated")


def _add_weights(group: Any) -> None:
    group.add_argument(
        "--checkpoint",
        type=file_path,
        default="",
        metavar="FILE",
        help="weights; a checkpoint of a run names its model",
    )
    group.add_argument(
        "--use-ema",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="averaged weights of a checkpoint (default: those by which the run was ranked)",
    )
    group.add_argument("--method", metavar="NAME", help="another method than the model's own")


def _add_device(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Device")
    group.add_argument("--device", help="device (default: cuda where there is one, else cpu)")
    group.add_argument("--channels-last", action=_Switch, help="channels_last memory layout")
    group.add_argument("--amp", action="store_true", help="mixed precision; the spectral part stays in its own")
    group.add_argument("--amp-dtype", default="float16", choices=("float16", "bfloat16"))
    group.add_argument("-j", "--workers", type=int, default=4, metavar="N", help="loader processes (default: 4)")
    group.add_argument("--pin-mem", action="store_true", help="pin CPU memory in the loader")
    group.add_argument("--no-prefetcher", action="store_true", help="disable timm's prefetcher")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def train_parser() -> Parser:
    """The parser of ``timm-gcp train``; defaults are those of timm's ``train.py`` unless the help says otherwise."""
    parser = Parser(
        prog="timm-gcp train",
        description="Train a timm model, with the hybrid protocol where it ends in covariance pooling.",
        epilog=GLOSSARY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-c",
        "--config",
        type=file_path,
        default="",
        metavar="FILE",
        help="YAML file of arguments; those of the command line win",
    )
    parser.add_argument(
        "--recipe",
        default="",
        metavar="NAME",
        help=f"published settings; those of the command line and of --config win ({', '.join(recipe_names())})",
    )
    parser.add_argument("--show-recipe", action="store_true", help="print the recipe with its source, and exit")
    _add_data(parser)
    data = parser.add_argument_group("Splits")
    data.add_argument("--train-split", default="train", metavar="NAME", help="(default: train)")
    data.add_argument("--val-split", default="validation", metavar="NAME", help="(default: validation; '' for none)")

    group = parser.add_argument_group("Model")
    group.add_argument(
        "--model",
        type=model_name,
        default="resnet50_svdpade",
        metavar="NAME",
        help="registered name, model folder (local-dir:PATH) or hf-hub:ID (default: resnet50_svdpade)",
    )
    group.add_argument("--pretrained", action=_Switch, help="start from pretrained weights (folders always do)")
    group.add_argument(
        "--pretrained-path", type=file_path, metavar="FILE", help="a checkpoint used as the pretrained weights"
    )
    group.add_argument(
        "--initial-checkpoint", type=file_path, default="", metavar="FILE", help="load all weights of a checkpoint"
    )
    group.add_argument(
        "--train-only",
        choices=PARTS,
        help="freeze the rest: the first of two stages of fine-tuning (head: covariance pool and classifier)",
    )
    group.add_argument(
        "--resume",
        type=file_path,
        default="",
        metavar="FILE",
        help="continue a run from its checkpoint; auto: from the newest whole one of the run folder, if there is one",
    )
    group.add_argument("--no-resume-opt", action="store_true", help="resume without the optimiser's state")
    _add_input(group)
    group.add_argument("-b", "--batch-size", type=int, default=128, metavar="N", help="(default: 128)")
    group.add_argument("-vb", "--validation-batch-size", type=int, metavar="N", help="(default: --batch-size)")
    group.add_argument("--grad-accum-steps", type=int, default=1, metavar="N", help="batches an update (default: 1)")
    group.add_argument("--grad-checkpointing", action="store_true", help="recompute activations to save memory")
    group.add_argument("--torchcompile", nargs="?", const="inductor", metavar="BACKEND", help="torch.compile")
    _add_device(parser)

    group = parser.add_argument_group("Covariance pooling")
    group.add_argument(
        "--method-args",
        nargs="*",
        default={},
        action=_Pairs,
        metavar="K=V",
        help="arguments of the model's method, such as degree=20 (timm-gcp list names them)",
    )
    add_hybrid_arguments(group)
    group.add_argument(
        "--switch-conditioning", action="store_true", help="switch when the conditioning of the covariances settles"
    )
    group.add_argument(
        "--classifier-lr-mult", type=POSITIVE, default=1.0, metavar="X", help="classifier's learning rate times X"
    )
    group.add_argument(
        "--monitor-every", type=int, default=10, metavar="N", help="measure conditioning every N batches; 0 never"
    )

    group = parser.add_argument_group("Optimiser")
    group.add_argument("--opt", default="sgd", metavar="NAME", help="(default: sgd)")
    group.add_argument("--opt-eps", type=NOT_NEGATIVE, metavar="EPS")
    group.add_argument("--opt-betas", type=BELOW_ONE, nargs="+", metavar="BETA")
    group.add_argument("--momentum", type=BELOW_ONE, default=0.9, metavar="M", help="(default: 0.9)")
    group.add_argument("--weight-decay", type=NOT_NEGATIVE, default=2e-5, metavar="W", help="(default: 2e-5)")
    group.add_argument("--clip-grad", type=POSITIVE, metavar="NORM", help="clip gradients (default: no)")
    group.add_argument("--clip-mode", default="norm", choices=("norm", "value", "agc"))
    group.add_argument("--layer-decay", type=POSITIVE, metavar="D", help="layer-wise learning-rate decay")
    group.add_argument("--layer-decay-min-scale", type=NOT_NEGATIVE, default=0.0, metavar="S")
    group.add_argument("--layer-decay-no-opt-scale", type=NOT_NEGATIVE, metavar="S")
    group.add_argument("--opt-kwargs", nargs="*", default={}, action=_Pairs, metavar="K=V")

    group = parser.add_argument_group("Learning rate")
    group.add_argument("--sched", default="cosine", metavar="NAME", help=f"{', '.join(SCHEDULERS)} (default: cosine)")
    group.add_argument(
        "--sched-on-updates",
        action=_Switch,
        default=None,
        help="step every update, not every epoch (default: on for runs of under 6 epochs)",
    )
    group.add_argument("--lr", type=POSITIVE, metavar="LR", help="learning rate (default: from --lr-base)")
    group.add_argument("--lr-base", type=POSITIVE, default=0.1, metavar="LR", help="lr = lr_base · batch / base size")
    group.add_argument("--lr-base-size", type=int, default=256, metavar="N", help="(default: 256)")
    group.add_argument("--lr-base-scale", default="", choices=("", "linear", "sqrt"), help="(default: by optimiser)")
    group.add_argument(
        "--lr-noise", type=NOT_NEGATIVE, nargs="+", metavar="P", help="noise on/off, fractions of the run"
    )
    group.add_argument("--lr-noise-pct", type=SHARE, default=0.67, metavar="P")
    group.add_argument("--lr-noise-std", type=NOT_NEGATIVE, default=1.0, metavar="S")
    group.add_argument("--lr-cycle-mul", type=POSITIVE, default=1.0, metavar="X")
    group.add_argument("--lr-cycle-decay", type=SHARE, default=0.5, metavar="X")
    group.add_argument("--lr-cycle-limit", type=int, default=1, metavar="N")
    group.add_argument("--lr-k-decay", type=POSITIVE, default=1.0, metavar="K")
    group.add_argument("--lr-decay-fn", metavar="NAME", help="decay of wsd and rsqrt")
    group.add_argument("--lr-stable-timescale", type=POSITIVE, metavar="N", help="time scale of rsqrt, epochs")
    group.add_argument("--warmup-lr", type=NOT_NEGATIVE, default=1e-5, metavar="LR")
    group.add_argument("--min-lr", type=NOT_NEGATIVE, default=0.0, metavar="LR")
    group.add_argument("--epochs", type=int, default=300, metavar="N", help="(default: 300)")
    group.add_argument("--decay-milestones", type=int, nargs="+", default=[90, 180, 270], metavar="N")
    group.add_argument("--decay-epochs", type=POSITIVE, default=90, metavar="N")
    group.add_argument(
        "--warmup-epochs", type=NOT_NEGATIVE, metavar="N", help="(default: 5, or a fifth of the run where that is less)"
    )
    group.add_argument("--warmup-prefix", action="store_true", help="warm-up comes on top of the schedule")
    group.add_argument("--cooldown-epochs", type=int, default=0, metavar="N")
    group.add_argument("--patience-epochs", type=int, default=10, metavar="N")
    group.add_argument("--decay-rate", "--dr", type=SHARE, default=0.1, metavar="R")

    group = parser.add_argument_group("Augmentation and regularisation")
    group.add_argument("--no-aug", action="store_true", help="no training augmentation")
    group.add_argument("--train-crop-mode", metavar="MODE", help="rrc, rkrc, rkrr, or eval: as evaluation crops")
    group.add_argument("--scale", type=POSITIVE, nargs="+", default=[0.08, 1.0], metavar="P", help="(default: 0.08 1)")
    group.add_argument(
        "--ratio", type=POSITIVE, nargs="+", default=[3 / 4, 4 / 3], metavar="R", help="(default: 3/4 4/3)"
    )
    group.add_argument("--hflip", type=SHARE, default=0.5, metavar="P")
    group.add_argument("--vflip", type=SHARE, default=0.0, metavar="P")
    group.add_argument("--color-jitter", type=NOT_NEGATIVE, default=0.4, metavar="X")
    group.add_argument("--color-jitter-prob", type=SHARE, metavar="P")
    group.add_argument("--grayscale-prob", type=SHARE, metavar="P")
    group.add_argument("--gaussian-blur-prob", type=SHARE, metavar="P")
    group.add_argument(
        "--aa", type=policy, metavar="POLICY", help="AutoAugment or RandAugment policy, such as rand-m9-mstd0.5"
    )
    group.add_argument("--reprob", type=SHARE, default=0.0, metavar="P", help="probability of random erasing")
    group.add_argument("--remode", default="pixel", choices=("const", "rand", "pixel"))
    group.add_argument("--recount", type=int, default=1, metavar="N")
    group.add_argument("--mixup", type=NOT_NEGATIVE, default=0.0, metavar="ALPHA")
    group.add_argument("--cutmix", type=NOT_NEGATIVE, default=0.0, metavar="ALPHA")
    group.add_argument("--cutmix-minmax", type=POSITIVE, nargs="+", metavar="P")
    group.add_argument("--mixup-prob", type=SHARE, default=1.0, metavar="P")
    group.add_argument("--mixup-switch-prob", type=SHARE, default=0.5, metavar="P")
    group.add_argument("--mixup-mode", default="batch", choices=("batch", "pair", "elem"))
    group.add_argument("--mixup-off-epoch", type=int, default=0, metavar="N")
    group.add_argument("--smoothing", type=BELOW_ONE, default=0.1, metavar="P", help="label smoothing (default: 0.1)")
    group.add_argument("--bce-loss", action="store_true", help="binary cross-entropy")
    group.add_argument("--bce-sum", action="store_true")
    group.add_argument("--bce-target-thresh", type=SHARE, metavar="P")
    group.add_argument("--bce-pos-weight", type=POSITIVE, metavar="W")
    group.add_argument("--train-interpolation", type=train_resampling, default="random", metavar="NAME")
    group.add_argument("--drop", type=BELOW_ONE, default=0.0, metavar="P", help="dropout before the classifier")
    group.add_argument("--drop-path", type=BELOW_ONE, metavar="P")

    group = parser.add_argument_group("Batch norm, averaging")
    group.add_argument("--sync-bn", action="store_true", help="synchronised batch norm")
    group.add_argument("--dist-bn", default="reduce", choices=("reduce", "broadcast", ""))
    group.add_argument("--model-ema", action="store_true", help="keep and evaluate an average of the weights")
    group.add_argument("--model-ema-decay", type=SHARE, default=0.9998, metavar="D")
    group.add_argument("--model-ema-warmup", action="store_true")

    group = parser.add_argument_group("Run")
    group.add_argument("--seed", type=SEED, default=42, metavar="S", help="(default: 42)")
    group.add_argument("--log-interval", type=int, default=50, metavar="N", help="updates between two log lines")
    group.add_argument("--checkpoint-hist", type=int, default=10, metavar="N", help="checkpoints kept (default: 10)")
    group.add_argument(
        "--recovery-interval",
        type=int,
        default=0,
        metavar="N",
        help="a checkpoint every N updates too, in the middle of an epoch (default: 0, at its end only)",
    )
    group.add_argument(
        "--on-nonfinite",
        default="stop",
        choices=("stop", "skip"),
        help="a loss or gradient that is not finite: save the batch and stop, or leave the update out (default: stop)",
    )
    group.add_argument(
        "--output", type=file_path, default="", metavar="DIR", help="folder of runs (default: output/train)"
    )
    group.add_argument(
        "--experiment", type=experiment_name, default="", metavar="NAME", help="sub-folder (default: date, model, size)"
    )
    group.add_argument(
        "--tta",
        default="",
        choices=("", "mirror"),
        help="mirror: the best model is evaluated with logits averaged over image and mirror image",
    )
    group.add_argument("--eval-metric", default="top1", choices=("top1", "top5", "loss"), help="picks the best epoch")
    return parser


def validate_parser() -> Parser:
    """The parser of ``timm-gcp validate``."""
    parser = Parser(prog="timm-gcp validate", description="Evaluate a model, a checkpoint or a model folder.")
    _add_data(parser)
    parser.add_argument("--split", default="validation", metavar="NAME", help="(default: validation)")
    group = parser.add_argument_group("Model")
    group.add_argument(
        "-m", "--model", type=model_name, default="", metavar="NAME", help="registered name, model folder or hf-hub:ID"
    )
    group.add_argument("--pretrained", action="store_true", help="pretrained weights (default without --checkpoint)")
    _add_weights(group)
    _add_input(group)
    group.add_argument("-b", "--batch-size", type=int, default=256, metavar="N", help="(default: 256)")
    group.add_argument("--tta", default="", choices=("", "mirror"), help="mirror: average logits with the mirror image")
    _add_device(parser)
    parser.add_argument(
        "--results-file", type=file_path, default="", metavar="FILE", help="append to a .csv, or write a .json"
    )
    return parser


def predict_parser() -> Parser:
    """The parser of ``timm-gcp predict``."""
    parser = Parser(prog="timm-gcp predict", description="Print the most probable classes of images.")
    parser.add_argument("images", type=file_path, nargs="+", metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes an image (default: 5)")
    parser.add_argument(
        "--csv",
        type=file_path,
        default="",
        metavar="FILE",
        help="write a CSV file, a line an image; '-' for standard output",
    )
    group = parser.add_argument_group("Model")
    group.add_argument(
        "-m",
        "--model",
        type=model_name,
        default="",
        metavar="NAME",
        help=f"registered name, model folder or hf-hub:ID (default: {DEMONSTRATION}, which is in the package)",
    )
    _add_weights(group)
    _add_input(group)
    group.add_argument("-b", "--batch-size", type=int, default=32, metavar="N", help="(default: 32)")
    group.add_argument("--device", help="device (default: cuda where there is one, else cpu)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def export_parser() -> Parser:
    """The parser of ``timm-gcp export``."""
    parser = Parser(
        prog="timm-gcp export", description="Write a model as an ONNX file, checked against the model on images."
    )
    parser.add_argument(
        "model", type=model_name, nargs="?", default="", metavar="MODEL", help="registered name, folder or hf-hub:ID"
    )
    parser.add_argument(
        "--out", type=file_path, required=True, metavar="FILE", help="the file to write, such as model.onnx"
    )
    group = parser.add_argument_group("Model")
    _add_weights(group)
    _add_input(group)
    group = parser.add_argument_group("File and check")
    group.add_argument("--opset", type=int, default=18, metavar="N", help="version of ONNX's operators (default: 18)")
    group.add_argument(
        "--images",
        type=file_path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="images or folders of them (default: synthetic textures)",
    )
    group.add_argument(
        "-b", "--batch", type=int, default=4, metavar="N", help="images a batch of the check (default: 4)"
    )
    group.add_argument(
        "--tolerance",
        type=POSITIVE,
        default=1e-3,
        metavar="T",
        help="largest difference of a logit, as a share of the largest logit (default: 1e-3)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def convert_parser() -> Parser:
    """The parser of ``timm-gcp convert``."""
    parser = Parser(
        prog="timm-gcp convert",
        description="Write a checkpoint as a timm model folder: of a training run (ours, timm's train.py, also by "
        "timm-gcp wrap, or another program's), or of fast-MPN-COV or DifferentiableSVD. What a published file does "
        "not tell, the stride of a ResNet's last stage and the order of the triangle, is given, or found by "
        "--images.",
    )
    parser.add_argument(
        "file", type=file_path, metavar="FILE", help="a file or a run folder; a published one also by URL or drive:ID"
    )
    parser.add_argument("--model", type=model_name, default="", metavar="NAME", help="such as resnet50_svdpade")
    parser.add_argument("--out", type=file_path, required=True, metavar="DIR", help="the model folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a model folder that is there")
    parser.add_argument("--sha256", default="", metavar="HEX", help="hash of the file, or its first digits")
    parser.add_argument(
        "--class-names",
        type=file_path,
        metavar="FILE",
        help="text file with a class per line, in the order of the logits, or the folder of training images by class",
    )
    group = parser.add_argument_group("What the file may not tell")
    group.add_argument(
        "--last-stride",
        type=int,
        choices=(1, 2),
        help="2 for upstream's resnet, 1 for mpncovresnet (default: found)",
    )
    group.add_argument(
        "--triu-order",
        choices=TRIU_ORDERS,
        help="order of the covariance's triangle; column: weights of fast-MPN-COV before 2018-12-26 (default: row, "
        "column for the two files that are known to have it)",
    )
    group.add_argument(
        "--images",
        type=file_path,
        metavar="DIR",
        help="a handful of images in folders by class: take the variant that recognises most",
    )
    group = parser.add_argument_group("Preprocessing")
    group.add_argument("--img-size", type=int, metavar="N", help="image size (default: the checkpoint's, or 224)")
    group.add_argument(
        "--crop-pct",
        type=CROP,
        metavar="P",
        help="share kept of the resized image (default: the checkpoint's, or 0.875)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


_COMMAND_LINE_ONLY = ("help", "config", "recipe", "show_recipe")


def _read_config(path: str, parser: Parser) -> dict[str, Any]:
    """Arguments from a YAML file, checked against the parser as the command line would be."""
    config = read_mapping(path, f"--config {path}")
    actions = {action.dest: action for action in parser._actions if action.dest not in _COMMAND_LINE_ONLY}
    checked = {}
    for key, value in config.items():
        name = str(key).replace("-", "_")
        if name not in actions:
            raise GCPError(f"--config {path} has an unknown argument '{key}'{nearest(name, actions)}")
        checked[name] = _checked(actions[name], value, f"'{key}' in --config {path}")
    return checked


def _checked(action: argparse.Action, value: Any, where: str) -> Any:
    """A value from YAML, converted by the rules of the command line."""
    if value is None and action.default is not None:
        raise GCPError(f"{where} needs a value; leave the line out for the default, {action.default!r}.")
    if value is None or isinstance(action, ParseKwargs):
        if value is not None and not isinstance(value, dict):
            raise GCPError(f"{where} takes 'name: value' lines, not {value!r}.")
        return value
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise GCPError(f"{where} takes true or false, not {value!r}.")
        return value
    several = action.nargs == "+" or isinstance(action.nargs, int)
    items = value if several and isinstance(value, list) else [value]
    if any(isinstance(item, (list, dict, bool)) for item in items):
        raise GCPError(f"{where} cannot be {value!r}.")
    kind: Any = action.type or str
    try:
        items = [kind(str(item)) for item in items]
    except argparse.ArgumentTypeError as error:
        raise GCPError(f"{where}: {error}.") from error
    except ValueError as error:
        raise GCPError(f"{where} cannot be {value!r}: it takes {kind.__name__} values.") from error
    if action.choices is not None and (bad := [item for item in items if item not in action.choices]):
        raise GCPError(f"{where} cannot be {bad[0]!r}; it is one of {', '.join(map(repr, action.choices))}.")
    return items if several else items[0]


def add_hybrid_arguments(group: Any) -> None:
    """Adds the options of the hybrid protocol to a parser, ours or that of a script of timm's.

    Args:
        group: an argument group.
    """
    group.add_argument(
        "--hybrid",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="train with --warm-method while the learning rate is large, then with the model's own method "
        "(default: on wherever the two differ)",
    )
    group.add_argument("--warm-method", default="isqrt", metavar="NAME", help="(default: isqrt)")
    group.add_argument(
        "--switch-lr-fraction",
        type=float,
        metavar="F",
        help="switch once the learning rate is at most this fraction of its peak (default: 0.1)",
    )
    group.add_argument(
        "--switch-epoch", type=int, metavar="N", help="switch at epoch N; with another rule, at epoch N at the latest"
    )


def parse_train_args(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, str]:
    """Parses and checks the arguments of ``timm-gcp train``.

    The command line wins over ``--config``, which wins over ``--recipe``, which wins over the defaults.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        The arguments and, for the run folder, their YAML text, which ``--config`` reads again.

    Raises:
        GCPError: an unknown argument, a value out of range, an unknown recipe, method, optimiser or scheduler.
        SystemExit: after ``--show-recipe``, as after ``--help``.
    """
    parser = train_parser()
    first = Parser(prog=parser.prog, add_help=False, allow_abbrev=False)
    first.add_argument("-c", "--config", type=file_path, default="")
    first.add_argument("--recipe", default="")
    first.add_argument("--show-recipe", action="store_true")
    first.add_argument("--dataset")
    given = first.parse_known_args(argv)[0]
    config = _read_config(given.config, parser) if given.config else {}
    if given.recipe:
        dataset = config.get("dataset", "") if given.dataset is None else given.dataset
        recipe = find_recipe(given.recipe, dataset)
        if given.show_recipe:
            print(recipe.read_text(encoding="utf-8"), end="")
            parser.exit()
        parser.set_defaults(**_read_config(str(recipe), parser))
    parser.set_defaults(**config)
    args = parser.parse_args(argv)
    for name in ("config", "recipe", "show_recipe"):
        # argparse takes an option cut short, which the first look does not see.
        if getattr(args, name) != getattr(given, name):
            raise GCPError(f"Write --{name.replace('_', '-')} out in full.")
    if args.show_recipe:
        raise GCPError(f"--show-recipe needs --recipe NAME: {', '.join(recipe_names())}.")
    args.data_dir = args.data_dir or args.data
    del args.data, args.config, args.recipe, args.show_recipe
    text = yaml.safe_dump({k: v for k, v in vars(args).items() if k != "resume"}, sort_keys=True)

    _check_common(args)
    get_method(args.warm_method)
    for name in ("recount", "epochs", "grad_accum_steps", "log_interval", "checkpoint_hist", "lr_base_size"):
        _at_least(args, name, 1)
    for name in ("warmup_epochs", "cooldown_epochs", "monitor_every", "patience_epochs", "mixup_off_epoch"):
        _at_least(args, name, 0)
    _at_least(args, "recovery_interval", 0)
    if args.validation_batch_size is not None:
        _at_least(args, "validation_batch_size", 1)
    check_ranges(args)
    check_compiler(args.torchcompile)
    if args.sched not in SCHEDULERS:
        raise GCPError(f"Unknown scheduler '{args.sched}'; there are {', '.join(SCHEDULERS)}{_near(args.sched)}")
    optimizers = timm.optim.list_optimizers()
    if args.opt.lower().removeprefix("lookahead_") not in optimizers:
        raise GCPError(f"Unknown optimizer '{args.opt}'{nearest(args.opt, optimizers)}")
    check_optimizer(args.opt)
    if args.resume == "auto" and not args.experiment:
        raise GCPError("--resume auto looks into the run folder, so it has to have a name; add --experiment NAME.")
    if args.resume and args.initial_checkpoint:
        raise GCPError("--resume and --initial-checkpoint exclude each other: a resumed run brings its own weights.")
    check_switch(args)
    if args.output:
        check_output_folder(args.output, "--output")
    return args, text


def _near(name: str) -> str:
    return nearest(name, SCHEDULERS)


def check_switch(args: argparse.Namespace) -> None:
    """Refuses options of the switch that contradict each other.

    Raises:
        GCPError: the contradiction, and the way out of it.
    """
    given = [
        name
        for name in ("switch_lr_fraction", "switch_epoch", "switch_conditioning")
        if getattr(args, name) not in (None, False)
    ]
    if given and args.hybrid is False:
        raise GCPError(f"--{given[0].replace('_', '-')} has no effect with --no-hybrid; leave one of them out.")
    if args.switch_conditioning and args.switch_lr_fraction is not None:
        raise GCPError("--switch-conditioning and --switch-lr-fraction are two rules for one switch; choose one.")
    if args.switch_conditioning and args.monitor_every < 1:
        raise GCPError("--switch-conditioning needs the conditioning: give --monitor-every 1 or more.")
    if args.switch_lr_fraction is not None and not 0 < args.switch_lr_fraction < 1:
        raise GCPError(f"--switch-lr-fraction must lie between 0 and 1, not {args.switch_lr_fraction:g}.")
    if args.switch_epoch is not None and args.switch_epoch < 1:
        raise GCPError(
            f"--switch-epoch {args.switch_epoch} leaves no epoch for the warm method; use 1 or more, or --no-hybrid."
        )


def parse_validate_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp validate``.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    args = validate_parser().parse_args(argv)
    args.data_dir = args.data_dir or args.data
    _check_common(args)
    if args.method:
        get_method(args.method)
    if not args.model and not args.checkpoint:
        raise GCPError("Nothing to evaluate: give --model NAME, a model folder, or --checkpoint FILE.")
    if args.results_file and not args.results_file.endswith((".csv", ".json")) and not is_stream(args.results_file):
        raise GCPError(f"--results-file {args.results_file} must end in .csv or .json.")
    return args


def parse_predict_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp predict``.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    args = predict_parser().parse_args(argv)
    _at_least(args, "batch_size", 1)
    _at_least(args, "top", 1)
    _check_input(args)
    _check_device(args)
    if args.method:
        get_method(args.method)
    if not args.model and not args.checkpoint:
        args.model = DEMONSTRATION
    return args


def parse_export_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp export``.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    args = export_parser().parse_args(argv)
    _check_input(args)
    _at_least(args, "batch", 1)
    if args.method:
        get_method(args.method)
    if not args.model and not args.checkpoint:
        raise GCPError("Nothing to export: give a registered name, a model folder, or --checkpoint FILE.")
    return args


def parse_convert_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp convert``.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    args = convert_parser().parse_args(argv)
    if args.img_size is not None:
        _at_least(args, "img_size", 1)
    if not re.fullmatch("[0-9a-fA-F]{0,64}", args.sha256):
        raise GCPError(f"--sha256 takes at most 64 hexadecimal digits, not '{args.sha256}'.")
    return args


def _at_least(args: argparse.Namespace, name: str, least: int) -> None:
    if getattr(args, name) is not None and getattr(args, name) < least:
        raise GCPError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(args, name)}.")


def _check_common(args: argparse.Namespace) -> None:
    _at_least(args, "batch_size", 1)
    _at_least(args, "workers", 0)
    _check_input(args)
    _check_device(args)


def _check_device(args: argparse.Namespace) -> None:
    if args.device is None:
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(args.device)


def _check_input(args: argparse.Namespace) -> None:
    for name in ("num_classes", "img_size", "in_chans"):
        if getattr(args, name) is not None:
            _at_least(args, name, 1)
    if args.input_size is not None and min(args.input_size) < 1:
        raise GCPError(f"--input-size takes numbers of 1 or more, not {min(args.input_size)}.")
    channels = args.in_chans or (args.input_size or [3])[0]
    image_mode(channels)
    check_model_kwargs(args.model_kwargs or {})
    for name in ("mean", "std"):
        values = getattr(args, name)
        if values is not None and len(values) not in (1, channels):
            raise GCPError(f"--{name} takes 1 or {channels} values, not {len(values)}.")
    if args.input_size is not None and args.in_chans is not None and args.input_size[0] != args.in_chans:
        raise GCPError(f"--input-size says {args.input_size[0]} channels and --in-chans {args.in_chans}; choose one.")
