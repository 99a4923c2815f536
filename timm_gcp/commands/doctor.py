"""``timm-gcp doctor``: looks at a data set before training."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..diagnosis.diagnose import Diagnosis, diagnose
from ..diagnosis.findings import ERROR, WARNING
from ..diagnosis.options import DiagnosisOptions
from ..diagnosis.page import save_report
from ..errors import GCPError
from ..files import check_output, json_text, make_parents, save_text
from ..models.named import register_named, source_of
from ..training.progress import clock
from .config import read_mapping
from .option_types import POSITIVE, Number, file_path, model_name
from .options import add_data_folder, add_data_set, add_debug, add_device, add_image_size, add_loading, options_of
from .parser import Parser
from .recipes import find_recipe
from .results_folder import check_results_folder
from .value_checks import choose_device

__all__ = ["main"]

RECIPE = "finetune"
"""The recipe that is suggested, whose augmentation the timing has."""

_COLOURS = {ERROR: "bold red", WARNING: "yellow"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp doctor``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status: 1 where a finding would break a training, else 0.

    Raises:
        GCPError: bad input, before any image is opened.
    """
    args = parse_doctor_args(argv)
    recipe = read_mapping(str(find_recipe(RECIPE)), f"--recipe {RECIPE}")
    augmentation = {"scale": tuple(recipe["scale"]), "color_jitter": recipe["color_jitter"]}
    found = diagnose(options_of(DiagnosisOptions, args, **augmentation))
    _show(found)
    if args.json:
        make_parents(args.json)
        save_text(args.json, json_text(found.as_dict()))
        print(f"JSON: {args.json}")
    if args.report:
        print(f"Report: {save_report(Path(args.report), found)}")
    return 1 if found.breaks else 0


def _show(found: Diagnosis) -> None:
    console = Console()
    console.print(_splits(found))
    if found.findings:
        console.print("\n[bold]Findings[/bold]")
    for finding in found.findings:
        colour = _COLOURS.get(finding.severity, "dim")
        console.print(f"[{colour}]{finding.severity:<7}[/{colour}] {escape(finding.text)}", highlight=False)
    if not found.findings:
        console.print("Nothing was found.")
    if found.suggestions:
        console.print("\n[bold]Suggestions[/bold]")
    for each in found.suggestions:
        console.print(f"[bold]{escape(each.option)}[/bold]  {escape(each.rule)}", highlight=False)
        console.print(f"    [dim]from: {escape(each.basis)}[/dim]", highlight=False)
    for line in _speed(found):
        console.print(escape(line), highlight=False)
    if found.breaks:
        console.print("\n[bold red]An error above would break a training.[/bold red]")


def _splits(found: Diagnosis) -> Table:
    table = Table(title=escape(found.data))
    table.add_column("split")
    for name in ("images", "classes", "per class", "ratio", "shorter side", "width / height"):
        table.add_column(name, justify="right")
    for split in found.splits:
        balance, sizes = found.balances.get(split.name), found.sizes.get(split.name)
        counted = ["–"] * 4
        if balance:
            per_class = _range([balance.smallest, balance.median, balance.largest], "g")
            counted = [str(balance.images), str(balance.classes), per_class, f"{balance.ratio:.1f}"]
        measured = ["–"] * 2
        if sizes:
            measured = [_range(sizes.shorter[::2], "d"), _range(sizes.aspect[::2], ".2f")]
        table.add_row(escape(split.name), *counted, *measured)
    table.caption = "least, median and largest; ratio: largest over smallest class; sides in pixels"
    return table


def _range(values: Sequence[float], form: str) -> str:
    """The least, the median and the largest of some numbers, as a text; one of them where all are equal."""
    return " · ".join(dict.fromkeys(format(value, form) for value in values))


def _speed(found: Diagnosis) -> list[str]:
    speed = found.speed
    if speed is None:
        return []
    processes = f"{speed.workers} loader processes" if speed.workers else "loading in the main process"
    of = f"{speed.model}, {speed.img_size} px, batches of {speed.batch_size}, {speed.device}, {processes}"
    lines = [
        f"\nTime of an epoch: {of}",
        f"  loader alone {speed.loader:.1f} images/s, training step alone {speed.step:.1f} images/s: "
        f"the {speed.bottleneck} is the bottleneck",
        f"  about {clock(speed.epoch_seconds)} for the {speed.images} images of an epoch, evaluation not counted",
    ]
    return lines + ([f"  memory: {speed.memory}"] if speed.memory else [])


def doctor_parser() -> Parser:
    """The parser of ``timm-gcp doctor``."""
    defaults = DiagnosisOptions()
    parser = Parser(
        prog="timm-gcp doctor",
        usage="%(prog)s DIR [options]",
        description="Look at a data set before training: counts, image sizes, unreadable and suspicious files, "
        "duplicates; suggest options of the training; time an epoch. Exit status 1 where a finding would break a "
        "training.",
    )
    group = parser.add_argument_group("Data")
    add_data_folder(group)
    add_data_set(group)
    group.add_argument(
        "--ignore-exif-orientation", action="store_true", help="read photographs as the sensor stored them"
    )
    group.add_argument(
        "--splits",
        nargs="+",
        default=[],
        metavar="NAME",
        help="splits, the one to train on first (default: those of train, validation and test that there are)",
    )
    group = parser.add_argument_group("Time of an epoch")
    group.add_argument(
        "-m",
        "--model",
        type=model_name,
        default=defaults.model,
        metavar="NAME",
        help="model whose training is timed; its weights are random and nothing is downloaded; '' times none",
    )
    add_image_size(group)
    group.add_argument(
        "-b",
        "--batch-size",
        type=Number(2, whole=True),
        metavar="N",
        help="images per batch (default: the suggested one)",
    )
    group.add_argument(
        "--seconds", type=POSITIVE, default=defaults.seconds, metavar="S", help="about how long the timing takes"
    )
    add_device(group)
    add_loading(group)
    group = parser.add_argument_group("Output")
    group.add_argument("--json", type=file_path, default="", metavar="FILE", help="write all that was found")
    group.add_argument(
        "--report", type=file_path, default="", metavar="DIR", help="write a page with pictures into this folder"
    )
    add_debug(parser)
    return parser


def parse_doctor_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp doctor``.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    args: argparse.Namespace = doctor_parser().parse_args(argv)
    args.data_dir = args.data_dir or args.data
    choose_device(args)
    if args.model:
        register_named(source_of(args.model))
    if not args.data_dir and not args.dataset:
        raise GCPError("Give the folder of the data set: timm-gcp doctor DIR.")
    if args.json:
        check_output(args.json, "--json")
    if args.report:
        check_results_folder(args.report, "--report", "doctor")
    return args
