"""Loads the state of an optimiser from a checkpoint, under settings that may have changed since."""

import dataclasses
import logging
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import nn

from ..errors import GCPError
from ..text import first_line
from .optimizer import make_optimizer
from .options import OptimizerOptions

__all__ = ["load_optimizer"]

_logger = logging.getLogger(__name__)

# The options that an optimiser and its parameter groups are made of.
_ARGUMENTS = (
    *("lr", "opt", "opt_eps", "opt_betas", "momentum", "weight_decay", "opt_kwargs", "classifier_lr_mult"),
    *("layer_decay", "layer_decay_min_scale", "layer_decay_no_opt_scale", "optimal_lr"),
)


def load_optimizer(
    options: OptimizerOptions,
    before: Mapping[str, Any] | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Any,
    path: str,
) -> None:
    """Loads an optimiser's state from a checkpoint; settings given anew (rate, decay, momentum, …) replace the saved.

    With unchanged settings the saved state is loaded as it is.

    Args:
        options: of this run.
        before: options of the run that wrote the checkpoint, None where it does not tell.
        model: the model that the optimiser was made for.
        optimizer: the optimiser, fresh from `make_optimizer`.
        state: what the checkpoint holds of its optimiser.
        path: the checkpoint, for messages.

    Raises:
        GCPError: the state is that of another optimiser, or a changed setting would need another state.
    """
    saved = {"optimal_lr": False, **before} if before else {}  # older checkpoints lack it
    known = {name: value for name, value in saved.items() if name in _ARGUMENTS}
    if known.get("lr") is None:
        known.pop("lr", None)
    changed = [name for name, value in known.items() if value != getattr(options, name)]
    remedy = "give the run's own --opt arguments, or --no-resume-opt, which starts the optimiser anew"
    if "opt" in changed:
        raise GCPError(
            f"{path} holds the state of --opt {known['opt']}, which --opt {options.opt} cannot take up; {remedy}."
        )
    try:
        if before is None:
            _logger.warning(
                "%s does not tell the settings of its run: learning rate, momentum and weight decay go on as saved.",
                path,
            )
        elif changed:
            old = make_optimizer(dataclasses.replace(_part(options), **known), model)
            state = _merged(old, optimizer, state, path)
        optimizer.load_state_dict(state)
    except GCPError:
        raise
    except (KeyError, ValueError, RuntimeError, AttributeError, TypeError, IndexError) as error:
        raise GCPError(f"{path} holds no state that fits this optimiser ({first_line(error)}); {remedy}.") from error


def _part(options: OptimizerOptions) -> OptimizerOptions:
    """The options of the optimiser alone: those of a whole run have fields that cannot be replaced."""
    return OptimizerOptions(**{each.name: getattr(options, each.name) for each in dataclasses.fields(OptimizerOptions)})


def _merged(old: torch.optim.Optimizer, new: torch.optim.Optimizer, saved: Mapping[str, Any], source: str) -> Any:
    """The saved state for the groups of the new optimiser.

    Args:
        old: made from the options of the run that saved the state: tells which parameter has which number.
        new: made from the options of this run.
        saved: the state.
        source: the checkpoint's name.
    """
    if [len(g["params"]) for g in old.param_groups] != [len(g["params"]) for g in saved["param_groups"]]:
        raise ValueError("its parameter groups differ")
    place: dict[int, tuple[int, int]] = {}  # parameter → its group and its number in the saved state
    for index, (group, kept) in enumerate(zip(old.param_groups, saved["param_groups"], strict=True)):
        place.update({id(p): (index, n) for p, n in zip(group["params"], kept["params"], strict=True)})
    state, groups, number = {}, [], 0
    for fresh in new.param_groups:
        numbers = range(number, number + len(fresh["params"]))
        number += len(fresh["params"])
        for n, parameter in zip(numbers, fresh["params"], strict=True):
            if id(parameter) not in place:
                raise ValueError("parameters are trained now that were frozen before")
            if (was := place[id(parameter)][1]) in saved["state"]:
                state[n] = saved["state"][was]
        index = place[id(fresh["params"][0])][0]
        settings = _group(old.param_groups[index], fresh, saved["param_groups"][index], source)
        groups.append({**settings, "params": list(numbers)})
    return {"state": state, "param_groups": groups}


def _group(old: Mapping[str, Any], fresh: Mapping[str, Any], kept: Mapping[str, Any], source: str) -> dict[str, Any]:
    """One group's settings: those that have not changed as they were saved, since some optimisers keep state there."""
    settings = {name: value for name, value in kept.items() if name != "params"}
    if "lr_scale" not in fresh:  # timm's schedulers multiply by it
        settings.pop("lr_scale", None)
    for name in fresh.keys() - {"params", "param_names", "lr", "initial_lr"}:
        if name in old and old[name] == fresh[name]:
            continue
        if not _numbers(fresh[name]) or not _numbers(old.get(name, 1.0)):
            raise GCPError(
                f"{source} was trained with the optimiser's {name} {old.get(name)}, which cannot become {fresh[name]} "
                "within a run; give the same, or --no-resume-opt, which starts the optimiser anew."
            )
        settings[name] = fresh[name]
    base = [float(group.get("initial_lr", group["lr"])) for group in (old, fresh)]
    if base[0] != base[1] or old.get("lr_scale", 1.0) != fresh.get("lr_scale", 1.0):
        # A scheduler starts from initial_lr; without one, lr is what holds.
        settings["lr"] = fresh["lr"]
        if "initial_lr" in settings or "initial_lr" in fresh:
            settings["initial_lr"] = base[1]
    return settings


def _numbers(value: Any) -> bool:
    values = value if isinstance(value, (tuple, list)) else [value]
    return all(isinstance(each, Real) and not isinstance(each, bool) for each in values)
