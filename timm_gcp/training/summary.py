"""Writes the description of a run, one line per epoch, and ``summary.csv``."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.class_counts import describe_counts
from ..files import save_text
from ..hybrid.monitor import conditioning_word
from ..tasks import SINGLE_LABEL
from ..text import some_of
from .epoch_position import Position
from .initial_weights import describe_start
from .optimizer import default_rate
from .options import ImbalanceOptions
from .progress import clock
from .range_curve import PICTURE, RULE
from .run import Run
from .stopping import PATIENCE


def describe(run: Run) -> str:
    """The lines that open a run: model, weights, data, length, protocol."""
    options, parameters = run.options, sum(p.numel() for p in run.model.parameters())
    size = "×".join(map(str, run.network.data_config["input_size"]))
    lines = [
        f"{options.model}: {parameters / 1e6:.2f} M parameters, images of {size}, {run.device}"
        f"{f', {run.processes.world_size} processes' if run.processes.distributed else ''}",
        *describe_start(options, run.model, run.start.epoch),
        *_initial_head(run),
        *_data(run),
        *_imbalance(run.options),
        f"Training: {_span(run)}, lr {options.lr:.4g} ({options.opt}, {options.sched}), run folder {run.folder}",
        *_range_test(run),
    ]
    schedule = run.protocol.schedule
    if schedule is not None:
        lines.append(schedule.describe())
        if not schedule.switched:
            lines.append(
                f"Epochs under {schedule.warm} are not ranked: the best epoch is one of {schedule.final}, "
                "under which the model is saved."
            )
    elif run.method:
        lines.append(f"Method: {run.method} throughout.")
    lines.append("The words of the lines below are explained at the end of timm-gcp train --help.")
    return "\n".join(lines)


def _range_test(run: Run) -> list[str]:
    if run.range_test is None:
        return []
    default = default_rate(run.options, run.processes.world_size)
    return [f"Learning rate: {RULE} in a range test ({PICTURE}); by --lr-base it would be {default:.4g}."]


def _initial_head(run: Run) -> list[str]:
    found = run.network.initial_head
    if found is None:
        return []
    accuracy = "" if found.left_out is None else f"; {found.left_out:.2f} % leave-one-out top-1"
    return [f"Head: fitted to the frozen features of the training images{accuracy}."]


def _data(run: Run) -> list[str]:
    """Images and classes of each split."""
    options, names, number = run.options, run.data.class_names, run.data.num_classes
    classes = f"{number} classes{f' ({some_of(names, 3)})' if names else ''}"
    trained = f"Split {options.train_split}" if options.train_split else "Images"
    lines = [f"{trained}: {classes}; {describe_counts(run.data.train, number, names)}."]
    if run.data.evaluation is None:
        lines.append("No evaluation split: epochs are ranked by the training loss.")
    else:
        held = f" (--val-fraction {options.val_fraction:g}, held out)" if options.held_out else ""
        lines.append(f"Split {options.val_split}{held}: {describe_counts(run.data.evaluation, number, names)}.")
    return lines


def _imbalance(options: ImbalanceOptions) -> list[str]:
    lines = []
    if options.balanced_sampling:
        lines.append("Balanced sampling: every class is drawn equally often.")
    if options.class_weights:
        lines.append(f"Loss: weights of the classes ({options.class_weights}).")
    if options.logit_adjustment is not None:
        lines.append(f"Loss: logits adjusted by the shares of the classes, τ = {options.logit_adjustment:g}.")
    return lines


def _span(run: Run) -> str:
    if run.position.batches:
        return f"epochs {run.start.epoch + 1} (after {run.position.batches} batches) to {run.epochs}"
    if run.start.epoch == run.epochs:
        return f"all {run.epochs} epochs done"
    if run.stopped:
        return f"ended after epoch {run.start.epoch} of {run.epochs} (--{run.stopped.replace(' ', '-')})"
    return f"epochs {run.start.epoch + 1} to {run.epochs}"


def summary_row(
    run: Run,
    epoch: int,
    trained: Position,
    evaluated: Mapping[str, float],
    lr: float,
    conditioning: Mapping[str, float],
    seconds: float,
) -> dict[str, Any]:
    """One epoch as a row of ``summary.csv``; what was not measured is empty."""
    task = run.options.task
    row: dict[str, Any] = {"epoch": epoch, "train_loss": trained.loss}
    if task is SINGLE_LABEL:
        row["train_top1"] = trained.top1
    row.update({f"eval_{key}": evaluated.get(key, math.nan) for key in ("loss", *task.metrics)})
    row.update(lr=lr, method=run.method or "")
    row.update({key: conditioning.get(key, math.nan) for key in ("kappa", "rank", "under_eps")})
    row.update(skipped=trained.skipped, fallbacks=trained.fallbacks)
    row["seconds"] = round(seconds, 3)
    return {key: "" if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def write_summary(run: Run) -> None:
    """Writes ``summary.csv`` anew, aside and renamed."""
    buffer = io.StringIO()
    columns = list(run.rows[-1])
    writer = csv.DictWriter(buffer, fieldnames=columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(run.rows)
    save_text(run.folder / "summary.csv", buffer.getvalue())


def read_summary(path: Path, before: int) -> list[dict[str, Any]]:
    """The rows of earlier epochs, from the run that is resumed."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["epoch"].isdigit() and int(row["epoch"]) < before]


def epoch_line(run: Run, row: Mapping[str, Any], best: float | None, best_epoch: int | None) -> list[str]:
    """The parts of the line that ends an epoch.

    Args:
        run: the run.
        row: of ``summary.csv``.
        best: the best metric so far, None before the first ranked epoch.
        best_epoch: its epoch, from 0.
    """

    def show(key: str, form: str) -> str:
        return "–" if row[key] == "" else format(row[key], form)

    parts = [f"epoch {row['epoch'] + 1}/{run.epochs}"]
    top1 = f" top1 {show('train_top1', '.2f')}" if "train_top1" in row else ""
    parts.append(f"train loss {show('train_loss', '.4f')}{top1}")
    if row["eval_loss"] != "":
        measured = [key for key in row if key.startswith("eval_") and key != "eval_loss"]
        first, *others = (f"{key.removeprefix('eval_')} {show(key, '.2f')}" for key in measured)
        parts += [f"eval loss {show('eval_loss', '.4f')} {first}", *others]
    parts += [f"lr {row['lr']:.3g}", row["method"]]
    if row["kappa"] != "":
        parts.append(f"conditioning {conditioning_word(row['kappa'])}")
        parts.append(f"κ {row['kappa']:.2g} rank {show('rank', 'g')}")
    for key, name in (("skipped", "skipped updates"), ("fallbacks", "eigensolver fallbacks")):
        parts.append(f"{name} {row[key]}" if row[key] else "")
    left = run.progress.remaining(row["epoch"] + 1)
    parts += [f"{row['seconds']:.1f} s", f"{clock(left)} left" if left else ""]
    if not run.protocol.ranks:
        parts.append("not ranked: warm method")
    if best is not None and best_epoch is not None:
        parts.append(f"best {run.metric} {best:.4g} (epoch {best_epoch + 1})")
    return parts


def stop_line(run: Run) -> str:
    """The line on a run that ends before its last epoch."""
    options, schedule = run.options, run.protocol.schedule
    text = f"Ends after epoch {run.trained} of {run.epochs}: "
    if run.stopped == PATIENCE:
        return f"{text}no better {run.metric} in {options.patience} epochs (--patience)."
    text += f"{clock(run.seconds)} of training, and --time-limit is {clock(options.time_limit or 0)}."
    if schedule is not None and not schedule.switched:
        text += (
            f" The method has not switched: the weights were trained under {schedule.warm} and are saved with "
            f"{schedule.final}; train on with a larger --time-limit."
        )
    return text


def unranked_note(run: Run, best_epoch: int) -> str:
    """A sentence on an epoch of the warm method whose metric was better than that of the best epoch; '' if none was.

    Args:
        run: the run, at its end.
        best_epoch: from 0.
    """
    schedule = run.protocol.schedule
    if schedule is None:
        return ""
    key = f"eval_{run.metric}" if run.data.evaluation is not None else "train_loss"
    values = {int(row["epoch"]): (row["method"], float(row[key])) for row in run.rows if row.get(key) not in (None, "")}
    sign = -1 if run.metric == "loss" else 1
    warm = {epoch: value for epoch, (method, value) in values.items() if method == schedule.warm}
    if not warm or best_epoch not in values:
        return ""
    epoch = max(warm, key=lambda one: sign * warm[one])
    if sign * warm[epoch] <= sign * values[best_epoch][1]:
        return ""
    return (
        f"Epoch {epoch + 1} had {run.metric} {warm[epoch]:.4g} under the warm method {schedule.warm}; such epochs "
        f"are not ranked, since the saved model runs under {schedule.final}."
    )
