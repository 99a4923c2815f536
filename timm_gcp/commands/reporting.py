"""What the commands say in their reports: the facts at the top of the page, and where the files go."""

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import GCPError
from ..files import json_text, remove_files, save_text
from ..predictions import FILE, save_predictions
from ..probing.options import ProbeOptions
from ..probing.probe import Probe
from ..reports.multi_label_report import write_multi_label_report
from ..reports.report import REPORT_FILES, write_report
from ..reports.subject import Subject
from ..tasks import MultiLabelPredictions
from ..text import one_line
from ..training.evaluate import Evaluation
from ..training.provenance import data_of, data_record, data_text
from ..training.run import Run

__all__ = ["FOLDER", "name_of_set", "report_evaluation", "report_probe", "report_training"]

FOLDER = "report"
"""Where a run folder has its report."""

_logger = logging.getLogger(__name__)


def report_evaluation(folder: Path, found: Evaluation, row: Mapping[str, Any]) -> Path:
    """Writes the report of ``timm-gcp validate``, its predictions and its result.

    Args:
        folder: where; it is made.
        found: the evaluation.
        row: of a results file.

    Returns:
        The page.

    Raises:
        GCPError: a file cannot be written.
    """
    subject = Subject(
        title=f"{row['model']} on {name_of_set(row)}, {found.split}",
        facts={
            "Model": row["model"],
            "Weights": _last_part(row["weights"]),
            "Method": found.method,
            "Parameters": f"{found.parameters / 1e6:.2f} M",
            "Image size": f"{found.img_size} px, crop {found.crop_pct:g}, {found.interpolation}",
            "Test-time augmentation": found.tta,
            "Images per second": f"{found.images_per_second:.0f}",
            "Date": _today(),
        },
        summary=_summary_beside(str(row["weights"])),
    )
    page = _write(folder, found.predictions, found.images, subject)
    save_predictions(found.predictions, folder / FILE)
    save_text(folder / "result.json", json_text(row))
    return page


def report_training(run: Run, result: Mapping[str, Any], predictions: Any) -> None:
    """Writes the report of a training run into its folder; it has none without an evaluation split or by --no-report.

    A report that fails does not fail the run. Where there is none, that of an earlier part of the run is removed.

    Args:
        run: the run, at its end.
        result: of the run.
        predictions: of its evaluation split, or None.
    """
    if predictions is None or run.options.no_report:
        remove_files(run.folder / FOLDER, REPORT_FILES)
        return
    last = result["segments"][-1]
    subject = Subject(
        title=f"{run.folder.name}: {result['model']}",
        facts={
            "Data": data_text(data_of(run)),
            "Split": result["split"],
            "Method": result["method"],
            "Best epoch": f"{result['epoch'] + 1} of {result['epochs']}",
            "Parameters": f"{result['parameters'] / 1e6:.2f} M",
            "Test-time augmentation": result["tta"],
            "Seed": result["seed"],
            "Duration": _duration(result["wall_seconds"]),
            "Date": str(last.get("started") or "")[:10],
            "Command": result["command"],
        },
        summary=run.folder / "summary.csv",
    )
    page = _written(run.folder / FOLDER, predictions, run.data.evaluation, subject)
    if page is not None:
        run.progress.say(f"Report: {page}")


def report_probe(folder: Path, probe: Probe, options: ProbeOptions, command: str, write: bool) -> Path | None:
    """Writes the predictions of a probe into its folder, and the report on them.

    Args:
        folder: of the probe.
        probe: fitted.
        options: of the probe, with the names of the splits filled in.
        command: the command line.
        write: write the report, not only the predictions.

    Returns:
        The page; None where there is none.
    """
    predictions = probe.predictions(options.train_split, options.val_split)
    (folder / FILE).unlink(missing_ok=True)  # of an earlier probe
    remove_files(folder / FOLDER, REPORT_FILES)
    if predictions is None:
        return None
    save_predictions(predictions, folder / FILE)
    if not write:
        return None
    left_out = probe.evaluation is None
    data = data_record(options, probe.train, probe.evaluation, len(probe.head.weights))
    subject = Subject(
        title=f"Probe of {data['name']}",
        facts={
            "Data": data_text(data),
            "Head": probe.results[0].head,
            "Method": probe.head.method,
            "Components": len(probe.head.directions),
            "Date": _today(),
            "Command": command,
        },
        heads=probe.results,
        note="Predictions of the training images, each by a classifier that is fitted to all the others."
        if left_out
        else "",
    )
    return _written(folder / FOLDER, predictions, probe.train if left_out else probe.evaluation, subject)


def _write(folder: Path, predictions: Any, dataset: Any, subject: Subject) -> Path:
    """The page that fits the predictions."""
    if isinstance(predictions, MultiLabelPredictions):
        return write_multi_label_report(folder, predictions, dataset, subject)
    return write_report(folder, predictions, dataset, subject)


def _written(folder: Path, predictions: Any, dataset: Any, subject: Subject) -> Path | None:
    """The page; None, with a warning, where something unexpected keeps it from being made."""
    try:
        return _write(folder, predictions, dataset, subject)
    except GCPError:
        raise
    except Exception as error:
        _logger.warning("The report could not be written (%s: %s).", type(error).__name__, one_line(error))
        return None


def _summary_beside(weights: str) -> Path | None:
    """The summary of the training run whose checkpoint, folder or model folder this is; None for other weights."""
    place = Path(weights.removeprefix("local-dir:"))
    found = (each / "summary.csv" for each in (place, place.parent))
    return next((each for each in found if place.exists() and each.is_file()), None)


def name_of_set(row: Mapping[str, Any]) -> str:
    """The name of the data set of a row of a results file: that of its folder where it has one."""
    folder = Path(row["data_dir"]).resolve().name if row["data_dir"] else ""
    return folder or str(row["dataset"])


def _last_part(weights: Any) -> str:
    place = Path(str(weights).removeprefix("local-dir:"))
    return "/".join(place.parts[-2:]) if place.exists() else str(weights)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _today() -> str:
    return f"{datetime.now():%Y-%m-%d}"
