"""Puts covariance pooling on an existing timm model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .mixin import DEFAULT_REDUCE, put_pool
from .registry import ensure_registered
from .stride import set_pool_size

__all__ = ["graft"]


def graft(
    model: nn.Module,
    method: str = "svdpade",
    reduce: int | None = DEFAULT_REDUCE,
    last_stride: int | None = None,
    dtype: torch.dtype | None = None,
    method_args: Mapping[str, Any] | None = None,
    chunk_size: int | None = None,
    reduction: str = "conv",
    first_order: str | None = None,
    groups: int = 1,
    count_sketch: int | None = None,
    channel_dropout: float | str | None = None,
    normalize_parts: bool = False,
) -> nn.Module:
    """Replaces the global pooling of a timm model by covariance pooling, and its classifier by a fresh one.

    The model itself is changed and returned. Its class becomes a subclass of its own class, so timm's interface works
    as before (``forward_features``, ``forward_head``, ``forward_intermediates``, ``group_matcher``, …). The parameters
    of the backbone keep their names and values, and the classifier its name (``fc``, ``head.fc``, ``classifier``,
    ``head``, …). Maps of all layouts are pooled: NCHW, NHWC (Swin) and tokens (ViT: the patch tokens; class and
    register tokens take part in attention, but not in the covariance).

    Of the layers between pooling and classifier,

    - a norm over the map's channels (ConvNeXt's ``head.norm``, ``fc_norm`` of some ViTs) keeps its name and weights
      and comes before the pool, where every position passes it;
    - dropout stays before the classifier;
    - the hidden layers of VGG and AlexNet (``pre_logits``) stay, as in the published covariance networks; the first
      is as wide as the covariance, so they start fresh;
    - all other layers are removed, because they are as wide as the averaged map: MobileNetV3's ``conv_head``, the
      hidden layer of ``convnext_large_mlp``, attention pools, the batch norm in SHViT's classifier.

    The model's ``pretrained_cfg`` names ``<backbone>_<method>`` from then on, and that name is registered with timm:
    what ``timm.models.save_for_hf``, ``push_to_hf_hub`` or ``save_folder`` saves loads again. In another process, call
    ``register_backbone`` before loading, unless the backbone is one of ``BACKBONES``.

    Args:
        model: a classification model of timm, also one without classes.
        method: a name of ``timm_gcp.METHODS``, or 'mp' for the pool of Moment Probing (``MomentPool``), which takes
            ``reduce`` (-1: 512), ``groups`` (1: its default, 4) and ``first_order`` of the arguments of the pool.
        reduce: channels after the 1×1 reduction; -1 takes 256, 64 for backbones of at most 256 channels, none for at
            most 64 and for AlexNet; 0 or None leaves the channels as they are.
        last_stride: stride of the last stage of ResNets and VGGs: 1 (14×14 maps at 224 px, as in the published
            networks) or 2 (7×7). None takes 1 for a model of one of these families whose output stride is timm's own
            32, and changes no other model.
        dtype: precision of the spectral part; None takes the method's own.
        method_args: the method's arguments.
        chunk_size: images of a batch that go through the spectral part at a time, for small memories; None for all.
        reduction: ``'conv'`` (1×1 convolution, batch norm, ReLU), ``'linear'`` (1×1 convolution alone) or
            ``'linear_norm'`` (1×1 convolution, LayerNorm over channels). The default is the same for all families: on
            a ViT trained from scratch it was the best of the three on held-out photographs (``eval/results``).
        first_order: ``'mean'`` puts the mean of the map before the triangle, ``'class'`` a ViT's class token,
            ``'mean+class'`` one after the other; ``'auto'`` the class token where there is one, otherwise the
            mean; None nothing. The classifier is one linear layer on both orders.
        groups: number of groups of channels, each with a covariance of its own.
        count_sketch: length of a count sketch in place of the triangle; None for no sketch.
        channel_dropout: probability of a reduced channel to be dropped in training; ``'adaptive'`` as in DropCov; None
            drops nothing.
        normalize_parts: scales the first-order vectors and the second-order part to one length; for training with
            ``first_order``.

    Returns:
        The same model.

    Raises:
        GCPError: the model cannot take the pool (the message says why), or arguments do not fit.
    """
    put_pool(
        model,
        method,
        reduce,
        last_stride,
        dtype,
        method_args=method_args,
        chunk_size=chunk_size,
        reduction=reduction,
        first_order=first_order,
        groups=groups,
        count_sketch=count_sketch,
        channel_dropout=channel_dropout,
        normalize_parts=normalize_parts,
    )
    grafted: Any = model
    cfg = dict(getattr(model, "pretrained_cfg", None) or {})
    backbone = cfg.get("architecture")
    if backbone:  # a model that timm has not built has no registered name
        name = f"{backbone}_{grafted.global_pool.method}"
        ensure_registered(name)
        cfg.update(architecture=name, classifier=grafted.gcp_head.classifier)
        grafted.pretrained_cfg = grafted.default_cfg = cfg
        set_pool_size(model)
    return model
