"""``timm-gcp probe``: fits a classifier with covariance features to a frozen backbone, in minutes."""

import argparse
import csv
import io
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import GCPError
from ..files import json_text, save_text
from ..models.folder import architecture, check_model_folder, loading_code
from ..models.named import load_model
from ..plots import new_figure, save_figure
from ..probing.fits import Gain, Result
from ..probing.options import CLASSIFIERS, FIRST_ORDERS, HEADS, VIEWS, MomentSettings, ProbeOptions
from ..probing.probe import Probe, fit_probe
from ..reports.compare import PAGE as COMPARISON
from ..reports.paired import mcnemar
from ..reports.report import PAGE as REPORT
from ..text import nearest, without_places
from ..training.history import versions
from ..training.provenance import backbone_data, data_record, data_text, is_of_data, origin_of_weights, start_text
from .option_types import COUNT, file_path
from .options import (
    add_backbone,
    add_data_folder,
    add_data_set,
    add_debug,
    add_device,
    add_holdout,
    add_loading,
    model_choice,
    options_of,
)
from .parser import Pairs, Parser
from .reporting import report_probe
from .results_folder import OF_TRAINING, check_results_folder
from .value_checks import check_backbone

__all__ = ["main"]

SIGNIFICANT = 0.05
"""A smaller p value makes a difference significant."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp probe``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status 0.

    Raises:
        GCPError: bad input, before anything is fitted.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_probe_args(argv)
    options, choice = options_of(ProbeOptions, args), model_choice(args, method=None)
    out, command = Path(args.output), shlex.join(["timm-gcp", "probe", *argv])
    check_results_folder(args.output, "--output", "probe", others=(*OF_TRAINING, "config.json", REPORT, COMPARISON))
    check_model_folder(out / "model")
    model = load_model(choice)
    start = origin_of_weights(*choice.sources(), True, model)
    seen = is_of_data(backbone_data(start), options)
    probe = fit_probe(model, options, out / "cache")
    _save_model(out / "model", probe, options, start, command)
    _save_results(out, probe, command)
    page = report_probe(out, probe, options, command, write=not args.no_report)
    _show(probe, out, seen)
    if page is not None:
        print(f"Report: {page}")
    return 0


def _save_model(folder: Path, probe: Probe, options: ProbeOptions, start: Any, command: str) -> None:
    """Writes the model folder with the record of its data, its backbone and its command."""
    data = data_record(options, probe.train, probe.evaluation, len(probe.head.weights))
    training = {
        "data": data,
        "trained": "classifier",
        "started_from": start,
        "command": without_places(command),
        "versions": versions(),
    }
    probe.save(
        folder,
        origin=f"A linear classifier on frozen features of {start_text(start)}, fitted by `timm-gcp probe`.",
        about={"description": f"A probe fitted to {data_text(data)}.", "training": training},
    )


def _save_results(out: Path, probe: Probe, command: str) -> None:
    """Writes the table and the plot."""
    result = {
        "command": command,
        "method": probe.head.method,
        "first_order": probe.head.first_order,
        "components": len(probe.head.directions),
        "variance": round(probe.head.directions.variance, 4),
        "heads": [asdict(each) for each in probe.results],
        "gain": _gain_record(probe.gain),
        "validation_gain": _gain_record(probe.validation_gain),
        "images": [len(each) for each in (probe.train, probe.evaluation) if each is not None],
        "seconds": probe.seconds,
        "versions": versions(),
    }
    save_text(out / "result.json", json_text(result))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(asdict(probe.results[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(each) for each in probe.results)
    save_text(out / "heads.csv", buffer.getvalue())
    _draw(probe.results, out / "heads.png")


def _gain_record(gain: Gain | None) -> dict[str, Any] | None:
    """A gain as entries of ``result.json``."""
    return None if gain is None else {**asdict(gain), "points": round(gain.points, 4), "error": round(gain.error, 4)}


def _draw(results: Sequence[Result], path: Path) -> None:
    """Draws the accuracy of every head that was measured as a bar; with fewer than two, removes an earlier picture."""
    measured = [(each.accuracy, each) for each in results if each.accuracy is not None]
    if len(measured) < 2:
        path.unlink(missing_ok=True)
        return
    accuracies, shown = zip(*sorted(measured, key=lambda pair: pair[0]), strict=True)
    figure = new_figure(figsize=(8, 0.5 * len(shown) + 1.2))
    axes = figure.subplots()
    colours = ["tab:blue" if "covariance" in each.head else "tab:gray" for each in shown]
    bars = axes.barh([each.head for each in shown], accuracies, color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_xlim(0, 100)
    axes.set_xlabel("top-1 %, validation" if shown[0].validation is not None else "top-1 %, leave-one-out")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save_figure(figure, path)


def _show(probe: Probe, out: Path, seen: bool) -> None:
    console = Console()
    console.print(probe)
    if seen:
        counts = "the evaluation split counts." if probe.evaluation else "give a --val-split of other images."
        console.print(
            f"The backbone was trained on images of this name, so leave-one-out is too high; {counts}",
            highlight=False,
        )
    gain, measure = probe.gain, "leave-one-out"
    if seen or gain is None:
        gain, measure = probe.validation_gain, "validation"
    if gain is not None:
        console.print(_verdict(gain, measure), highlight=False)
    console.print(
        f"Model folder: {loading_code(architecture(probe.model), out / 'model')}",
        highlight=False,
        soft_wrap=True,
    )


def _verdict(gain: Gain, measure: str) -> str:
    """Whether the difference of the two heads is significant by McNemar's exact test, and how large it is."""
    p = mcnemar(gain.only_head, gain.only_baseline)
    if p >= SIGNIFICANT:
        finding = "It is open whether covariance is worth it here"
    else:
        finding = f"Covariance is {'' if gain.points > 0 else 'not '}worth it here"
    return (
        f"{finding}: '{gain.head}' has {gain.points:+.1f} points of {measure} accuracy against '{gain.baseline}', the "
        f"best first-order classifier ({gain.images} images, p {p:.2g} by McNemar's test)."
    )


def probe_parser() -> Parser:
    """The parser of ``timm-gcp probe``."""
    defaults = ProbeOptions()
    parser = Parser(
        prog="timm-gcp probe",
        usage="%(prog)s DIR --model NAME [options]",
        description="Fit a classifier with covariance features to a frozen backbone. One pass over the images caches "
        "their features; the rest takes minutes and no training. The result is a model folder.",
    )
    group = parser.add_argument_group("Data")
    add_data_folder(group)
    add_data_set(group)
    group.add_argument("--train-split", default=defaults.train_split, metavar="NAME", help="split that is fitted to")
    group.add_argument(
        "--val-split", default=defaults.val_split, metavar="NAME", help="split that is evaluated; '' for none"
    )
    add_holdout(group, "where there is no --val-split, hold this part of every class out of the training images")
    add_backbone(parser)
    group = parser.add_argument_group("Head")
    group.add_argument(
        "--head",
        default=defaults.head,
        choices=HEADS,
        help="triangle of the covariance's root with a linear classifier, or Moment Probing (mp), which is trained on "
        "the features and takes longer; --method and --classifier are for the first",
    )
    group.add_argument(
        "--mp-args",
        dest="moment",
        nargs="*",
        default={},
        action=Pairs,
        metavar="K=V",
        help=f"how Moment Probing is trained: {', '.join(f'{k}={v:g}' for k, v in asdict(MomentSettings()).items())}",
    )
    group.add_argument(
        "--components",
        type=COUNT,
        metavar="R",
        help="principal directions (default: 256, or all where there are fewer)",
    )
    group.add_argument(
        "--method",
        metavar="NAME",
        help=f"method of the covariance's root (default: {defaults.method}, or the one in a --model such as "
        "resnet50_polar.init)",
    )
    group.add_argument(
        "--first-order",
        default=defaults.first_order,
        choices=FIRST_ORDERS,
        help="vector beside the covariance: mean of the map, class token, or both; auto: the class token where there "
        "is one, otherwise the mean",
    )
    group.add_argument(
        "--classifier",
        default=defaults.classifier,
        choices=CLASSIFIERS,
        help="ridge regression with exact leave-one-out, or multinomial logistic regression",
    )
    group.add_argument(
        "--views", type=int, default=defaults.views, choices=VIEWS, help="2 adds the mirror image of every image"
    )
    group.add_argument(
        "--compare", action="store_true", help="fit first-order and nearest-neighbour classifiers too, and compare"
    )
    group = parser.add_argument_group("Device and loading")
    group.add_argument(
        "-b", "--batch-size", type=COUNT, default=defaults.batch_size, metavar="N", help="images per batch"
    )
    add_device(group)
    add_loading(group)
    parser.add_argument(
        "--output", type=file_path, default="output/probe", metavar="DIR", help="folder of cache, model and table"
    )
    parser.add_argument("--no-report", action="store_true", help="write no report on the predictions")
    add_debug(parser)
    return parser


def parse_probe_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp probe``.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    args: argparse.Namespace = probe_parser().parse_args(argv)
    check_backbone(args, ProbeOptions.method)
    args.moment = _moment_settings(args.moment, args.head)
    if args.num_classes is not None:
        raise GCPError("--num-classes has no effect: the classes are those of the data set; leave it out.")
    return args


def _moment_settings(given: dict[str, Any], head: str) -> MomentSettings:
    """The settings of Moment Probing.

    Raises:
        GCPError: an unknown one, a value out of range, or settings of a head that is not trained.
    """
    if given and head != "mp":
        raise GCPError("--mp-args goes with --head mp; leave it out.")
    defaults = asdict(MomentSettings())
    for name, value in given.items():
        if name not in defaults:
            raise GCPError(f"--mp-args has no {name}{nearest(name, defaults)}")
        whole = isinstance(defaults[name], int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise GCPError(f"--mp-args {name} is a {'whole number' if whole else 'number'}, not {value!r}.")
    return MomentSettings(**given)
