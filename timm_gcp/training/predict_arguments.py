"""The arguments of ``timm-gcp predict``, parsed and checked."""

import argparse
from collections.abc import Sequence

from ..methods import get_method
from .option_types import file_path, model_name
from .options import (
    Parser,
    add_debug,
    add_device,
    add_image_size,
    add_input,
    add_weights,
    at_least,
    check_input,
    choose_device,
)

__all__ = ["DEMONSTRATION", "parse_predict_args", "predict_parser"]

DEMONSTRATION = "test_resnet_svdpade.grocery"
"""The model whose weights are in the package, so that ``predict`` works without a network."""


def predict_parser() -> Parser:
    """The parser of ``timm-gcp predict``."""
    parser = Parser(prog="timm-gcp predict", description="Print the most probable classes of images.")
    parser.add_argument("images", type=file_path, nargs="+", metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="number of classes per image")
    parser.add_argument(
        "--csv",
        type=file_path,
        default="",
        metavar="FILE",
        help="write a CSV file, one line per image; '-' for standard output",
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
    group.add_argument("-b", "--batch-size", type=int, default=32, metavar="N", help="images per batch")
    add_device(group)
    add_debug(parser)
    return parser


def parse_predict_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp predict``.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    args = predict_parser().parse_args(argv)
    at_least(args, "batch_size", 1)
    at_least(args, "top", 1)
    check_input(args)
    choose_device(args)
    if args.method:
        get_method(args.method)
    if not args.model and not args.checkpoint:
        args.model = DEMONSTRATION
    return args
