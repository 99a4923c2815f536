"""Trains a run from its first epoch to its last, then evaluates the best model."""

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from timm.utils import (
    distribute_bn,
    is_primary,
    random_seed,
)

from ..data.loaders import LoaderError
from ..distributed import by_first, process_count
from ..errors import GCPError
from ..files import save_text
from ..hybrid.preview import base_learning_rate
from ..models.folder import model_arguments
from ..pooling import find_pools
from .checkpoint import RunSaver
from .epoch_position import Position
from .evaluate import evaluate
from .history import past_segments, say_differences, segment, write_history
from .interrupt import Interrupt, Interrupted
from .out_of_memory import naming_the_batch
from .provenance import data_record, start_of
from .results import finish, is_finished, nothing_to_train
from .resume import checkpoint_args, differences
from .run import Run
from .step import totals, train_one_epoch
from .summary import describe, epoch_line, read_summary, summary_row, write_summary

__all__ = ["seed_epoch", "train"]

_LESS_MEMORY = (
    "lower -b (--grad-accum-steps N keeps the images of an update) or --img-size, or add --amp or --grad-checkpointing"
)


def train(run: Run) -> int:
    """Trains, then evaluates the best model.

    Returns:
        Exit status: 0, 130 when stopped by Ctrl-C, 143 by SIGTERM.

    Raises:
        GCPError: a loss or gradient that is not finite, or a full disk.
    """
    args, last, status = run.args, run.folder / "last.pth.tar", 0
    if not run.trains and by_first(lambda: is_finished(run), is_primary(args), run.device):
        run.progress.say(nothing_to_train(run))
        _leave(args)
        return 0
    interrupt = Interrupt()
    try:
        with interrupt:
            try:
                with naming_the_batch(args.batch_size, run.device, _LESS_MEMORY):
                    _train(run, interrupt)
            except Interrupted:
                run.progress.say(f"Stopped; go on with --resume {last}")
                status = interrupt.exit_status
    except KeyboardInterrupt:
        run.progress.say(f"Stopped; go on with --resume {last}" if last.exists() else "Stopped.")
        return interrupt.exit_status if interrupt.requested else 130
    except LoaderError as error:
        if process_count() == 1:
            raise GCPError(f"{error} The run is saved; go on with --resume {last}") from error
        raise
    finally:
        for loader in (run.train_loader, run.eval_loader):
            if loader is not None:
                loader.close()
    finished = is_primary(args) and not status
    _leave(args)
    if finished:
        finish(run)
    return status


def _leave(args: argparse.Namespace) -> None:
    if args.distributed:
        dist.barrier()
        dist.destroy_process_group()


def seed_epoch(seed: int, epoch: int, rank: int, *part: int) -> None:
    """Seeds every generator for one epoch, or a part of it, so that chance does not depend on what ran before."""
    random_seed(int(np.random.SeedSequence([seed, epoch, rank, *part]).generate_state(1)[0]))


def _train(run: Run, interrupt: Interrupt) -> None:
    args, primary = run.args, is_primary(run.args)
    saver = _open_folder(run) if primary else None
    optimizer, loader = run.stepper.optimizer, run.train_loader
    updates = run.stepper.updates(len(loader))
    for each in (loader, run.eval_loader):
        if each is not None:
            each.awaiting = interrupt.awaiting
    if primary:
        run.progress.say(describe(run))

    def lr() -> float:
        return base_learning_rate(optimizer)

    def announce(epoch: int) -> None:
        assert run.schedule is not None
        run.progress.say(f"epoch {epoch + 1}: method {run.schedule.warm} → {run.schedule.final}", f"lr {lr():.3g}")

    for epoch in range(run.start_epoch, run.epochs):
        began = time.monotonic() - run.position.seconds
        seed_epoch(args.seed, epoch, args.rank)
        for target in (loader.sampler, loader.dataset):
            if hasattr(target, "set_epoch"):
                target.set_epoch(epoch)
        first = epoch * updates if args.sched_on_updates else None
        if run.monitor is not None:
            run.monitor.mark()
        if run.schedule is not None and not run.position.batches and run.schedule.step(lr(), epoch, update=first):
            announce(epoch)
        if args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
            for target in (run.mixup, loader):
                if target is not None and getattr(target, "mixup_enabled", False):
                    target.mixup_enabled = False

        def save_within(epoch: int = epoch, began: float = began) -> None:
            run.position.seconds = time.monotonic() - began
            within = _within(run)
            if saver is not None:
                saver.save_last(epoch - 1, within)

        def after_update(done: int, loss: float, epoch: int = epoch, save: Callable[[], None] = save_within) -> None:
            if run.monitor is not None:
                run.monitor.mark()
            if run.ema is not None:
                run.ema.update(run.plain, step=done)
            if run.scheduler is not None:
                run.scheduler.step_update(num_updates=done, metric=loss)
            if args.sched_on_updates and run.schedule is not None and run.schedule.step(lr(), epoch, update=done):
                announce(epoch)
            if args.recovery_interval and done % args.recovery_interval == 0:
                save()

        try:
            trained = train_one_epoch(
                run.stepper,
                loader,
                run.loss,
                epoch=epoch,
                device=run.device,
                progress=run.progress,
                method=lambda: run.method,
                lr=lr,
                after_update=after_update,
                faults=run.faults,
                position=run.position,
                seed=functools.partial(seed_epoch, args.seed, epoch, args.rank),
                stop=lambda: interrupt.requested,
                autocast=run.autocast,
                prepare=run.mixup,
                channels_last=args.channels_last,
            )
            rate = lr()
            if args.distributed and args.dist_bn:
                for module in (run.model, run.ema.module if run.ema else None):
                    if module is not None:
                        distribute_bn(module, args.world_size, args.dist_bn == "reduce")
            evaluated: dict[str, float] = {}
            if run.eval_loader is not None:
                evaluated = evaluate(
                    run.ema.module if run.ema else run.model,
                    run.eval_loader,
                    device=run.device,
                    autocast=run.autocast,
                    channels_last=args.channels_last,
                    description="evaluating" if primary else "",
                    between=lambda: interrupt.check(run.device),
                )
        except (Interrupted, LoaderError) as error:
            stopped = isinstance(error, Interrupted)
            if not stopped and process_count() > 1:
                raise  # the other processes do not take part in a checkpoint
            if run.monitor is not None:
                run.monitor.rewind()
            save_within()
            if not stopped and interrupt.requested:
                raise Interrupted from error  # the signal ended the loader's processes too
            raise
        conditioning = run.monitor.summary() if run.monitor else {}
        if run.schedule is not None and conditioning:
            run.schedule.observe(conditioning, epoch)
        metric = evaluated[run.metric] if evaluated else trained["loss"]
        if run.scheduler is not None:
            run.scheduler.step(epoch + 1, metric)
        seconds = time.monotonic() - began
        run.seconds += seconds
        run.position = Position()
        if saver is not None:
            row = summary_row(run, epoch, trained, evaluated, rate, conditioning, seconds)
            run.rows.append(row)
            write_summary(run)
            # The warm phase is saved but not ranked: the best model has to be one of the final method.
            ranked = run.schedule is None or run.schedule.switched
            best, best_epoch = saver.save_checkpoint(epoch, metric if ranked else None)
            run.progress.say(*epoch_line(run, row, best, best_epoch))


def _within(run: Run) -> dict[str, Any]:
    """What a checkpoint within an epoch holds beside the others' content; every process has to call it."""
    return {
        "position": asdict(totals(run.position, run.device)),
        "of": len(run.train_loader),
        "monitor": run.monitor.state_dict() if run.monitor else None,
    }


def _open_folder(run: Run) -> RunSaver:
    _record(run)
    if run.progress.log is not None:
        run.progress.log.open(run.folder / "log.txt", run.command)
    saver = RunSaver(
        run.plain,
        run.stepper.optimizer,
        run.args,
        run.folder,
        lambda: _extra_state(run),
        decreasing=run.metric == "loss",
        max_history=run.args.checkpoint_hist,
        model_ema=run.ema.module if run.ema else None,
        amp_scaler=run.stepper.scaler,
    )
    if run.resumed is not None:
        saver.resume(run.resumed, run.args.resume)
        run.rows = read_summary(Path(run.args.resume).parent / "summary.csv", run.start_epoch)
        if run.rows and (run.trains or not (run.folder / "summary.csv").exists()):
            write_summary(run)
    return saver


def _record(run: Run) -> None:
    """Writes down under which settings the run folder is trained; a run that trains nothing adds nothing."""
    run.segments, run.started_from = past_segments(run.resumed), start_of(run)
    changed = differences(checkpoint_args(run.resumed), run.args)
    if changed:
        effect = "" if run.trains else ", without effect: there is nothing to train"
        run.progress.say(f"Settings that differ from the checkpoint's: {say_differences(changed)}{effect}.")
    arguments = run.arguments
    if run.trains:
        start = run.start_epoch, run.position.batches
        run.segments.append(segment(*start, run.command, str(run.device), changed))
    elif (before := Path(run.args.resume).with_name("args.yaml")).is_file():
        arguments = before.read_text(encoding="utf-8")
    if run.trains or not (run.folder / "args.yaml").exists():
        save_text(run.folder / "args.yaml", arguments)
    if run.trains or not (run.folder / "history.json").exists():
        write_history(run.folder, run.segments)


def _extra_state(run: Run) -> dict[str, Any]:
    """What our checkpoints hold beside timm's: enough to build the model again, and to go on."""
    model = run.plain
    config = getattr(model, "pretrained_cfg", None) or {}
    arguments = {**(run.args.model_kwargs or {}), **model_arguments(model)}
    state: dict[str, Any] = {
        "gcp": {
            "architecture": config.get("architecture") or run.args.model,
            "num_classes": run.args.num_classes,
            "model_args": arguments,
            "last_stride": None if find_pools(model) else run.args.last_stride,
            "data_config": dict(run.data_config),
            "class_names": run.class_names,
            "method": run.method,
            "final_method": run.final_method,
            "ema": run.ema is not None,
            "seconds": run.seconds,
            "segments": run.segments,
            "started_from": run.started_from,
            "data": data_record(run),
        }
    }
    if run.schedule is not None:
        state["hybrid"] = run.schedule.state_dict()
    if hasattr(run.scheduler, "lr_scheduler"):
        lrs = [group["lr"] for group in run.stepper.optimizer.param_groups]
        state["plateau"] = {"state": run.scheduler.lr_scheduler.state_dict(), "lrs": lrs}
    return state
