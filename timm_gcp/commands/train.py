"""``timm-gcp train``: trains a timm model, with the hybrid protocol where it ends in covariance pooling.

Under ``torchrun --nproc-per-node N -m timm_gcp train ...`` it trains on several devices.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm.optim
import torch
import yaml

from ..data.options import DatasetOptions
from ..distributed import join_processes
from ..errors import GCPError
from ..files import check_output_folder
from ..tasks import MULTI_LABEL
from ..text import nearest
from ..training.allocator import keep_heap
from ..training.imbalance import check_imbalance
from ..training.multi_label import check_multi_label
from ..training.options import TrainOptions
from ..training.prepare import prepare
from ..training.run_folder import RunFolder
from ..training.run_log import RunLog
from ..training.tracking import check_tracker
from ..training.trainer import train
from .config import read_options
from .keywords import command_line, namespace_of, read_keywords
from .optimisation_options import SCHEDULERS
from .option_effects import check_effects
from .option_types import file_path
from .parser import Parser
from .recipes import find_recipe, recipe_names
from .reporting import report_training
from .train_options import train_parser
from .value_checks import check_common, check_compiler, check_optimizer, check_ranges

__all__ = ["main", "parse_train_args", "read_train_keywords", "run_training"]


_logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp train``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status: 0, 130 when stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.

    Raises:
        GCPError: bad input, before any training; a loss or gradient that is not finite; or a full disk.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    options, arguments = parse_train_args(argv)
    return run_training(options, arguments, shlex.join(["timm-gcp", "train", *argv]))[0]


def run_training(options: TrainOptions, arguments: str, command: str) -> tuple[int, Path]:
    """Trains by checked options.

    Args:
        options: of the run.
        arguments: the options as YAML, for the run folder.
        command: the command line, for the run folder.

    Returns:
        Exit status as that of `main`, and the run folder.

    Raises:
        GCPError: as `main`.
    """
    processes = join_processes(options.device or "cpu")
    keep_heap(processes.device)
    if processes.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    with RunFolder(options, processes) as folder, RunLog(processes.first) as log:
        run = prepare(options, processes, folder, arguments, command)
        run.progress.log = log
        return train(run, report_training), run.folder


def parse_train_args(argv: Sequence[str] | None = None) -> tuple[TrainOptions, str]:
    """Parses and checks the arguments of ``timm-gcp train``.

    The command line wins over ``--config``, which wins over ``--recipe``, which wins over the defaults.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        The options and, for the run folder, their YAML text, which ``--config`` reads again.

    Raises:
        GCPError: an unknown argument, a value out of range, an unknown recipe, method, optimiser or scheduler.
        SystemExit: after ``--show-recipe``, as after ``--help``.
    """
    return _checked(_parse(train_parser(), argv))


def read_train_keywords(keywords: Mapping[str, Any], function: str) -> tuple[TrainOptions, str, str]:
    """As `parse_train_args`, of keywords (`timm_gcp.commands.keywords`).

    Args:
        keywords: options by keyword.
        function: its name in a message.

    Returns:
        The options, their YAML text, and the command line that has the same effect.

    Raises:
        GCPError: as `parse_train_args`.
    """
    parser = train_parser()
    given = read_keywords(keywords, parser, function)
    _set_defaults(parser, given.get("recipe", ""), given.get("config", ""), given.get("dataset"))
    args = namespace_of(parser, given)
    _check_rate(parser, args)
    return *_checked(args), command_line(parser, given)


def _checked(args: argparse.Namespace) -> tuple[TrainOptions, str]:
    """The options and their YAML text."""
    args.data_dir = args.data_dir or args.data
    _fill_in(args)
    del args.data, args.config, args.recipe, args.show_recipe
    text = yaml.safe_dump({k: v for k, v in vars(args).items() if k != "resume"}, sort_keys=True)
    check_common(args)
    check_ranges(args)
    _check_names(args)
    args.find_lr = args.lr == "auto"
    if args.find_lr:
        args.lr = None
    options = TrainOptions(**vars(args))
    options.check()
    check_imbalance(options)
    if options.task is MULTI_LABEL:
        check_multi_label(options)
    check_effects(options)
    check_tracker(options.log)
    _check_together(options)
    if options.output:
        check_output_folder(options.output, "--output")
    return options, text


def _check_together(options: TrainOptions) -> None:
    """Refuses options that contradict each other, or lack another."""
    if options.switch_conditioning and options.monitor_every < 1:
        raise GCPError("--switch-conditioning needs the conditioning: give --monitor-every 1 or more.")
    if options.warmup_prefix and (options.warmup_epochs or 0) % 1:
        raise GCPError(
            "--warmup-prefix adds the warm-up to the epochs, which are whole: give a whole number of --warmup-epochs, "
            f"not {options.warmup_epochs:g}."
        )
    if options.resume == "auto" and not options.experiment:
        raise GCPError("--resume auto looks into the run folder, so it has to have a name; add --experiment NAME.")
    if options.init_head == "probe" and options.initial_checkpoint:
        raise GCPError("--init-head probe and --initial-checkpoint exclude each other: each brings a head; choose one.")
    if options.resume and options.initial_checkpoint:
        raise GCPError("--resume and --initial-checkpoint exclude each other: a resumed run brings its own weights.")


def _parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line over the settings of ``--config`` and ``--recipe``."""
    first = Parser(prog=parser.prog, add_help=False, allow_abbrev=False)
    first.add_argument("-c", "--config", type=file_path, default="")
    first.add_argument("--recipe", default="")
    first.add_argument("--show-recipe", action="store_true")
    first.add_argument("--dataset")
    given = first.parse_known_args(argv)[0]
    recipe = _set_defaults(parser, given.recipe, given.config, given.dataset)
    if recipe is not None and given.show_recipe:
        print(recipe.read_text(encoding="utf-8"), end="")
        parser.exit()
    args: argparse.Namespace = parser.parse_args(argv)
    for name in ("config", "recipe", "show_recipe"):
        # argparse takes an option cut short, which the first look does not see.
        if getattr(args, name) != getattr(given, name):
            raise GCPError(f"Write --{name.replace('_', '-')} out in full.")
    if args.show_recipe:
        raise GCPError(f"--show-recipe needs --recipe NAME: {', '.join(recipe_names())}.")
    _check_rate(parser, args)
    return args


def _check_rate(parser: Parser, args: argparse.Namespace) -> None:
    """Warns of a learning rate that a recipe or ``--config`` has for another optimiser than the one that is given."""
    own = {name: parser.get_default(name) for name in ("opt", "lr", "lr_base")}
    if (
        (args.recipe or args.config)
        and args.opt != own["opt"]
        and (args.lr, args.lr_base) == (own["lr"], own["lr_base"])
    ):
        _logger.warning(
            "--opt %s has the learning rate of the recipe or configuration, which is one for %s: give --lr too, or "
            "--lr auto.",
            args.opt,
            own["opt"],
        )


def _set_defaults(parser: Parser, recipe: str, config: str, dataset: str | None) -> Path | None:
    """Makes the settings of ``--recipe`` and, over them, ``--config`` the parser's defaults.

    Args:
        parser: of the command.
        recipe: its name, or ''.
        config: the file, or ''.
        dataset: ``--dataset``, which chooses among several recipes; None takes that of the file.

    Returns:
        The file of the recipe.
    """
    settings = read_options(config, parser) if config else {}
    file = None
    if recipe:
        file = find_recipe(recipe, settings.get("dataset", "") if dataset is None else dataset)
        parser.set_defaults(**read_options(str(file), parser))
    parser.set_defaults(**settings)
    return file


def _fill_in(args: argparse.Namespace) -> None:
    """Fills in what follows from whether an image has one label or several.

    Raises:
        GCPError: a measure of the other kind.
    """
    task = DatasetOptions(dataset=args.dataset).task
    if args.smoothing is None:
        args.smoothing = task.smoothing
    args.eval_metric = args.eval_metric or next(iter(task.metrics))
    if args.eval_metric not in (*task.metrics, "loss"):
        raise GCPError(
            f"--eval-metric {args.eval_metric} is not measured on {task.name} data; there are "
            f"{', '.join(task.metrics)} and loss."
        )


def _check_names(args: argparse.Namespace) -> None:
    check_compiler(args.torchcompile)
    if args.sched not in SCHEDULERS:
        raise GCPError(
            f"Unknown scheduler '{args.sched}'; there are {', '.join(SCHEDULERS)}{nearest(args.sched, SCHEDULERS)}"
        )
    optimizers = timm.optim.list_optimizers()
    if args.opt.lower().removeprefix("lookahead_") not in optimizers:
        raise GCPError(f"Unknown optimizer '{args.opt}'{nearest(args.opt, optimizers)}")
    check_optimizer(args.opt)
