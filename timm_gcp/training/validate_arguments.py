"""The arguments of ``timm-gcp validate``, parsed and checked."""

import argparse
from collections.abc import Sequence

from ..errors import GCPError
from ..files import is_stream
from ..methods import get_method
from .option_types import file_path, model_name
from .options import (
    Parser,
    add_data_folder,
    add_data_set,
    add_debug,
    add_device,
    add_holdout,
    add_image_size,
    add_input,
    add_loading,
    add_weights,
    check_common,
)

__all__ = ["parse_validate_args", "validate_parser"]


def validate_parser() -> Parser:
    """The parser of ``timm-gcp validate``."""
    parser = Parser(prog="timm-gcp validate", description="Evaluate a model, a checkpoint or a model folder.")
    group = parser.add_argument_group("Data")
    add_data_folder(group)
    add_data_set(group)
    group.add_argument("--split", default="validation", metavar="NAME", help="split that is evaluated")
    add_holdout(group, "evaluate on the part of the training images that train --val-fraction F held out")
    group = parser.add_argument_group("Model")
    group.add_argument(
        "-m", "--model", type=model_name, default="", metavar="NAME", help="registered name, model folder or hf-hub:ID"
    )
    group.add_argument(
        "--pretrained", action="store_true", help="load pretrained weights; without --checkpoint they are loaded anyway"
    )
    add_weights(group)
    add_image_size(group)
    add_input(group)
    group.add_argument("-b", "--batch-size", type=int, default=256, metavar="N", help="images per batch")
    group.add_argument("--tta", default="", choices=("", "mirror"), help="mirror: average logits with the mirror image")
    group = parser.add_argument_group("Device and loading")
    add_device(group)
    add_loading(group)
    add_debug(group)
    parser.add_argument(
        "--results-file", type=file_path, default="", metavar="FILE", help="append to a .csv, or write a .json"
    )
    return parser


def parse_validate_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp validate``.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    args = validate_parser().parse_args(argv)
    args.data_dir = args.data_dir or args.data
    check_common(args)
    if args.method:
        get_method(args.method)
    if not args.model and not args.checkpoint:
        raise GCPError("Nothing to evaluate: give --model NAME, a model folder, or --checkpoint FILE.")
    if args.results_file and not args.results_file.endswith((".csv", ".json")) and not is_stream(args.results_file):
        raise GCPError(f"--results-file {args.results_file} must end in .csv or .json.")
    return args
