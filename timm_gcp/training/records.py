"""What a run writes of itself before it trains: arguments, history and log, and the content of its checkpoints."""

from pathlib import Path
from typing import Any

from ..files import save_text
from ..map_pool import find_map_pools
from ..models.folder import model_arguments
from .checkpoint import RunSaver
from .history import describe_differences, past_segments, segment, write_history
from .optimizer import default_rate
from .provenance import ALL, data_of, start_of
from .resume import differences
from .run import Run
from .run_folder import RESULT
from .summary import read_summary, write_summary

__all__ = ["open_run_folder"]


def open_run_folder(run: Run) -> RunSaver:
    """Writes the records of a run folder; call it in the first process.

    Returns:
        The saver of the run's checkpoints, with the ranking of the run that is continued.
    """
    _record(run)
    if run.progress.log is not None:
        run.progress.log.open(run.folder / "log.txt", run.command)
    average = run.optimisation.average
    saver = RunSaver(
        run.model,
        run.optimisation.stepper.optimizer,
        run.options,
        run.folder,
        lambda: _state(run),
        decreasing=run.metric == "loss",
        model_ema=average.module if average else None,
        scaler=run.optimisation.stepper.scaler,
    )
    if run.start.checkpoint is not None:
        removed = saver.resume(run.start.checkpoint, run.start.path)
        if removed:
            # The result is of epochs that are trained anew.
            (run.folder / RESULT).unlink(missing_ok=True)
            names = ", ".join(file.name for file in removed)
            run.progress.say(f"Goes on from {run.start.path}; removed checkpoints of epochs after it: {names}.")
        run.rows = read_summary(Path(run.start.path).parent / "summary.csv", run.start.epoch)
        if run.rows and (run.trains or not (run.folder / "summary.csv").exists()):
            write_summary(run)
    return saver


def _record(run: Run) -> None:
    """Writes ``args.yaml`` and ``history.json``; a run that trains nothing changes neither."""
    run.segments, run.started_from = past_segments(run.start.checkpoint), start_of(run)
    changed = differences(run.start.settings, run.options)
    if changed:
        effect = "" if run.trains else ", without effect: there is nothing to train"
        run.progress.say(f"Settings that differ from the checkpoint's: {describe_differences(changed)}{effect}.")
    arguments = run.arguments
    if run.trains:
        begin = run.start.epoch, run.position.batches
        run.segments.append(segment(*begin, run.command, str(run.device), changed))
    elif (before := Path(run.start.path).with_name("args.yaml")).is_file():
        arguments = before.read_text(encoding="utf-8")
    if run.trains or not (run.folder / "args.yaml").exists():
        save_text(run.folder / "args.yaml", arguments)
    if run.range_test is not None:
        run.range_test.save(run.folder, run.options.lr or 0.0, default_rate(run.options, run.processes.world_size))
    if run.trains or not (run.folder / "history.json").exists():
        write_history(run.folder, run.segments)


def _state(run: Run) -> dict[str, Any]:
    """What our checkpoints hold beside timm's: enough to build the model again, and to continue."""
    model, options = run.model, run.options
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    state: dict[str, Any] = {
        "gcp": {
            "architecture": config.get("architecture") or options.model,
            "num_classes": run.data.num_classes,
            "model_args": {**options.model_kwargs, **model_arguments(model)},
            "last_stride": None if find_map_pools(model) else options.last_stride,
            "data_config": dict(run.network.data_config),
            "class_names": run.data.class_names,
            "problem_type": options.task.problem_type,
            "method": run.method,
            "final_method": run.final_method,
            "ema": run.optimisation.average is not None,
            "seconds": run.seconds,
            "segments": run.segments,
            "started_from": run.started_from,
            "trained": options.train_only or ALL,
            "data": data_of(run),
        }
    }
    if run.protocol.schedule is not None:
        state["hybrid"] = run.protocol.schedule.state_dict()
    plateau = run.optimisation.scheduler.state(run.optimisation.stepper.optimizer)
    if plateau is not None:
        state["plateau"] = plateau
    return state
