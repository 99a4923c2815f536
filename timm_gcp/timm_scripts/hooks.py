"""Replaces functions of timm while one of its scripts runs, so that the script follows the hybrid protocol.

The script itself stays as it is. While it is loaded and runs, a few names of timm's are replaced: the model factory
registers our models on demand and remembers what it made, the averages of weights are remembered, the scheduler that
the script makes and steps moves the protocol with it, and the ONNX exporter is given a model without an eigensolver.
"""

import argparse
import contextlib
import inspect
import logging
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any
from unittest.mock import patch

import timm
import torch
from timm.scheduler import scheduler_factory
from timm.utils import ModelEmaV2, ModelEmaV3, is_primary, onnx
from torch import nn
from torch.onnx.errors import UnsupportedOperatorError

from ..data.timm_differences import timm_differences
from ..errors import GCPError
from ..hybrid import HybridOptions, HybridSchedule, base_learning_rate, preview_learning_rates
from ..models.named import register_named
from ..onnx.pool import with_eigenfree_pools
from ..pooling import find_pools
from ..text import first_line
from ..training.scheduler import warn_of_warmup
from ..weights.file import load_file
from .saver import ScriptSaver

__all__ = ["ScriptHooks"]

_logger = logging.getLogger(__name__)


class ScriptHooks:
    """The replacements for one run of a script.

    Attributes:
        args: the script's arguments with ours, once it has parsed them.
        schedule: the protocol, once the script has made its scheduler; None where there is none.
        scheduled: whether the script has made a scheduler.
    """

    def __init__(self) -> None:
        self.args = argparse.Namespace()
        self.schedule: HybridSchedule | None = None
        self.scheduled = False
        # Scripts that try many models must be able to free them.
        self._models: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._averages: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """timm's names are ours inside, and timm's own again afterwards."""
        create_model = self._model_factory(timm.create_model)
        make_scheduler = self._scheduler_factory(scheduler_factory.create_scheduler_v2)
        create_dataset = self._dataset_factory(timm.data.create_dataset)
        with contextlib.ExitStack() as stack:
            for module in (timm, timm.models):
                stack.enter_context(patch.object(module, "create_model", create_model))
            for module in (timm.scheduler, scheduler_factory):
                stack.enter_context(patch.object(module, "create_scheduler_v2", make_scheduler))
            for average in (ModelEmaV2, ModelEmaV3):
                stack.enter_context(patch.object(average, "__init__", self._remembering(average.__init__)))
            stack.enter_context(patch.object(timm.data, "create_dataset", create_dataset))
            stack.enter_context(patch.object(timm.utils, "CheckpointSaver", self._make_saver))
            stack.enter_context(patch.object(onnx, "onnx_export", _exporting_eigenfree(onnx.onnx_export)))
            yield

    def extend(self, parser: argparse.ArgumentParser, add_options: Callable[[Any], None] | None) -> None:
        """Adds our options to a script's parser, and takes note of what it parses.

        Args:
            parser: the script's.
            add_options: adds the options of the hybrid protocol to an argument group; None for a script that does not
                train.

        Raises:
            GCPError: the script has options of these names.
        """
        if add_options is not None:
            try:
                add_options(parser.add_argument_group("Hybrid protocol (timm_gcp)"))
            except argparse.ArgumentError as error:
                raise GCPError(
                    f"{parser.prog} has an option of the same name as one of ours ({error}); this version of timm_gcp "
                    "cannot wrap it: update timm_gcp, or use the script of another timm."
                ) from error
        if parser.get_default("device") == "cuda" and not torch.cuda.is_available():
            parser.set_defaults(device="cpu")  # timm's default ends in an assertion of torch's
            _logger.warning("%s runs on the CPU: torch finds no CUDA device.", parser.prog)
        parse = parser.parse_known_args

        def parse_known_args(*args: Any, **kwargs: Any) -> tuple[argparse.Namespace, list[str]]:
            self.args, rest = parse(*args, **kwargs)
            if add_options is not None:
                self._options().check()
            for option in ("model", "kd_model_name"):
                name = getattr(self.args, option, None)
                # Hub models and folders are looked into only when they are created.
                if isinstance(name, str) and ":" not in name:
                    register_named(name)
            return self.args, rest

        parser.parse_known_args = parse_known_args  # type: ignore[method-assign,assignment]

    def _options(self) -> HybridOptions:
        given = vars(self.args)
        return HybridOptions(**{each.name: given[each.name] for each in fields(HybridOptions) if each.name in given})

    def _model_factory(self, original: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        def create_model(model_name: str, *args: Any, **kwargs: Any) -> nn.Module:
            register_named(model_name)
            model = original(model_name, *args, **kwargs)
            self._models.add(model)
            return model

        return create_model

    def _dataset_factory(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """timm's own reading, which stays as it is; where ours would differ, it says so."""

        def create_dataset(*args: Any, **kwargs: Any) -> Any:
            dataset = original(*args, **kwargs)
            if self._is_first():
                for difference in timm_differences(dataset):
                    _logger.warning(difference)
            return dataset

        return create_dataset

    def _remembering(self, original: Callable[..., None]) -> Callable[..., None]:
        def __init__(average: Any, *args: Any, **kwargs: Any) -> None:
            original(average, *args, **kwargs)
            self._averages.add(average.module)
            if self.schedule is not None and find_pools(average.module):
                self.schedule.add(average.module)

        return __init__

    def _make_saver(self, *args: Any, **kwargs: Any) -> ScriptSaver:
        return ScriptSaver(lambda: self.schedule, *args, **kwargs)

    def _scheduler_factory(self, original: Callable[..., tuple[Any, int]]) -> Callable[..., tuple[Any, int]]:
        def create_scheduler_v2(optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> tuple[Any, int]:
            scheduler, epochs = original(optimizer, *args, **kwargs)
            self.scheduled = True
            if scheduler is not None:
                warn_of_warmup(getattr(self.args, "warmup_epochs", None) or 0, epochs)
            # A script whose parser does not have our options is none that trains.
            if getattr(self.args, "hybrid", False) is False:
                return scheduler, epochs
            schedule = self._options().schedule(self._trained(optimizer))
            if schedule is None:
                return scheduler, epochs
            if scheduler is None:
                raise GCPError(
                    "This --sched gives no scheduler, so the hybrid protocol has nothing to follow; choose another, or "
                    "train with one method (--no-hybrid)."
                )
            for average in self._averages:
                if find_pools(average):
                    schedule.add(average)
            given = inspect.signature(original).bind(optimizer, *args, **kwargs)
            given.apply_defaults()
            per_update = not given.arguments["step_on_epochs"]
            updates = given.arguments["updates_per_epoch"] if per_update else None

            def make(target: torch.optim.Optimizer) -> Any:
                return original(target, *args, **kwargs)

            start = self._take_up(schedule)
            lrs = preview_learning_rates(optimizer, make, epochs, updates)
            schedule.check(lrs, epochs, updates)
            _go_to(schedule, start, lrs, updates, base_learning_rate(optimizer))
            self.schedule = schedule
            self._say(schedule.describe())
            self._drive(scheduler, optimizer, epochs, updates)
            return scheduler, epochs

        return create_scheduler_v2

    def _trained(self, optimizer: torch.optim.Optimizer) -> nn.Module:
        """The model that the optimiser trains; a teacher, for one, is made by the same factory."""
        optimised = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for model in self._models:
            if any(id(parameter) in optimised for parameter in model.parameters()):
                return model
        raise GCPError(
            "The script trains a model that timm's create_model did not make, so the hybrid protocol cannot follow it; "
            "make it by create_model, or train with one method (--no-hybrid)."
        )

    def _take_up(self, schedule: HybridSchedule) -> int:
        """The epoch at which the script starts; what a resumed checkpoint tells of the switch goes to the schedule."""
        given, path = getattr(self.args, "start_epoch", None), getattr(self.args, "resume", None)
        if given is not None:
            return int(given)  # as in timm, it wins over the checkpoint's
        checkpoint = load_file(path) if path else None
        if not isinstance(checkpoint, dict) or "epoch" not in checkpoint:
            return 0
        if "hybrid" in checkpoint:
            schedule.load_state_dict(checkpoint["hybrid"])
        # Version 1 counted the epoch up before it was saved.
        return int(checkpoint["epoch"]) + (checkpoint.get("version", 1) > 1)

    def _drive(self, scheduler: Any, optimizer: torch.optim.Optimizer, epochs: int, updates: int | None) -> None:
        """Lets the scheduler's own steps move the protocol."""
        schedule, original = self.schedule, type(scheduler)
        assert schedule is not None

        def advance(epoch: int, update: int | None) -> None:
            lr = base_learning_rate(optimizer)
            if epoch < epochs and schedule.step(lr, epoch, update):
                self._say(f"Epoch {epoch}: method {schedule.warm} → {schedule.final} at lr {lr:.3g}")

        def step(self: Any, epoch: int, *args: Any, **kwargs: Any) -> None:
            original.step(self, epoch, *args, **kwargs)
            advance(epoch, epoch * updates if updates else None)

        def step_update(self: Any, num_updates: int, *args: Any, **kwargs: Any) -> None:
            original.step_update(self, num_updates, *args, **kwargs)
            if updates:
                # The last update of an epoch still belongs to it; ``step`` opens the next one.
                advance((num_updates - 1) // updates, num_updates)

        # A subclass, not a wrapper: the object and its state stay what the script expects.
        scheduler.__class__ = type(original.__name__, (original,), {"step": step, "step_update": step_update})

    def _say(self, text: str) -> None:
        if self._is_first():
            _logger.info(text)

    def _is_first(self) -> bool:
        return not hasattr(self.args, "rank") or is_primary(self.args)


def _exporting_eigenfree(original: Callable[..., Any]) -> Callable[..., Any]:
    def onnx_export(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not find_pools(model):
            return original(model, *args, **kwargs)
        try:
            return original(with_eigenfree_pools(model), *args, **kwargs)  # ONNX has no eigensolver
        except UnsupportedOperatorError as error:
            raise GCPError(
                f"torch's older exporter cannot export a covariance pool ({first_line(error)}); add --dynamo, or use "
                "timm-gcp export."
            ) from error

    return onnx_export


def _go_to(schedule: HybridSchedule, start: int, lrs: list[float] | None, updates: int | None, lr: float) -> None:
    """Sets the method in force at the start of an epoch: by the known rates up to there, or the present one."""
    steps = updates or 1
    if lrs is None:
        schedule.step(lr, start)
        return
    for done in range(min(start * steps + 1, len(lrs))):
        schedule.step(lrs[done], done // steps, done if updates else None)
