"""The arguments of ``timm-gcp convert``, parsed and checked."""

import argparse
import re
from collections.abc import Sequence

from ..errors import GCPError
from ..weights.upstream import TRIU_ORDERS
from .option_types import CROP, file_path, model_name
from .options import Parser, add_debug, at_least

__all__ = ["convert_parser", "parse_convert_args"]


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
    parser.add_argument(
        "--model",
        type=model_name,
        default="",
        metavar="NAME",
        help="architecture, such as resnet50_svdpade (default: as the file says)",
    )
    parser.add_argument("--out", type=file_path, required=True, metavar="DIR", help="the model folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a model folder that is there")
    parser.add_argument("--sha256", default="", metavar="HEX", help="hash of the file, or its first digits")
    parser.add_argument(
        "--class-names",
        type=file_path,
        metavar="FILE",
        help="text file with one class per line, in the order of the logits, or the folder of training images by class",
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
        help="some images in folders by class: choose the variant that recognises most of them",
    )
    group = parser.add_argument_group("Preprocessing")
    group.add_argument("--img-size", type=int, metavar="N", help="image size (default: the checkpoint's, or 224)")
    group.add_argument(
        "--crop-pct",
        type=CROP,
        metavar="P",
        help="share kept of the resized image (default: the checkpoint's, or 0.875)",
    )
    add_debug(parser)
    return parser


def parse_convert_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp convert``.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    args = convert_parser().parse_args(argv)
    if args.img_size is not None:
        at_least(args, "img_size", 1)
    if not re.fullmatch("[0-9a-fA-F]{0,64}", args.sha256):
        raise GCPError(f"--sha256 takes at most 64 hexadecimal digits, not '{args.sha256}'.")
    return args
