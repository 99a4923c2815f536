"""``timm-gcp export``: writes a model as an ONNX file, checked against the model on images."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform

from ..data import TextureDataset, find_images, open_image
from ..data.options import InputOptions
from ..data.preprocessing import image_mode, preprocessing
from ..errors import GCPError
from ..files import check_ending
from ..methods import get_method
from ..models.named import load_model
from ..onnx.export import check_ready, export_onnx
from ..pooling import find_pools
from ..tasks import SINGLE_LABEL, task_of_model
from .option_types import COUNT, POSITIVE, file_path, model_name
from .options import add_debug, add_image_size, add_input, add_weights, model_choice, options_of
from .parser import Parser
from .value_checks import check_input

__all__ = ["main"]

_IMAGES = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp export``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status 0.

    Raises:
        GCPError: bad input, or a file that does not give the model's logits; there is no file then.
    """
    args = parse_export_args(argv)
    check_ready(args.out)
    check_ending(args.out, (".onnx",), "models", "--out")
    model: Any = load_model(model_choice(args))
    config = preprocessing(options_of(InputOptions, args), model, use_test_size=True)
    chosen, source = _images(args.images, config["input_size"], not args.ignore_exif_orientation)
    transform: Any = create_transform(**config, is_training=False)
    images = torch.stack([transform(image) for image in chosen])

    pools = find_pools(model)
    name = (model.pretrained_cfg or {}).get("architecture") or args.model
    size = "×".join(map(str, config["input_size"]))
    print(f"Exporting {name}{f' ({pools[0].method})' if pools else ''} for images of {size}.", flush=True)
    print(f"Checking it with onnxruntime on {source}.", flush=True)
    difference = export_onnx(
        model,
        args.out,
        images,
        batch_size=args.batch,
        tolerance=args.tolerance,
        opset=args.opset,
        metadata=_metadata(name, model, config, not args.ignore_exif_orientation),
    )
    print(
        f"{args.out}: {Path(args.out).stat().st_size / 1e6:.1f} MB; largest difference {difference:.1e} of the largest "
        f"logit (tolerance {args.tolerance:.0e}), the same class for all {len(images)} images."
    )
    return 0


def _metadata(name: str, model: Any, config: Mapping[str, Any], orient: bool) -> dict[str, str]:
    """What a user of the file has to know; lists as JSON."""
    pools = find_pools(model)
    entries: dict[str, Any] = {"model": name, "method": pools[0].method if pools else ""}
    entries.update({key: config[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")})
    entries["exif_orientation"] = "applied" if orient else "ignored"  # before the resize
    names = (model.pretrained_cfg or {}).get("label_names")
    if names:
        entries["class_names"] = list(names)
    if (task := task_of_model(model)) is not SINGLE_LABEL:
        entries["problem_type"] = task.problem_type
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}


def _images(paths: Sequence[str], input_size: Sequence[int], orient: bool) -> tuple[list[Image.Image], str]:
    """A few images for the check, and a description of them."""
    mode = image_mode(input_size[0])
    if not paths:
        textures = TextureDataset("validation", num_classes=_IMAGES, img_size=max(16, *input_size[1:]))
        return [textures.image(i).convert(mode) for i in range(_IMAGES)], f"{_IMAGES} synthetic textures"
    files = [file for path in paths for file in find_images(Path(path))]
    count = min(_IMAGES, len(files))
    chosen = [files[i * len(files) // count] for i in range(count)]  # evenly, so from many classes
    what = f"{count} of {len(files)} images" if count < len(files) else f"{count} images"
    return [open_image(file, mode, orient) for file in chosen], f"{what} of --images"


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
    group.add_argument("-b", "--batch", type=COUNT, default=4, metavar="N", help="images per batch of the check")
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
    if args.method:
        get_method(args.method)
    if not args.model and not args.checkpoint:
        raise GCPError("Nothing to export: give a registered name, a model folder, or --checkpoint FILE.")
    return args
