"""The arguments of ``timm-gcp export``, parsed and checked."""

import argparse
from collections.abc import Sequence

from ..errors import GCPError
from ..methods import get_method
from .option_types import POSITIVE, file_path, model_name
from .options import Parser, add_debug, add_image_size, add_input, add_weights, at_least, check_input

__all__ = ["export_parser", "parse_export_args"]


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
    add_weights(group)
    add_image_size(group)
    add_input(group)
    group = parser.add_argument_group("File and check")
    group.add_argument("--opset", type=int, default=18, metavar="N", help="version of ONNX's operators")
    group.add_argument(
        "--images",
        type=file_path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="images or folders of them (default: synthetic textures)",
    )
    group.add_argument("-b", "--batch", type=int, default=4, metavar="N", help="images per batch of the check")
    group.add_argument(
        "--tolerance",
        type=POSITIVE,
        default=1e-3,
        metavar="T",
        help="largest difference of a logit, as a share of the largest logit",
    )
    add_debug(parser)
    return parser


def parse_export_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp export``.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    args = export_parser().parse_args(argv)
    check_input(args)
    at_least(args, "batch", 1)
    if args.method:
        get_method(args.method)
    if not args.model and not args.checkpoint:
        raise GCPError("Nothing to export: give a registered name, a model folder, or --checkpoint FILE.")
    return args
