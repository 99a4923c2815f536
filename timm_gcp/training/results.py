"""Ends a run: evaluates the best model under the final method, writes the results, curves and the model folder."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..data.loaders import evaluation_loader
from ..errors import GCPError
from ..files import json_text, save_text
from ..map_pool import find_map_pools
from ..models.folder import architecture, check_model_folder, loading_code, save_folder
from ..models.named import checkpoint_in, set_method
from ..predictions import FILE, save_predictions
from ..text import one_line
from ..weights.file import load_training_checkpoint, load_weights, weights_of
from .curves import draw_curves
from .evaluate import evaluate
from .history import closed, describe_differences, past_segments, write_history
from .out_of_memory import LESS_IN_EVALUATION, naming_the_batch
from .provenance import about, data_of, origin_text
from .resume import differences
from .run import Run
from .run_folder import RESULT
from .stopping import PATIENCE
from .summary import unranked_note

Report = Callable[[Run, Mapping[str, Any], Any], None]
"""Writes a report from the run, its result and the predictions of its model; None without an evaluation split."""


def finish(run: Run, report: Report | None = None) -> None:
    """Evaluates the best model under the final method, and writes what a run leaves behind.

    Args:
        run: the run, at its end.
        report: is called once everything but the result is written.
    """
    if run.protocol.monitor is not None:
        run.protocol.monitor.close()
    options, model = run.options, run.model
    path = checkpoint_in(run.folder) or Path(run.start.path)
    checkpoint = load_training_checkpoint(path)
    load_weights(model, weights_of(checkpoint, path, use_ema=_ranked_by_average(run, checkpoint)), path)
    if run.final_method:
        set_method(model, run.final_method)
    metrics: dict[str, float] = {}
    task = options.task
    predictions, recorder = None, task.recorder()
    if run.data.evaluation is not None:
        batch, config = options.evaluation_batch_size, run.network.data_config
        with (
            evaluation_loader(options, run.data.evaluation, config, run.device, batch) as loader,
            naming_the_batch(batch, run.device, LESS_IN_EVALUATION),
        ):
            metrics = evaluate(
                model,
                loader,
                device=run.device,
                autocast=run.optimisation.stepper.autocast,
                channels_last=options.channels_last,
                tta=options.tta,
                description="evaluating the best model",
                record=recorder.add,
                task=task,
            )
        predictions = recorder.predictions(run.data.evaluation, options.val_split, run.data.class_names)
        save_predictions(predictions, run.folder / FILE)
    segments = closed(run.segments, run.trained - 1)
    result = {
        **{key: metrics.get(key) for key in (*task.metrics, "loss", "count")},
        **{key: value for key, value in metrics.items() if key == "without_positives"},
        "method": run.final_method,
        "epoch": checkpoint["epoch"],
        "epochs": run.trained,
        "stopped": run.stopped or None,
        "switched_at": run.protocol.schedule.switched_at if run.protocol.schedule else None,
        "model": options.model,
        "split": options.val_split,
        "tta": options.tta,
        "seed": options.seed if run.trains else (run.start.settings or {}).get("seed"),
        "parameters": sum(p.numel() for p in model.parameters()),
        "skipped_updates": sum(int(row.get("skipped") or 0) for row in run.rows),
        "eigensolver_fallbacks": sum(int(row.get("fallbacks") or 0) for row in run.rows),
        "wall_seconds": round(run.seconds, 1),
        "command": segments[-1]["command"],
        "versions": segments[-1].get("versions"),
        "started_from": run.started_from,
        "data": data_of(run),
        "segments": segments,
    }
    if run.rows:  # none where the checkpoint of a fully trained run was copied alone
        draw_curves(run.folder / "summary.csv", run.folder / "curves.png")
    text = _outcome(run, result)
    if report is not None:
        report(run, result, predictions)
    if run.trains:
        write_history(run.folder, segments)
    if run.trains or not _has_result(run):
        # The last of all: it says that the folder is complete.
        save_text(run.folder / RESULT, json_text(result))
    if note := unranked_note(run, result["epoch"]):
        run.progress.say(note)
    run.progress.say(text)


def is_finished(run: Run) -> bool:
    """Whether the run folder holds the results of these epochs and their model, so that there is nothing to add."""
    return _has_result(run) and ((run.folder / "model").is_dir() or not _has_folder(run))


def check_model_place(run: Run) -> None:
    """Checks before the training of a run, as `check_model_folder`, that its model can be saved at the end."""
    if _has_folder(run):
        check_model_folder(run.folder / "model")


def _has_result(run: Run) -> bool:
    try:
        result = json.loads((run.folder / RESULT).read_text(encoding="utf-8"))
        epochs, segments = result["epochs"], result.get("segments")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    past = json.loads(json.dumps(past_segments(run.start.checkpoint), default=str))
    return epochs > run.trained or (epochs == run.trained and segments in (None, past))


def _has_folder(run: Run) -> bool:
    # timm itself cannot build a backbone with an undilated stride 1: a folder would load as another network.
    return run.options.last_stride != 1 or bool(find_map_pools(run.model))


def nothing_to_train(run: Run) -> str:
    """What a command says that finds all epochs trained and the results written."""
    changed = differences(run.start.settings, run.options)
    ignored = f" ({describe_differences(changed)} has no effect)" if changed else ""
    best = checkpoint_in(run.folder) or run.start.path
    trained, larger = f"All {run.epochs} epochs", "--epochs"
    if run.stopped:
        trained, larger = f"{run.trained} epochs", "--patience" if run.stopped == PATIENCE else "--time-limit"
    return (
        f"{trained} of {run.folder} are trained and its results written; nothing is changed{ignored}. "
        f"A larger {larger} trains on; timm-gcp validate --checkpoint {best} evaluates it again."
    )


def _ranked_by_average(run: Run, checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint of this run, or of one that it continues, was evaluated with averaged weights."""
    record = checkpoint.get("gcp")
    if isinstance(record, Mapping) and "ema" in record:
        return bool(record["ema"])
    return run.optimisation.average is not None


def _outcome(run: Run, result: Mapping[str, Any]) -> str:
    """Saves the model folder, and says what came out."""
    options, model = run.options, run.model
    text = f"Best epoch {result['epoch'] + 1}"
    if result["loss"] is not None:
        text += f": {options.task.describe(result)}"
    if result["tta"] and result["loss"] is not None:
        text += f" with --tta {result['tta']}"
    if result["method"]:
        text += f" under {result['method']}"
    if not _has_folder(run):
        return f"{text}. No model folder: timm has no undilated stride 1 for {options.model}; use the checkpoint."
    keys = (*options.task.metrics, "loss", "tta", "method", "epoch")
    shown = {key: result[key] for key in keys if result[key] not in (None, "")}
    told = about(run, result)
    try:
        folder = save_folder(
            model,
            run.folder / "model",
            class_names=run.data.class_names,
            metrics=shown,
            data_config=run.network.data_config,
            model_args=options.model_kwargs or {},
            origin=origin_text(told["training"]),
            about=told,
        )
    except (OSError, SafetensorError) as error:
        raise GCPError(
            f"Cannot write the model folder {run.folder / 'model'} ({one_line(error)}): make room there; training is "
            "done, so --resume auto only writes it again."
        ) from error
    return f"{text}. Model folder: {loading_code(architecture(model), folder)}"
