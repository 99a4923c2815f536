"""Describes the weights that a run starts from: their source, which layers are new, which are frozen."""

from typing import Any

from torch import nn

from ..map_pool import find_map_pools
from ..models.names import brings_weights
from ..weights.init_tags import is_init
from .options import TrainOptions

__all__ = ["describe_start"]


def describe_start(options: TrainOptions, model: nn.Module, epochs_done: int) -> list[str]:
    """Sentences on the weights that training starts from.

    Args:
        options: of the run, as ``prepare`` leaves them.
        model: without wrappers.
        epochs_done: by the run that is resumed.
    """
    lines = [f"Weights: {_weights(options, model, epochs_done)}."]
    every = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if trained < every:
        lines.append(f"Frozen: {_frozen(options)}; {trained / 1e6:.3g} of {every / 1e6:.3g} M parameters are trained.")
    return lines


def _frozen(options: TrainOptions) -> str:
    frozen = [f"all but the {options.train_only}"] if options.train_only else []
    if options.layer_decay_no_opt_scale is not None:
        frozen.append(f"layers whose factor is below --layer-decay-no-opt-scale {options.layer_decay_no_opt_scale:g}")
    return " and ".join(frozen) or "what the model freezes itself"


def _weights(options: TrainOptions, model: nn.Module, epochs_done: int) -> str:
    if options.resume:
        return f"those of {options.resume}, after {epochs_done} {'epoch' if epochs_done == 1 else 'epochs'}"
    if options.initial_checkpoint:
        return f"{options.initial_checkpoint}, with its classifier"
    cfg: Any = model.pretrained_cfg
    folder = brings_weights(options.model)
    if not (options.pretrained or options.pretrained_path or folder):
        return "random; --pretrained starts from trained ones where there are some"
    name = f"{cfg['architecture']}.{cfg['tag']}" if cfg.get("tag") else cfg["architecture"]
    source = options.pretrained_path or (options.model if folder else name)
    if is_init(cfg.get("tag")) and not (folder or options.pretrained_path):
        backbone = cfg.get("hf_hub_id") or cfg.get("url") or "the plain backbone's"
        new = "pool and classifier are" if find_map_pools(model) else "the classifier is"
        return f"{source} ({backbone}); {new} new ({options.num_classes} classes)"
    before = cfg.get("num_classes") or 0
    if options.pretrained_path or before != options.num_classes:
        change = f"{before} → {options.num_classes}" if before > 0 else f"{options.num_classes}"
        return f"{source}; the classifier is new ({change} classes)"
    return f"{source}, with its classifier of {options.num_classes} classes"
