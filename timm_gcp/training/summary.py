"""What a run says of itself: its description, a line an epoch, and ``summary.csv``."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import save_text
from .run import Run


def describe(run: Run) -> str:
    """The lines that open a run: model, data, schedule and protocol."""
    parameters = sum(p.numel() for p in run.plain.parameters())
    lines = [
        f"{run.args.model}: {parameters / 1e6:.2f} M parameters, {run.args.num_classes} classes, images of "
        f"{'×'.join(map(str, run.data_config['input_size']))}, {run.device}"
        f"{f', {run.args.world_size} processes' if run.args.distributed else ''}",
        f"{_span(run)}, lr {run.args.lr:.4g} ({run.args.opt}, {run.args.sched}), run folder {run.folder}",
    ]
    if run.schedule is not None:
        lines.append(run.schedule.describe())
    elif run.method:
        lines.append(f"Method {run.method} throughout.")
    return "\n".join(lines)


def _span(run: Run) -> str:
    if run.position.batches:
        return f"epochs {run.start_epoch} (after {run.position.batches} batches) to {run.epochs - 1}"
    if run.start_epoch == run.epochs:
        return f"all {run.epochs} epochs done"
    return f"epochs {run.start_epoch} to {run.epochs - 1}"


def summary_row(
    run: Run,
    epoch: int,
    trained: Mapping[str, float],
    evaluated: Mapping[str, float],
    lr: float,
    conditioning: Mapping[str, float],
    seconds: float,
) -> dict[str, Any]:
    """One epoch as a row of ``summary.csv``; what was not measured is empty."""
    row: dict[str, Any] = {"epoch": epoch, **{f"train_{key}": trained[key] for key in ("loss", "top1")}}
    row.update({f"eval_{key}": evaluated.get(key, math.nan) for key in ("loss", "top1", "top5")})
    row.update(lr=lr, method=run.method or "")
    row.update({key: conditioning.get(key, math.nan) for key in ("kappa", "rank", "under_eps")})
    row.update({key: trained[key] for key in ("skipped", "fallbacks")})
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


def epoch_line(row: Mapping[str, Any], epochs: int, metric: str, best: float | None, best_epoch: int | None) -> str:
    """One epoch as a line of the log."""

    def show(key: str, form: str) -> str:
        return "–" if row[key] == "" else format(row[key], form)

    text = f"epoch {row['epoch']}/{epochs - 1}  train loss {show('train_loss', '.4f')} top1 {show('train_top1', '.2f')}"
    if row["eval_loss"] != "":
        text += f"  eval loss {show('eval_loss', '.4f')} top1 {show('eval_top1', '.2f')}"
        text += f" top5 {show('eval_top5', '.2f')}"
    text += f"  lr {row['lr']:.3g}"
    if row["method"]:
        text += f"  {row['method']} κ {show('kappa', '.2g')} rank {show('rank', 'g')}"
    for key, name in (("skipped", "skipped updates"), ("fallbacks", "eigensolver fallbacks")):
        text += f"  {name} {row[key]}" if row[key] else ""
    text += f"  {row['seconds']:.1f} s"
    return text + (f"  (best {metric} {best:.4g}, epoch {best_epoch})" if best is not None else "")
