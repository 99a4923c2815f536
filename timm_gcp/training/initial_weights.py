"""Describes the weights that a run starts from: their source, which layers are new, which are frozen."""

import argparse
from typing import Any

from torch import nn

from ..models.names import brings_weights
from ..pooling import find_pools

__all__ = ["describe_start"]


def describe_start(args: argparse.Namespace, model: nn.Module, epochs_done: int) -> list[str]:
    """Sentences on the weights that training starts from.

    Args:
        args: of the run, as ``prepare`` leaves them.
        model: without wrappers.
        epochs_done: by the run that is resumed.
    """
    lines = [f"Weights: {_weights(args, model, epochs_done)}."]
    every = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if trained < every:
        lines.append(
            f"Frozen: all but the {args.train_only}; {trained / 1e6:.3g} of {every / 1e6:.3g} M parameters are trained."
        )
    return lines


def _weights(args: argparse.Namespace, model: nn.Module, epochs_done: int) -> str:
    if args.resume:
        return f"those of {args.resume}, after {epochs_done} {'epoch' if epochs_done == 1 else 'epochs'}"
    if args.initial_checkpoint:
        return f"{args.initial_checkpoint}, with its classifier"
    cfg: Any = model.pretrained_cfg
    folder = brings_weights(args.model)
    if not (args.pretrained or args.pretrained_path or folder):
        return "random; --pretrained starts from trained ones where there are some"
    name = f"{cfg['architecture']}.{cfg['tag']}" if cfg.get("tag") else cfg["architecture"]
    source = args.pretrained_path or (args.model if folder else name)
    if cfg.get("tag") == "init" and not (folder or args.pretrained_path):
        backbone = cfg.get("hf_hub_id") or cfg.get("url") or "the plain backbone's"
        pool = "covariance pool and " if find_pools(model) else ""
        return f"{source} ({backbone}); {pool}classifier are new ({args.num_classes} classes)"
    before = cfg.get("num_classes") or 0
    if args.pretrained_path or before != args.num_classes:
        change = f"{before} → {args.num_classes}" if before > 0 else f"{args.num_classes}"
        return f"{source}; the classifier is new ({change} classes)"
    return f"{source}, with its classifier of {args.num_classes} classes"
