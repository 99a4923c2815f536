"""``timm-gcp predict``: the most probable classes of image files."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..files import check_ending, check_output, is_stream, make_parents, save_text
from ..methods import get_method
from ..models.named import load_model
from ..prediction.classify import PredictionOptions, predict_images
from ..prediction.result import PredictionList
from ..prediction.sources import Images
from .keywords import namespace_of, read_keywords
from .option_types import COUNT, Number, file_path, model_name
from .options import add_debug, add_device, add_image_size, add_input, add_weights, model_choice, options_of
from .parser import Parser
from .results_folder import check_results_folder
from .value_checks import check_input, choose_device

__all__ = ["main", "parse_predict_args", "predict", "read_predict_keywords"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp predict``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status 0, also when some of the images could not be read; those are named on stderr.

    Raises:
        GCPError: bad input, or not a single image that can be read.
    """
    args = parse_predict_args(argv)
    found = predict(args, args.images)
    if not args.csv:
        Console().print(found)
    if args.explain:
        print(f"timm-gcp: explanation in {Path(args.explain) / 'index.html'}", file=sys.stderr)
    for failure in found.unreadable:
        print(f"timm-gcp: {failure}", file=sys.stderr)
    if found.unreadable:
        number = len(found) + len(found.unreadable)
        print(f"timm-gcp: {len(found.unreadable)} of {number} images could not be read.", file=sys.stderr)
    return 0


def predict(args: argparse.Namespace, images: Images, model: Any = None) -> PredictionList:
    """Predicts the classes of images, and writes the files that the arguments ask for.

    Args:
        args: arguments of the command (`parse_predict_args`).
        images: files, folders and PIL images.
        model: None loads the one that the arguments name.

    Raises:
        GCPError: the model cannot be loaded, a file cannot be written, or as `predict_images`.
    """
    if args.csv not in ("", "-"):
        check_output(args.csv, "--csv")
        if not is_stream(args.csv):
            check_ending(args.csv, (".csv",), "predictions", "--csv")
    if args.explain:
        check_results_folder(args.explain, "--explain", "explanations")
    model = load_model(model_choice(args)) if model is None else model
    found = predict_images(model, images, options_of(PredictionOptions, args))
    if args.csv == "-":
        sys.stdout.write(found.csv_text())
    elif args.csv:
        make_parents(args.csv)
        save_text(args.csv, found.csv_text())
    return found


DEMONSTRATION = "tf_efficientnet_lite0_isqrt.grocery"
"""The model whose weights are in the package, so that ``predict`` works without a network."""


def predict_parser() -> Parser:
    """The parser of ``timm-gcp predict``."""
    parser = Parser(prog="timm-gcp predict", description="Print the most probable classes of images.")
    parser.add_argument("images", type=file_path, nargs="+", metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument("--top", type=COUNT, default=5, metavar="N", help="number of classes per image")
    parser.add_argument(
        "--threshold",
        type=Number(least=0, most=1),
        metavar="P",
        help="of a multi-label model: a class with a probability above it is a label (default: 0.5)",
    )
    parser.add_argument(
        "--csv",
        type=file_path,
        default="",
        metavar="FILE",
        help="write a CSV file, one line per image; '-' for standard output",
    )
    parser.add_argument(
        "--explain",
        type=file_path,
        default="",
        metavar="DIR",
        help="show where in each image the evidence for each of these classes is: pictures, a page and the numbers in "
        "this folder",
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
    add_weights(group)
    add_image_size(group)
    add_input(group)
    group.add_argument("-b", "--batch-size", type=COUNT, default=32, metavar="N", help="images per batch")
    add_device(group)
    add_debug(parser)
    return parser


def parse_predict_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp predict``.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    return _checked(predict_parser().parse_args(argv))


def read_predict_keywords(keywords: Mapping[str, Any], function: str) -> argparse.Namespace:
    """As `parse_predict_args`, of keywords (`timm_gcp.commands.keywords`).

    Args:
        keywords: options by keyword; the images are none.
        function: its name in a message.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    parser = predict_parser()
    return _checked(namespace_of(parser, read_keywords(keywords, parser, function)))


def _checked(args: argparse.Namespace) -> argparse.Namespace:
    check_input(args)
    choose_device(args)
    if args.method:
        get_method(args.method)
    if not args.model and not args.checkpoint:
        args.model = DEMONSTRATION
    return args
