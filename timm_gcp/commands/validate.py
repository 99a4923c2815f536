"""``timm-gcp validate``: evaluates a registered model, a checkpoint, a model folder or a Hub model."""

import argparse
import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from timm.utils import unwrap_model

from ..data.holdout import same_images
from ..errors import GCPError
from ..files import check_output, is_stream, json_text, make_parents, save_text
from ..methods import get_method
from ..models.named import load_model
from ..reports.compare import PAGE as COMPARISON
from ..training.evaluate import Evaluation, EvaluationOptions, evaluate_model
from ..training.provenance import is_of_data, trained_on
from .keywords import namespace_of, read_keywords
from .option_types import COUNT, file_path, model_name
from .options import (
    add_data_folder,
    add_data_set,
    add_debug,
    add_device,
    add_holdout,
    add_image_size,
    add_input,
    add_loading,
    add_weights,
    model_choice,
    options_of,
)
from .parser import Parser
from .reporting import name_of_set, report_evaluation
from .results_folder import OF_OTHERS, check_results_folder
from .value_checks import check_common

__all__ = ["Validated", "main", "parse_validate_args", "read_validate_keywords", "validate"]

_logger = logging.getLogger(__name__)

_BEFORE = ("model", "weights", "method", "dataset", "data_dir", "split")
_AFTER = ("loss", "count", "images_per_second", "parameters", "img_size", "crop_pct", "interpolation", "tta")
_DIGITS = {"loss": 6, "images_per_second": 1, "crop_pct": 4}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp validate``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status 0.

    Raises:
        GCPError: bad input, before anything is evaluated.
    """
    done = validate(parse_validate_args(argv))
    _show(done.row, done.evaluation)
    if done.report:
        print(f"Report: {done.report}")
    return 0


@dataclass(frozen=True)
class Validated:
    """What came out.

    Attributes:
        evaluation: of the model.
        row: of a results file.
        report: its page, None without ``--report``.
    """

    evaluation: Evaluation
    row: dict[str, Any]
    report: Path | None


def validate(args: argparse.Namespace, model: Any = None) -> Validated:
    """Evaluates a model, and writes the files that the arguments ask for.

    Args:
        args: arguments of the command (`parse_validate_args`).
        model: None loads the one that the arguments name.

    Raises:
        GCPError: the model cannot be loaded, a file cannot be written, or as `evaluate_model`.
    """
    if args.results_file:
        check_output(args.results_file, "--results-file")
        _check_columns(args.results_file, _columns(args))
    if args.report:
        check_results_folder(args.report, "--report", "validation", others=(*OF_OTHERS, COMPARISON))
    options = options_of(EvaluationOptions, args)
    data: Mapping[str, Any] = {}
    if model is None:
        choice = model_choice(args)
        model, data = load_model(choice), trained_on(*choice.sources())
        _check_held_out(args, options, data)
    found = evaluate_model(model, options, lambda dataset: _check_divided(args, options, data, dataset))
    if found.held_out and data and not data.get("held_out"):
        _logger.warning(
            "%s was trained without --val-fraction: if it was trained on these images, the accuracy here is too high.",
            args.checkpoint or args.model,
        )
    row = _row(args, model, found)
    report = report_evaluation(Path(args.report), found, row) if args.report else None
    if args.results_file:
        _write(args.results_file, row)
    return Validated(found, row, report)


def _columns(args: argparse.Namespace) -> list[str]:
    """The columns of a results file, which depend on whether an image has one label or several."""
    return [*_BEFORE, *options_of(EvaluationOptions, args).task.metrics, *_AFTER]


def _row(args: argparse.Namespace, model: Any, found: Evaluation) -> dict[str, Any]:
    """The evaluation as one line of a results file."""
    row = {
        "model": (getattr(unwrap_model(model), "pretrained_cfg", None) or {}).get("architecture") or args.model,
        "weights": args.checkpoint or args.model,
        "dataset": args.dataset or "folder",
        "data_dir": args.data_dir or "",
        **found.metrics,
        **{name: getattr(found, name) for name in (*_BEFORE, *_AFTER) if hasattr(found, name)},
    }
    digits = {**dict.fromkeys(found.task.metrics, 4), **_DIGITS}
    return {name: round(row[name], digits[name]) if name in digits else row[name] for name in _columns(args)}


def _show(row: Mapping[str, Any], found: Evaluation) -> None:
    table = Table(title=f"{row['model']} on {name_of_set(row)}, {row['split']}")
    for name in ("method", *found.task.metrics.values(), "loss", "images", "images/s"):
        table.add_column(name, justify="left" if name == "method" else "right")
    table.add_row(
        row["method"] or "–",
        *(f"{row[name]:.2f}" for name in found.task.metrics),
        f"{row['loss']:.4f}",
        str(row["count"]),
        f"{row['images_per_second']:.1f}",
    )
    Console().print(table)
    if none := found.metrics.get("without_positives"):
        classes = len(found.predictions.class_names)
        print(f"mAP is the mean over the classes that an image has; {none} of the {classes} classes have none.")


def _check_held_out(args: argparse.Namespace, options: EvaluationOptions, data: Mapping[str, Any]) -> None:
    """Refuses to hold out other images than the training of a model did: it has seen some of them.

    Args:
        args: arguments of the command.
        options: made of them.
        data: what the weights were trained on (`trained_on`).

    Raises:
        GCPError: naming the options of the training.
    """
    held = data.get("held_out")
    if not args.val_fraction or not held or not is_of_data(data, options):
        return
    if (held["fraction"], held["seed"]) != (args.val_fraction, args.val_seed):
        raise _with_the_same(args, held, "with other values")


def _check_divided(args: argparse.Namespace, options: EvaluationOptions, data: Mapping[str, Any], dataset: Any) -> None:
    """Refuses to evaluate the whole of the images of which training held a part out.

    Args:
        args: arguments of the command.
        options: made of them.
        data: what the weights were trained on (`trained_on`).
        dataset: that would be evaluated, in timm's form.

    Raises:
        GCPError: naming the options of the training. A data set of the same name with more or fewer images is
            warned of.
    """
    held, counts = data.get("held_out"), data.get("images") or {}
    if options.val_fraction or not held or not is_of_data(data, options):
        return
    if not same_images(options.dataset, options.data_dir, options.split, next(iter(counts), "train")):
        return
    if len(dataset) == sum(counts.values()):
        raise _with_the_same(args, held, "without them")
    _logger.warning(
        "%s was trained with --val-fraction %g --val-seed %d on images of this name: if they are these, the accuracy "
        "here is too high; give the same.",
        args.checkpoint or args.model,
        held["fraction"],
        held["seed"],
    )


def _with_the_same(args: argparse.Namespace, held: Mapping[str, Any], how: str) -> GCPError:
    return GCPError(
        f"{args.checkpoint or args.model} was trained with --val-fraction {held['fraction']:g} --val-seed "
        f"{held['seed']}: {how} it would be evaluated on images that it was trained on; give the same."
    )


def _check_columns(path: str, columns: list[str]) -> None:
    """Refuses a results file that exists and is not of this command: rows are added to it, or it is replaced."""
    file = Path(path)
    if is_stream(path) or not file.is_file() or not file.stat().st_size:
        return
    if path.endswith(".json"):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        same = isinstance(found, dict) and set(_BEFORE + _AFTER) <= set(found)
    else:
        with open(file, newline="", encoding="utf-8", errors="replace") as content:
            same = next(csv.reader(content), None) == columns
    if not same:
        raise GCPError(f"{path} is not a results file of this command and kind of data; choose another --results-file.")


def _write(path: str, row: Mapping[str, Any]) -> None:
    make_parents(path)
    if path.endswith(".json"):
        text = json_text(row)
    else:
        old = "" if is_stream(path) or not Path(path).is_file() else Path(path).read_text(encoding="utf-8")
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=list(row), lineterminator="\n")
        if not old:
            writer.writeheader()
        writer.writerow(row)
        text = old + ("\n" if old and not old.endswith("\n") else "") + buffer.getvalue()
    save_text(path, text)


def validate_parser() -> Parser:
    """The parser of ``timm-gcp validate``."""
    parser = Parser(prog="timm-gcp validate", description="Evaluate a model, a checkpoint or a model folder.")
    group = parser.add_argument_group("Data")
    add_data_folder(group)
    add_data_set(group)
    group.add_argument("--split", default=EvaluationOptions.split, metavar="NAME", help="split that is evaluated")
    add_holdout(group, "evaluate on the part of the training images that train --val-fraction F held out")
    group = parser.add_argument_group("Model")
    group.add_argument(
        "-m", "--model", type=model_name, default="", metavar="NAME", help="registered name, model folder or hf-hub:ID"
    )
    group.add_argument(
        "--pretrained",
        action="store_true",
        help="no effect, as weights are always loaded; timm's validate.py has it",
    )
    add_weights(group)
    add_image_size(group)
    add_input(group)
    group.add_argument(
        "-b", "--batch-size", type=COUNT, default=EvaluationOptions.batch_size, metavar="N", help="images per batch"
    )
    group.add_argument("--tta", default="", choices=("", "mirror"), help="mirror: average logits with the mirror image")
    group = parser.add_argument_group("Device and loading")
    add_device(group)
    add_loading(group)
    add_debug(group)
    parser.add_argument(
        "--results-file", type=file_path, default="", metavar="FILE", help="append to a .csv, or write a .json"
    )
    parser.add_argument(
        "--report",
        type=file_path,
        default="",
        metavar="DIR",
        help="write a page on the predictions (report.html) and the tables behind it into this folder",
    )
    return parser


def parse_validate_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp validate``.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    return _checked(validate_parser().parse_args(argv))


def read_validate_keywords(keywords: Mapping[str, Any], function: str) -> argparse.Namespace:
    """As `parse_validate_args`, of keywords (`timm_gcp.commands.keywords`).

    Args:
        keywords: options by keyword.
        function: its name in a message.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    parser = validate_parser()
    return _checked(namespace_of(parser, read_keywords(keywords, parser, function)))


def _checked(args: argparse.Namespace) -> argparse.Namespace:
    args.data_dir = args.data_dir or args.data
    check_common(args)
    if args.method:
        get_method(args.method)
    if not args.model and not args.checkpoint:
        raise GCPError("Nothing to evaluate: give --model NAME, a model folder, or --checkpoint FILE.")
    if args.results_file and not args.results_file.endswith((".csv", ".json")) and not is_stream(args.results_file):
        raise GCPError(f"--results-file {args.results_file} must end in .csv or .json.")
    return args
