"""``timm-gcp predict``: the most probable classes of image files."""

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
from tqdm import tqdm

from ..data import UnreadableImageError, find_images, open_image
from ..errors import GCPError
from ..files import check_output, make_parents, save_text
from ..output import BAR
from .inputs import preprocessing
from .loading import load_model
from .predict_arguments import parse_predict_args
from .value_checks import image_mode

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
    files = list(dict.fromkeys(file for path in args.images for file in find_images(Path(path))))
    model: Any = load_model(args).to(args.device).eval()
    config = preprocessing(args, model, use_test_size=True)
    transform: Any = create_transform(**config, is_training=False)
    mode = image_mode(config["input_size"][0])
    names = _class_names(model)

    found: list[_Prediction] = []
    unreadable: list[UnreadableImageError] = []
    bar = tqdm(total=len(files), desc="predicting", disable=not _is_long(files, args.batch_size), bar_format=BAR)
    with bar:
        for start in range(0, len(files), args.batch_size):
            chunk = files[start : start + args.batch_size]
            read: list[tuple[Path, Any]] = []
            for file in chunk:
                try:
                    read.append((file, transform(open_image(file, mode, not args.ignore_exif_orientation))))
                except UnreadableImageError as error:
                    unreadable.append(error)
            found.extend(_predict(model, read, names, args.top, args.device))
            bar.update(len(chunk))
    if not found:
        raise GCPError(f"None of {len(files)} images can be read: {unreadable[0]}")
    if args.csv:
        _write(args.csv, found)
    else:
        _show(found)
    for failure in unreadable:
        print(f"timm-gcp: {failure}", file=sys.stderr)
    if unreadable:
        print(f"timm-gcp: {len(unreadable)} of {len(files)} images could not be read.", file=sys.stderr)
    return 0


def _is_long(files: Sequence[Path], batch_size: int) -> bool:
    return len(files) > batch_size and sys.stderr.isatty()


def _class_names(model: Any) -> list[str]:
    """The model's label names, or its class numbers where it has none."""
    names = (model.pretrained_cfg or {}).get("label_names")
    if isinstance(names, (list, tuple)) and len(names) == model.num_classes:
        return list(names)
    return [str(label) for label in range(model.num_classes)]


def _predict(
    model: Any, read: Sequence[tuple[Path, Any]], names: Sequence[str], top: int, device: str
) -> Iterator[_Prediction]:
    """The most probable classes of one batch, best first."""
    if not read:
        return
    with torch.inference_mode():
        logits = model(torch.stack([image for _, image in read]).to(device))
    probabilities, labels = logits.float().softmax(-1).cpu().topk(min(top, len(names)))
    for (file, _), shares, classes in zip(read, probabilities.tolist(), labels.tolist(), strict=True):
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
        writer.writerow([file, *(cell for name, share in classes for cell in (name, f"{share:.6f}"))])
    if place == "-":
        sys.stdout.write(buffer.getvalue())
    else:
        make_parents(place)
        save_text(place, buffer.getvalue())


if __name__ == "__main__":
    from timm_gcp.cli import main as cli

    sys.exit(cli(["predict", *sys.argv[1:]]))
