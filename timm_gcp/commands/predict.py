"""``timm-gcp predict``: the most probable classes of image files."""

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from timm.data import create_transform
from torch import Tensor
from tqdm import tqdm

from ..data import UnreadableImageError, find_images, open_image
from ..data.options import InputOptions
from ..data.preprocessing import image_mode, preprocessing
from ..errors import GCPError
from ..explanation.contributions import check_explainable, explain
from ..explanation.folder import ExplanationFolder
from ..files import check_output, check_output_folder, make_parents, save_text
from ..methods import get_method
from ..models.named import load_model
from ..output import BAR
from ..text import printable
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
    model_choice,
    options_of,
)

__all__ = ["main"]

_Prediction = tuple[Path, list[tuple[str, float]]]


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
    if args.csv not in ("", "-"):
        check_output(args.csv, "--csv")
    if args.explain:
        check_output_folder(args.explain, "--explain")
    files = list(dict.fromkeys(file for path in args.images for file in find_images(Path(path))))
    model: Any = load_model(model_choice(args)).to(args.device).eval()
    config = preprocessing(options_of(InputOptions, args), model, use_test_size=True)
    names = _class_names(model)
    explanations = None
    if args.explain:
        check_explainable(model)
        explanations = ExplanationFolder(Path(args.explain), names, config["mean"], config["std"])

    found: list[_Prediction] = []
    unreadable: list[UnreadableImageError] = []
    for read in _batches(files, args, config, unreadable):
        found.extend(_predict(model, read, names, args.top, args.device, explanations))
    if not found:
        raise GCPError(f"None of {len(files)} images can be read: {unreadable[0]}")
    if explanations is not None:
        explanations.write()
    if args.csv:
        _write(args.csv, found)
    else:
        _show(found)
    if explanations is not None:
        print(f"timm-gcp: explanation in {Path(args.explain) / 'index.html'}", file=sys.stderr)
    _say_unreadable(unreadable, len(files))
    return 0


def _say_unreadable(unreadable: Sequence[UnreadableImageError], number: int) -> None:
    for failure in unreadable:
        print(f"timm-gcp: {failure}", file=sys.stderr)
    if unreadable:
        print(f"timm-gcp: {len(unreadable)} of {number} images could not be read.", file=sys.stderr)


def _batches(
    files: Sequence[Path], args: argparse.Namespace, config: dict[str, Any], unreadable: list[UnreadableImageError]
) -> Iterator[list[tuple[Path, Tensor]]]:
    """The images that can be read, preprocessed, in batches; the others are added to ``unreadable``."""
    transform: Any = create_transform(**config, is_training=False)
    mode = image_mode(config["input_size"][0])
    bar = tqdm(total=len(files), desc="predicting", disable=not _is_long(files, args.batch_size), bar_format=BAR)
    with bar:
        for start in range(0, len(files), args.batch_size):
            chunk = files[start : start + args.batch_size]
            read: list[tuple[Path, Tensor]] = []
            for file in chunk:
                try:
                    read.append((file, transform(open_image(file, mode, not args.ignore_exif_orientation))))
                except UnreadableImageError as error:
                    unreadable.append(error)
            if read:
                yield read
            bar.update(len(chunk))


def _is_long(files: Sequence[Path], batch_size: int) -> bool:
    return len(files) > batch_size and sys.stderr.isatty()


def _class_names(model: Any) -> list[str]:
    """The model's label names, or its class numbers where it has none."""
    names = (model.pretrained_cfg or {}).get("label_names")
    if isinstance(names, (list, tuple)) and len(names) == model.num_classes:
        return list(names)
    return [str(label) for label in range(model.num_classes)]


def _predict(
    model: Any,
    read: Sequence[tuple[Path, Tensor]],
    names: Sequence[str],
    top: int,
    device: str,
    explanations: ExplanationFolder | None,
) -> Iterator[_Prediction]:
    """The most probable classes of one batch, best first; with a folder of explanations, also why."""
    files, images = [file for file, _ in read], torch.stack([image for _, image in read])
    if explanations is not None:
        explained = explain(model, images.to(device), top=top)
        explanations.add(files, images, explained)
        probabilities, labels = explained.probabilities, explained.classes
    else:
        with torch.inference_mode():
            logits = model(images.to(device))
        probabilities, labels = logits.float().softmax(-1).cpu().topk(min(top, len(names)))
    for file, shares, classes in zip(files, probabilities.tolist(), labels.tolist(), strict=True):
        yield file, [(names[label], share) for label, share in zip(classes, shares, strict=True)]


def _show(found: Sequence[_Prediction]) -> None:
    table = Table(box=box.SIMPLE)
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    for file, classes in found:
        for rank, (name, share) in enumerate(classes):
            last = rank == len(classes) - 1
            table.add_row(Text("" if rank else str(file)), Text(name), f"{share:.1%}", end_section=last)
    Console().print(table)


def _write(place: str, found: Sequence[_Prediction]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    ranks = range(1, len(found[0][1]) + 1)
    writer.writerow(["image", *(f"{column}_{rank}" for rank in ranks for column in ("class", "probability"))])
    for file, classes in found:
        writer.writerow([printable(file), *(cell for name, share in classes for cell in (name, f"{share:.6f}"))])
    if place == "-":
        sys.stdout.write(buffer.getvalue())
    else:
        make_parents(place)
        save_text(place, buffer.getvalue())


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
