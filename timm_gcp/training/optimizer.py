"""The optimiser of a run: learning rate, parameter groups, and timm's factory."""

from typing import Any

import torch
from timm.optim import create_optimizer_v2, optimizer_kwargs, param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from ..errors import GCPError
from ..text import first_line
from .options import OptimizerOptions
from .orthogonality import reduction_weights

__all__ = ["classifiers", "default_rate", "make_optimizer"]


def default_rate(options: OptimizerOptions, world_size: int) -> float:
    """The peak of the learning rate without ``lr``: ``lr_base`` scaled by the global batch, as in timm.

    Args:
        options: of the optimiser.
        world_size: number of processes.
    """
    ratio = options.batch_size * world_size * options.grad_accum_steps / options.lr_base_size
    adaptive = any(name in options.opt.lower() for name in ("ada", "lamb"))
    scale = options.lr_base_scale or ("sqrt" if adaptive else "linear")
    return options.lr_base * (ratio**0.5 if scale == "sqrt" else ratio)


def make_optimizer(options: OptimizerOptions, model: nn.Module) -> torch.optim.Optimizer:
    """timm's optimiser; classifier and reduction have parameter groups of their own where their rates differ.

    The rate of a group is scaled by its ``lr_scale`` from the first update on, also where no scheduler does so.

    Raises:
        GCPError: the optimiser refuses its arguments.
    """
    kwargs: dict[str, Any] = {**optimizer_kwargs(cfg=options), **options.opt_kwargs}
    if options.classifier_lr_mult != 1 or options.optimal_lr:
        kwargs["param_group_fn"] = lambda module: _groups(options, module)
    try:
        optimizer = create_optimizer_v2(model, **kwargs)
    except Exception as error:  # each optimiser has checks of its own
        raise GCPError(f"Optimizer '{options.opt}' cannot be made: {first_line(error)}.") from error
    for group in optimizer.param_groups:
        if "lr_scale" in group and "initial_lr" not in group:
            group["initial_lr"], group["lr"] = group["lr"], group["lr"] * group["lr_scale"]
    return optimizer


def _groups(options: OptimizerOptions, model: nn.Module) -> list[dict[str, Any]]:
    """timm's parameter groups, with groups of their own for the classifier, and for each reduction with its own rate.

    Their ``lr_scale`` is what timm's schedulers multiply by. ``initial_lr`` stays unscaled, since the schedulers start
    from it.
    """
    extra: dict[str, Any] = {k: v for k, v in options.opt_kwargs.items() if k.startswith("fallback_")}
    extra["no_weight_decay_list"] = getattr(model, "no_weight_decay", set)()
    if options.layer_decay is not None:
        groups = param_groups_layer_decay(
            model,
            weight_decay=options.weight_decay,
            layer_decay=options.layer_decay,
            min_scale=options.layer_decay_min_scale,
            no_opt_scale=options.layer_decay_no_opt_scale,
            **extra,
        )
    elif not options.opt_kwargs.get("filter_bias_and_bn", True):
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [{"params": parameters, "weight_decay": options.weight_decay}]
    else:
        groups = param_groups_weight_decay(model, weight_decay=options.weight_decay, **extra)
    factor = options.classifier_lr_mult
    classifier = {id(p) for module in classifiers(model) for p in module.parameters()} if factor != 1 else set()
    alone = {id(p) for p in reduction_weights(model)} if options.optimal_lr else set()
    base, reduction, head = [], [], []
    for group in groups:
        scale, parameters = group.get("lr_scale", 1.0), group["params"]
        rates = {"initial_lr": options.lr, "lr": options.lr * scale}
        rest = [p for p in parameters if id(p) not in classifier | alone]
        if rest:
            base.append({**group, "params": rest, **rates})
        reduction += [{**group, "params": [p], **rates} for p in parameters if id(p) in alone]
        own = [p for p in parameters if id(p) in classifier]
        if own:
            scale *= factor
            head.append({**group, "params": own, "initial_lr": options.lr, "lr": options.lr * scale, "lr_scale": scale})
    return base + reduction + head


def classifiers(model: Any) -> list[nn.Module]:
    """The classifier layers of a timm model."""
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    found = classifier if isinstance(classifier, (tuple, list)) else [classifier]
    return [module for module in found if isinstance(module, nn.Module)]
