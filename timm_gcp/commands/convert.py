"""``timm-gcp convert``: writes a checkpoint, published or of a training run, as a timm model folder."""

import argparse
import hashlib
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..data import create_dataset
from ..errors import GCPError
from ..methods import get_method
from ..models.folder import check_model_folder, save_folder
from ..models.named import checkpoint_in, source_of
from ..models.names import split_name
from ..text_files import read_text
from ..weights.download import download
from ..weights.file import read_weights
from ..weights.google_drive import page_address
from ..weights.upstream import PREPROCESSING, TRIU_ORDERS, Published, read_published
from ..weights.upstream_layouts import is_published
from .convert_trained import convert_trained
from .convert_variants import Variant, choose_by_images
from .option_types import COUNT, CROP, file_path, model_name
from .options import add_debug
from .parser import Parser

__all__ = ["main"]

_IMAGES = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp convert``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status 0.

    Raises:
        GCPError: bad input, a file that cannot be had or does not fit; there is no folder then.
    """
    args = parse_convert_args(argv)
    if args.model:
        source_of(args.model)
    check_model_folder(args.out, "--out", replace=args.overwrite)
    names = _class_names(args.class_names) if args.class_names else None
    trained = _trained(args.file)
    if trained is not None:
        convert_trained(args, trained, names)
        return 0
    published = _read(args)
    method = _method(args.model, published)
    if names is not None and len(names) != published.num_classes:
        raise GCPError(f"{args.class_names} has {len(names)} classes, and {args.file} {published.num_classes}.")
    size, crop_pct = args.img_size or 224, args.crop_pct or 0.875  # as published
    data_config = {**PREPROCESSING, "input_size": (3, size, size), "crop_pct": crop_pct}
    last_stride, triu_order, choice = args.last_stride, args.triu_order or published.triu_order, None
    if args.images:
        images = _images(args.images, names, published)
        choice = choose_by_images(
            published,
            method,
            images,
            last_stride=args.last_stride,
            triu_order=args.triu_order,
            data_config=data_config,
        )
        last_stride, triu_order = choice.last_stride, choice.triu_order
    model: Any = published.build(method, last_stride, triu_order)
    found = f"{published.backbone}, {published.num_classes} classes, {_variant(published, model, triu_order)}"
    print(f"{args.file}: {found}.")
    try:
        save_folder(
            model,
            args.out,
            class_names=names,
            data_config=data_config,
            model_args={key: value for key, value in published.model_args.items() if key not in model.gcp_args},
            origin=_origin(args.file, published.sha256, found, choice),
        )
    except OSError as error:
        raise GCPError(f"--out {args.out} cannot be written ({error.strerror or error}); choose another.") from error
    print(f"{args.out}: {published.backbone}_{method}. Unverified; timm-gcp validate --model {args.out} evaluates it.")
    return 0


def _trained(path: str) -> Path | None:
    """The file, or the best checkpoint of a run folder, if its weights are in timm's own layout."""
    file = checkpoint_in(path) or Path(path)
    try:
        return None if is_published(read_weights(file)) else file
    except GCPError:  # an address, or a file whose fault ``read_published`` names
        return None


def _read(args: argparse.Namespace) -> Published:
    if not args.file.startswith(("drive:", "http://", "https://")):
        published = read_published(args.file)
        if not published.sha256.startswith(args.sha256.lower()):
            raise GCPError(f"{args.file} has the SHA-256 {published.sha256}, not {args.sha256}; download it again.")
        return published
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(args.file).path)).name or "checkpoint"
    by_hand = f" from {page_address(name)}" if args.file.startswith("drive:") else ""
    place = Path(torch.hub.get_dir()) / "checkpoints"
    file = download(
        args.file,
        place / f"{hashlib.sha256(args.file.encode()).hexdigest()[:12]}-{name}",
        sha256=args.sha256 or None,
        what=f"The checkpoint {args.file}",
        remedy=f"download it by hand{by_hand} and convert it with timm-gcp convert FILE --model NAME --out DIR",
    )
    try:
        return read_published(file)
    except GCPError:
        file.unlink()  # it would stand in the way of a better one
        raise


def _method(name: str, published: Published) -> str:
    backbone, method, _ = split_name(name)
    if not name:
        raise GCPError(
            f"{published.source} holds a {published.backbone}; name its root by --model {published.backbone}_isqrt "
            f"(fast-MPN-COV, GCP_Optimization) or --model {published.backbone}_svdpade (DifferentiableSVD)."
        )
    if backbone != published.backbone:
        raise GCPError(
            f"{published.source} holds a {published.backbone}, not a {backbone}; give --model "
            f"{published.backbone}_{method or 'svdpade'}, or leave --model out to see the choices."
        )
    return get_method(method).name


def _class_names(path: str) -> list[str]:
    if Path(path).is_dir():
        return list(create_dataset("", path, "").class_names)
    lines = read_text(path, f"--class-names {path}").split("\n")
    return [line.strip() for line in lines if line.strip()]


def _images(folder: str, names: Sequence[str] | None, published: Published) -> list[tuple[str, int]]:
    """At most ``_IMAGES`` files of a folder of classes, evenly from all of it, with their labels."""
    class_map = {name: label for label, name in enumerate(names)} if names else ""
    dataset = create_dataset("", folder, "", class_map=class_map)
    if names is None and dataset.num_classes != published.num_classes:
        raise GCPError(
            f"--images {folder} has {dataset.num_classes} classes, and {published.source} {published.num_classes}: "
            f"give --class-names FILE, which tells their labels."
        )
    files = [(str(file), int(label)) for file, label in dataset.reader.samples]
    count = min(_IMAGES, len(files))
    return [files[i * len(files) // count] for i in range(count)]


def _variant(published: Published, model: Any, triu_order: str) -> str:
    stride, batch_norm = model.gcp_args["last_stride"], published.model_args.get("batch_norm")
    parts = [f"last stride {stride}"] if stride else []
    parts += [] if batch_norm is None else ["with batch norm" if batch_norm else "without batch norm"]
    return ", ".join([*parts, f"triangle by {triu_order}"])


def _origin(file: str, sha256: str, found: str, choice: Variant | None) -> str:
    name = file if "://" in file or file.startswith("drive:") else Path(file).name
    text = f"Converted by timm-gcp from `{name}`, SHA-256 `{sha256}`: {found}. "
    if choice is not None:
        return text + f"Stride and order were chosen by images (top-1 {choice.top1:.1f} %); otherwise unverified."
    return text + "Unverified: nothing has been evaluated."


def convert_parser() -> Parser:
    """The parser of ``timm-gcp convert``."""
    parser = Parser(
        prog="timm-gcp convert",
        description="Write a checkpoint as a timm model folder: of a training run (ours, timm's train.py, also by "
        "timm-gcp wrap, or another program's), or of fast-MPN-COV, DifferentiableSVD or GCP_Optimization. What a "
        "published file does not tell, the stride of a ResNet's last stage and the order of the triangle, is given, or "
        "found by --images.",
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
    group.add_argument("--img-size", type=COUNT, metavar="N", help="image size (default: the checkpoint's, or 224)")
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
    if not re.fullmatch("[0-9a-fA-F]{0,64}", args.sha256):
        raise GCPError(f"--sha256 takes at most 64 hexadecimal digits, not '{args.sha256}'.")
    return args
