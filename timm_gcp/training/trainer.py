"""The training loop: epochs, updates, evaluation and checkpoints of one run."""

import itertools
import math
import time
from collections.abc import Generator
from dataclasses import asdict, replace

import numpy as np
import torch
from timm.utils import distribute_bn, random_seed

from ..data.loaders import LoaderError
from ..distributed import from_first, process_count, summed
from ..errors import GCPError
from ..hybrid import base_learning_rate
from ..spectral.eigh import take_retried
from .checkpoint import RunSaver
from .epoch_position import Position
from .evaluate import evaluate
from .faults import Batch, Findings, examine, restore
from .interrupt import Interrupt, Interrupted
from .out_of_memory import LESS_IN_EVALUATION, LESS_MEMORY, naming_the_batch
from .records import open_run_folder
from .results import Report, check_model_place, finish, is_finished, nothing_to_train
from .run import Run
from .step import Update
from .stopping import reason_to_stop
from .summary import describe, epoch_line, stop_line, summary_row, write_summary
from .tracking import Tracker, open_tracker

__all__ = ["Trainer", "seed_epoch", "train"]


def train(run: Run, report: Report | None = None) -> int:
    """Trains a run, then evaluates the best model.

    Args:
        run: what ``prepare`` returned.
        report: is called in the first process at the end of the run.

    Returns:
        Exit status: 0, 130 when stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.

    Raises:
        GCPError: a loss or gradient that is not finite, memory that does not suffice, or a full disk.
    """
    if not run.trains and run.processes.by_first(lambda: is_finished(run)):
        run.progress.say(nothing_to_train(run))
        run.processes.leave()
        return 0
    run.processes.by_first(lambda: check_model_place(run))
    last, interrupt = run.folder / "last.pth.tar", Interrupt()
    try:
        status = _fit(run, interrupt)
    except KeyboardInterrupt:
        run.progress.say(f"Stopped; go on with --resume {last}" if last.exists() else "Stopped.")
        return interrupt.exit_status if interrupt.requested else 130
    except LoaderError as error:
        if process_count() == 1:
            raise GCPError(f"{error} The run is saved; go on with --resume {last}") from error
        raise
    finally:
        run.loaders.close()
    run.processes.leave()
    if run.processes.first and not status:
        finish(run, report)
    return status


def _fit(run: Run, interrupt: Interrupt) -> int:
    """Trains to the last epoch.

    Returns:
        0, or the exit status of a run that was asked to stop.
    """
    with interrupt:
        try:
            with naming_the_batch(run.options.batch_size, run.device, LESS_MEMORY):
                Trainer(run, interrupt).fit()
        except Interrupted:
            run.progress.say(f"Stopped; go on with --resume {run.folder / 'last.pth.tar'}")
            return interrupt.exit_status
    return 0


def seed_epoch(seed: int, epoch: int, rank: int, *part: int) -> None:
    """Seeds every random generator for one epoch, or a part of it, independently of what ran before.

    Args:
        seed: of the run.
        epoch: from 0.
        rank: of this process.
        *part: numbers that tell the parts of the epoch apart.
    """
    random_seed(int(np.random.SeedSequence([seed, epoch, rank, *part]).generate_state(1)[0]))


class Trainer:
    """Trains a run: `fit` calls `epoch`, which calls `update` for every update and `end_epoch` at its end.

    All processes make the same updates, switch the method at the same one and stop after the same one. A checkpoint is
    written at the end of every epoch and wherever the run is stopped; training continues from it bit for bit.

    Args:
        run: what ``prepare`` returned.
        interrupt: signals that ask the run to stop.
    """

    def __init__(self, run: Run, interrupt: Interrupt) -> None:
        self.run = run
        self.interrupt = interrupt
        self.stepper = run.optimisation.stepper
        self.loader = run.loaders.train
        self.updates_per_epoch = self.stepper.updates(len(self.loader))
        self.saver: RunSaver | None = None
        self.tracker: Tracker | None = None
        self._epoch_began = 0.0
        for each in (self.loader, run.loaders.evaluation):
            if each is not None:
                each.awaiting = interrupt.awaiting

    @property
    def lr(self) -> float:
        """Learning rate of the base group in force."""
        return base_learning_rate(self.stepper.optimizer)

    def fit(self) -> None:
        """Trains from the first epoch of this run to the last, or to the one after which it ends early.

        Raises:
            GCPError: a loss or gradient is not finite, or a label lies outside the model's classes.
            Interrupted: a process was asked to stop; the checkpoint is written.
            LoaderError: the loader processes failed; the checkpoint is written.
        """
        run = self.run
        if run.processes.first:
            self.saver = open_run_folder(run)
            run.progress.say(describe(run))
            self.tracker = open_tracker(run)
        try:
            while run.goes_on:
                self.epoch(run.trained)
        finally:
            if self.tracker is not None:
                self.tracker.close()

    def epoch(self, epoch: int) -> None:
        """Trains and evaluates one epoch, or what is left of it.

        Args:
            epoch: from 0.
        """
        self.begin_epoch(epoch)
        try:
            self.train_epoch(epoch)
            trained, rate = totals(self.run.position, self.run.device), self.lr
            self._share_statistics()
            evaluated = self.evaluate()
        except (Interrupted, LoaderError) as error:
            stopped = isinstance(error, Interrupted)
            if not stopped and process_count() > 1:
                raise  # the other processes do not take part in a checkpoint
            self.save_within(epoch)
            if not stopped and self.interrupt.requested:
                raise Interrupted from error  # the signal ended the loader processes too
            raise
        self.end_epoch(epoch, trained, evaluated, rate)

    def begin_epoch(self, epoch: int) -> None:
        """Seeds the epoch, switches the method if it is time to, and turns mixing off where the options say so."""
        run, options = self.run, self.run.options
        self._epoch_began = time.monotonic() - run.position.seconds
        seed_epoch(options.seed, epoch, run.processes.rank)
        self.loader.set_epoch(epoch)
        if not run.position.batches:
            self._switch(epoch, epoch * self.updates_per_epoch if options.sched_on_updates else None)
        if options.mixup_off_epoch and epoch >= options.mixup_off_epoch:
            run.loaders.stop_mixing()

    def _switch(self, epoch: int, update: int | None) -> None:
        schedule = self.run.protocol.schedule
        if schedule is not None and schedule.step(self.lr, epoch, update=update):
            self.run.progress.say(f"epoch {epoch + 1}: method {schedule.warm} → {schedule.final}", f"lr {self.lr:.3g}")

    def train_epoch(self, epoch: int) -> None:
        """Makes the updates of the epoch that are left."""
        run, position = self.run, self.run.position
        self.stepper.train_mode()
        if position.batches < len(self.loader):
            done = math.ceil(position.batches / self.stepper.accumulate)
            run.progress.begin(epoch, self.updates_per_epoch, done)
        began, before = time.monotonic(), position.loss_count
        batches = self._batches(epoch)
        try:
            for group in batches:
                stopping = self.update(epoch, group)
                done = math.ceil(position.batches / self.stepper.accumulate)
                seen = (position.loss_count - before) * process_count()
                top1 = position.top1 if position.right_count else None
                run.progress.update(done, position.loss, top1, seen / (time.monotonic() - began), self.lr)
                if stopping:
                    raise Interrupted
        except torch.linalg.LinAlgError as error:
            raise GCPError(
                "The eigensolver did not converge, and a compiled model cannot solve a matrix by itself: go on without "
                "--torchcompile (--resume auto)."
            ) from error
        finally:
            batches.close()
            run.progress.end()
        if hasattr(self.stepper.optimizer, "sync_lookahead"):
            self.stepper.optimizer.sync_lookahead()

    def _batches(self, epoch: int) -> Generator[list[Batch], None, None]:
        """The batches of each update that is left, each loaded from a seed of its own."""
        seed, rank, behind = self.run.options.seed, self.run.processes.rank, self.run.position.batches
        if behind >= len(self.loader):
            return
        group: list[Batch] = []
        iterator = iter(self.loader)
        for index in itertools.count():
            if index:  # the epoch's own seed counts for the first
                seed_epoch(seed, epoch, rank, index, 0)
            try:
                images, targets = next(iterator)
            except StopIteration:
                return
            if index < behind:
                continue
            group.append(Batch(index, images, targets))
            if (index + 1) % self.stepper.accumulate == 0 or index + 1 == len(self.loader):
                yield group
                group = []

    def update(self, epoch: int, batches: list[Batch]) -> bool:
        """Makes one update of the weights, and moves what follows the updates.

        Args:
            epoch: from 0.
            batches: of the update.

        Returns:
            Whether a process was asked to stop.

        Raises:
            GCPError: the update cannot be made because loss or gradient is not finite.
        """
        run, options = self.run, self.run.options
        buffers = [buffer.clone() for buffer in run.model.buffers()] if run.faults.skip else []
        made = self.stepper.update(
            batches, run.device, lambda batch: self._prepare(epoch, batch), lambda: self.interrupt.requested
        )
        self._count(made)
        run.position.fallbacks += take_retried()
        number = epoch * self.updates_per_epoch + batches[-1].index // self.stepper.accumulate
        if made.fault:
            if run.faults.skip:
                restore(run.model, buffers)
            self._report(made, epoch, number, batches)
            run.position.skipped += 1
        else:
            run.faults.passed()
        run.position.batches = batches[-1].index + 1
        if run.optimisation.average is not None:
            run.optimisation.average.update(run.model, step=number + 1)
        run.optimisation.scheduler.after_update(number + 1, run.position.loss)
        if options.sched_on_updates:
            self._switch(epoch, number + 1)
        if options.recovery_interval and (number + 1) % options.recovery_interval == 0:
            self.save_within(epoch)
        return made.stopping

    def _prepare(self, epoch: int, batch: Batch) -> None:
        """Seeds the forward pass of a batch, and moves and mixes its images."""
        run = self.run
        seed_epoch(run.options.seed, epoch, run.processes.rank, batch.index, 1)
        channels_last = run.options.channels_last
        batch.images, batch.targets = run.loaders.ready(batch.images, batch.targets, run.device, channels_last)

    def _count(self, made: Update) -> None:
        position = self.run.position
        for loss, right, size in zip(made.losses, made.right, made.sizes, strict=True):
            if math.isfinite(loss):
                position.loss_sum += loss * size
                position.loss_count += size
            if not math.isnan(right):
                position.right_sum += 100 * right * size
                position.right_count += size

    def _report(self, made: Update, epoch: int, number: int, batches: list[Batch]) -> None:
        """Examines the batches of an update that cannot be made."""
        run = self.run

        def look(batch: Batch) -> Findings:
            seed_epoch(run.options.seed, epoch, run.processes.rank, batch.index, 1)
            return examine(run.model, batch, self.stepper.loss, self.stepper.autocast, gradient=made.finite_loss)

        # The second pass is not part of the training: the monitor does not see it, its fallbacks are not counted.
        monitor = run.protocol.monitor
        if monitor is not None:
            monitor.close()
        run.faults.met(made.fault, batches, look, epoch=epoch, update=number + 1, method=run.method)
        if monitor is not None:
            monitor.attach()
        take_retried()

    def _share_statistics(self) -> None:
        """Averages or copies batch norm's statistics over the processes."""
        run, options = self.run, self.run.options
        if not (run.processes.distributed and options.dist_bn):
            return
        average = run.optimisation.average
        for module in (run.network.wrapped, average.module if average else None):
            if module is not None:
                distribute_bn(module, run.processes.world_size, options.dist_bn == "reduce")

    def evaluate(self) -> dict[str, float]:
        """Evaluates the model, or the average of its weights; empty without an evaluation split."""
        run = self.run
        if run.loaders.evaluation is None:
            return {}
        average = run.optimisation.average
        with naming_the_batch(run.options.evaluation_batch_size, run.device, LESS_IN_EVALUATION):
            return evaluate(
                average.module if average else run.network.wrapped,
                run.loaders.evaluation,
                device=run.device,
                autocast=self.stepper.autocast,
                channels_last=run.options.channels_last,
                description="evaluating" if run.processes.first else "",
                between=lambda: self.interrupt.check(run.device),
                task=run.options.task,
            )

    def end_epoch(self, epoch: int, trained: Position, evaluated: dict[str, float], rate: float) -> None:
        """Moves scheduler and protocol to the next epoch, saves the checkpoint and decides whether the run ends early.

        Args:
            epoch: from 0.
            trained: totals over all processes.
            evaluated: what `evaluate` returned.
            rate: learning rate after the last update.
        """
        run = self.run
        conditioning = run.protocol.monitor.summary() if run.protocol.monitor else {}
        if run.protocol.schedule is not None and conditioning:
            run.protocol.schedule.observe(conditioning, epoch)
        metric = evaluated[run.metric] if evaluated else trained.loss
        run.optimisation.scheduler.after_epoch(epoch + 1, metric)
        seconds = time.monotonic() - self._epoch_began
        run.seconds += seconds
        run.position, run.trained = Position(), epoch + 1
        best_epoch = None
        if self.saver is not None:
            row = summary_row(run, epoch, trained, evaluated, rate, conditioning, seconds)
            run.rows.append(row)
            write_summary(run)
            if self.tracker is not None:
                self.tracker.add(row)
            best, best_epoch = self.saver.save_checkpoint(epoch, metric if run.protocol.ranks else None)
            run.progress.say(*epoch_line(run, row, best, best_epoch))
        if run.goes_on and (run.options.patience or run.options.time_limit):
            # The first process has the ranking, and its clock counts for all.
            run.stopped = from_first(reason_to_stop(run.options, epoch, best_epoch, run.seconds), run.device)
            if run.stopped:
                run.progress.say(stop_line(run))

    def save_within(self, epoch: int) -> None:
        """Saves a checkpoint within an epoch; every process has to call it."""
        run = self.run
        run.position.seconds = time.monotonic() - self._epoch_began
        within = {
            "position": asdict(totals(run.position, run.device)),
            "of": len(self.loader),
            "monitor": run.protocol.monitor.state_dict() if run.protocol.monitor else None,
        }
        if self.saver is not None:
            self.saver.save_last(epoch - 1, within)


def totals(position: Position, device: torch.device) -> Position:
    """The position in the epoch with its numbers summed over all processes; every process has to call it."""
    names = ("loss_sum", "loss_count", "right_sum", "right_count", "fallbacks")
    sums = summed(torch.tensor([getattr(position, name) for name in names], dtype=torch.float64), device).tolist()
    whole = replace(position, **dict(zip(names, sums, strict=True)))
    for name in ("loss_count", "right_count", "fallbacks"):
        setattr(whole, name, int(getattr(whole, name)))
    return whole
