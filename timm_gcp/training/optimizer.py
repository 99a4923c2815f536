"""Learning rate, parameter groups, optimiser and scheduler of a run, and the check that the switch comes."""

import argparse
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2, optimizer_kwargs, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from torch import nn

from ..errors import GCPError
from ..hybrid.preview import preview_learning_rates
from ..hybrid.schedule import HybridSchedule
from ..text import first_line

_logger = logging.getLogger(__name__)

# timm's warm-up in epochs, and the largest share of a run that it takes where it is not given.
_WARMUP_EPOCHS, _WARMUP_SHARE = 5, 0.2
# A cosine over fewer epochs does not come near zero in steps of an epoch: its rate changes at every update.
_EPOCHS_FOR_STEPS = 6

# The settings of torch's ReduceLROnPlateau, which its state_dict holds among the state.
_PLATEAU_SETTINGS = ("factor", "patience", "cooldown", "mode", "threshold", "threshold_mode", "min_lrs", "eps")


def set_learning_rate(args: argparse.Namespace) -> None:
    """Sets ``args.lr`` from ``--lr-base`` and the global batch, as timm does, where ``--lr`` is not given."""
    if args.lr is None:
        ratio = args.batch_size * args.world_size * args.grad_accum_steps / args.lr_base_size
        scale = args.lr_base_scale or ("sqrt" if any(o in args.opt.lower() for o in ("ada", "lamb")) else "linear")
        args.lr = args.lr_base * (ratio**0.5 if scale == "sqrt" else ratio)


def set_course(args: argparse.Namespace, before: argparse.Namespace | None = None) -> None:
    """Fills in ``args.sched_on_updates`` and ``args.warmup_epochs`` by the length of the run, where not given.

    Under 6 epochs the rate changes at every update (but plateau's, which cannot). The warm-up has timm's 5 epochs, but
    at most a fifth of the run; it is whole where the rate changes between epochs.

    Args:
        args: arguments of the run.
        before: those of the run that it goes on with, or None. Under the same scheduler its values are taken, so that
            another ``--epochs`` leaves the warm-up as it was.
    """
    if before is not None and getattr(before, "sched", None) == args.sched:
        for name in ("sched_on_updates", "warmup_epochs"):
            if getattr(args, name) is None:
                setattr(args, name, getattr(before, name, None))
    if args.sched_on_updates is None:
        args.sched_on_updates = args.epochs < _EPOCHS_FOR_STEPS and args.sched != "plateau"
    if args.warmup_epochs is None:
        share = _WARMUP_SHARE * args.epochs
        args.warmup_epochs = min(_WARMUP_EPOCHS, share if args.sched_on_updates else int(share))


def warn_of_warmup(warmup_epochs: float, epochs: int) -> None:
    """Warns of a run that is over before its warm-up is.

    Args:
        warmup_epochs: length of the warm-up.
        epochs: length of the whole run, with a warm-up that comes on top.
    """
    if warmup_epochs >= epochs:
        _logger.warning(
            "The whole run is warm-up (--warmup-epochs %g, and %d epochs in all), so the learning rate never reaches "
            "--lr: give a shorter warm-up, or train longer (--epochs).",
            warmup_epochs,
            epochs,
        )


def make_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    """timm's optimiser; the classifier's groups have their own rate with ``--classifier-lr-mult``."""
    kwargs = {**optimizer_kwargs(cfg=args), **(args.opt_kwargs or {})}
    if args.classifier_lr_mult != 1:
        kwargs["param_group_fn"] = lambda module: _groups(args, module)
    try:
        return create_optimizer_v2(model, **kwargs)
    except Exception as error:  # an optimiser's own checks
        raise GCPError(f"Optimizer '{args.opt}' cannot be made: {first_line(error)}.") from error


def _groups(args: argparse.Namespace, model: nn.Module) -> list[dict[str, Any]]:
    """timm's parameter groups, with the classifier's in groups of their own.

    Their ``lr_scale`` is what timm's schedulers multiply by. ``initial_lr`` stays unscaled, since the schedulers start
    from it, and ``lr`` is scaled from the first update on.
    """
    options = {key: value for key, value in (args.opt_kwargs or {}).items() if key.startswith("fallback_")}
    options["no_weight_decay_list"] = getattr(model, "no_weight_decay", set)()
    if args.layer_decay is not None:
        groups = param_groups_layer_decay(
            model,
            weight_decay=args.weight_decay,
            layer_decay=args.layer_decay,
            min_scale=args.layer_decay_min_scale,
            no_opt_scale=args.layer_decay_no_opt_scale,
            **options,
        )
    elif not (args.opt_kwargs or {}).get("filter_bias_and_bn", True):
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [{"params": parameters, "weight_decay": args.weight_decay}]
    else:
        groups = param_groups_weight_decay(model, weight_decay=args.weight_decay, **options)
    classifier = {id(p) for module in classifiers(model) for p in module.parameters()}
    base, head = [], []
    for group in groups:
        own = [p for p in group["params"] if id(p) in classifier]
        rest = [p for p in group["params"] if id(p) not in classifier]
        scale = group.get("lr_scale", 1.0)
        if rest:
            base.append({**group, "params": rest, "initial_lr": args.lr, "lr": args.lr * scale})
        if own:
            scale *= args.classifier_lr_mult
            head.append({**group, "params": own, "initial_lr": args.lr, "lr": args.lr * scale, "lr_scale": scale})
    return base + head


def make_scheduler(
    args: argparse.Namespace,
    optimizer: torch.optim.Optimizer,
    updates: int,
    schedule: HybridSchedule | None,
    start: int,
    resumed: Mapping[str, Any] | None,
    done: int = 0,
) -> tuple[Any, int]:
    """The scheduler where this run starts, and the number of epochs; the switch is checked.

    Args:
        args: arguments of the run.
        optimizer: its optimiser.
        updates: in an epoch.
        schedule: of the hybrid protocol, or None.
        start: first epoch of this run.
        resumed: the checkpoint that it goes on from, or None.
        done: updates of that epoch that are behind.
    """
    settings = scheduler_kwargs(args, decreasing_metric=args.eval_metric == "loss" or not args.val_split)
    groups_before = [(group["lr"], group.get("initial_lr")) for group in optimizer.param_groups]

    def make(target: torch.optim.Optimizer) -> Any:
        with warnings.catch_warnings():
            # timm warns that nobody saves the state of its plateau scheduler; our checkpoints hold it.
            warnings.simplefilter("ignore", FutureWarning)
            return create_scheduler_v2(target, **settings, updates_per_epoch=updates)

    try:
        scheduler, epochs = make(optimizer)
    except (ValueError, AssertionError) as error:
        raise GCPError(f"Scheduler '{args.sched}' cannot be made: {first_line(error)}.") from error
    if scheduler is None and args.sched != "none":
        raise GCPError(f"Scheduler '{args.sched}' is not known to timm {timm.__version__}; update timm or use cosine.")
    if scheduler is not None:
        warn_of_warmup(args.warmup_epochs, epochs)
    if start > epochs:
        raise GCPError(f"--resume {args.resume} has trained {start} epochs, more than --epochs {epochs}; raise it.")
    if schedule is not None:
        per_epoch = updates if args.sched_on_updates else None
        schedule.check(preview_learning_rates(optimizer, make, epochs, per_epoch), epochs, per_epoch)
    if (start or done) and scheduler is not None:
        if args.sched_on_updates:
            scheduler.step_update(start * updates + done)
        else:
            scheduler.step(start)
        plateau = (resumed or {}).get("plateau")
        if plateau is not None and hasattr(scheduler, "lr_scheduler"):
            ratio = rate_ratio(args, (resumed or {}).get("args"))
            _load_plateau(scheduler.lr_scheduler, optimizer, plateau, ratio)
    elif scheduler is None:
        for group, (lr, _) in zip(optimizer.param_groups, groups_before, strict=True):
            group["lr"] = lr
    return scheduler, epochs


def rate_ratio(args: argparse.Namespace, before: argparse.Namespace | None) -> float:
    """The learning rate of this run over that of the run that it continues; 1 where that is not known."""
    old = getattr(before, "lr", None)
    return args.lr / old if isinstance(old, float) and old > 0 and old != args.lr else 1.0


def _load_plateau(plateau: Any, optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], ratio: float) -> None:
    """Takes up a metric-driven schedule from a checkpoint; its settings are those of this run."""
    if len(saved["lrs"]) != len(optimizer.param_groups):
        raise GCPError(
            f"The checkpoint holds a plateau schedule of {len(saved['lrs'])} parameter groups, and this optimiser has "
            f"{len(optimizer.param_groups)}; give the run's own --weight-decay and --layer-decay."
        )
    plateau.load_state_dict({k: v for k, v in saved["state"].items() if k not in _PLATEAU_SETTINGS})
    for group, lr in zip(optimizer.param_groups, saved["lrs"], strict=True):
        group["lr"] = lr * ratio


def classifiers(model: Any) -> list[nn.Module]:
    """The classifier layers of a timm model."""
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    found = classifier if isinstance(classifier, (tuple, list)) else [classifier]
    return [module for module in found if isinstance(module, nn.Module)]
