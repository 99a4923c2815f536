"""Builds the models of registered names: the backbone, the pool on it, and the weights."""

import sys
from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.layers import to_2tuple
from timm.models import PretrainedCfg, build_model_with_cfg, model_entrypoint, resolve_pretrained_cfg
from torch import Tensor, nn

from ..errors import GCPError
from ..methods import METHODS, get_method
from ..moment_pooling import MOMENT_POOL
from ..pool_options import PoolOptions
from ..weights.resolve import arguments_of, resolve
from .cfgs import check_tag, checkpoint_of, names_with_weights, plain_cfg_of
from .features import features_of
from .mixin import GCPMixin, put_pool
from .stride import set_pool_size

__all__ = ["create_gcp_model", "create_on_meta"]

_SOURCES = ("file", "url", "hf_hub_id", "state_dict")  # entries of a cfg that name weights
_POOL_ARGUMENTS = ("reduce", "last_stride", "method_args", "chunk_size", *PoolOptions.names())


def create_gcp_model(
    backbone: str,
    method: str,
    pretrained: bool = False,
    *,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    features_only: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Creates the model of a registered name: ``timm.create_model`` calls this.

    Args:
        backbone: a timm model's name.
        method: a name of ``timm_gcp.METHODS``, or 'mp'.
        pretrained: load the weights of the cfg. Those of the tags ``init`` (timm's default weights) and
            ``init-<tag of timm>`` are the plain backbone's, and are loaded as timm loads them there, before the pool is
            put on.
        pretrained_cfg: a tag (``'init'``) or a whole cfg, as in ``timm.create_model``.
        pretrained_cfg_overlay: entries that replace those of the cfg.
        features_only: timm's feature extractor of the backbone, which has no head.
        **kwargs: ``reduce``, ``last_stride``, ``method_args``, ``spectral_dtype`` (a name of
            ``METHODS[method].dtypes``, such as ``'float64'``), ``chunk_size`` and the options of ``PoolOptions`` for
            the head (see ``graft``); everything else goes to the backbone or to timm's ``build_model_with_cfg``.

    Returns:
        The model, or timm's feature extractor.

    Raises:
        GCPError: ``pretrained`` without weights to load, a tag that the name does not have, or arguments of the head
            that do not fit.
    """
    name = f"{backbone}_{method}"
    overlay = dict(pretrained_cfg_overlay or {})
    if isinstance(pretrained_cfg, str):
        check_tag(name, pretrained_cfg)
    cfg = resolve_pretrained_cfg(name, pretrained_cfg, overlay)
    if pretrained and not (cfg.has_weights or cfg.state_dict):
        raise GCPError(f"There are no pretrained weights for {name} yet; {_remedy(backbone, method)}.")
    plain = plain_cfg_of(backbone, cfg, overlay) if pretrained else None
    row = checkpoint_of(name, cfg) if pretrained or pretrained_cfg else None
    if row is not None and pretrained:
        file = resolve(row)
        overlay.update({**dict.fromkeys(_SOURCES), "file": str(file)})
        kwargs = {**row.model_args, **arguments_of(file), **kwargs}
    elif row is not None:
        kwargs = {**row.model_args, **kwargs}

    def build(**model_kwargs: Any) -> nn.Module:
        model: Any = _build(backbone, method, plain, **model_kwargs)
        if model_kwargs.get("img_size") is not None:  # also timm's default of a family that is built for one size
            model.image_size = to_2tuple(model_kwargs["img_size"])
        return model

    def create(**more: Any) -> nn.Module:
        model: Any = build_model_with_cfg(
            build,
            name,
            pretrained and plain is None,
            pretrained_cfg=pretrained_cfg,
            pretrained_cfg_overlay=overlay,
            pretrained_filter_fn=_filter(backbone),
            **more,
        )
        set_pool_size(model)
        return model

    if features_only:
        return features_of(backbone, cfg, plain, create if pretrained and plain is None else None, **kwargs)
    return create(**kwargs)


def create_on_meta(name: str, **arguments: object) -> nn.Module:
    """Creates a model on the meta device, to look at its layers and sizes without memory for its weights.

    Args:
        name: a registered name.
        **arguments: as ``timm.create_model``.

    Returns:
        The model; on the CPU, with random weights, where its family computes while it is built.
    """
    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(name, **arguments)
    except (NotImplementedError, RuntimeError):
        model = timm.create_model(name, **arguments)
    return model


def _remedy(backbone: str, method: str) -> str:
    others = names_with_weights(backbone)
    if others and method in METHODS and METHODS[method].is_root:
        return (
            f"to evaluate or predict, give {others[0]} with --method {method} (in Python, set global_pool.method = "
            f"'{method}'), since a root has no parameters; {_start(backbone, method)}"
        )
    return _start(backbone, method)


def _start(backbone: str, method: str) -> str:
    """What training starts from without weights of the name."""
    if timm.models.is_model_pretrained(backbone):
        without = names_with_weights(backbone, licensed=False)
        more = f"; '{without[0]}' has weights whose authors state no licence" if without else ""
        return (
            f"'{backbone}_{method}.init' starts from the plain backbone's weights under a fresh head, for "
            f"fine-tuning{more}"
        )
    return "to train, start from random weights by --no-pretrained (in Python, pretrained=False)"


def _build(
    backbone: str,
    method: str,
    plain_cfg: PretrainedCfg | None,
    num_classes: int = 1000,
    global_pool: str | None = None,
    spectral_dtype: str | torch.dtype | None = None,
    **kwargs: Any,
) -> nn.Module:
    """The backbone, with the weights of ``plain_cfg`` if it is given, and the pool on it."""
    dtype: Any = getattr(torch, spectral_dtype, spectral_dtype) if isinstance(spectral_dtype, str) else spectral_dtype
    if dtype is not None and method != MOMENT_POOL:
        get_method(method).check_dtype(dtype)
    pool = {key: kwargs.pop(key) for key in _POOL_ARGUMENTS if key in kwargs}
    if plain_cfg is not None:
        kwargs.update(pretrained=True, pretrained_cfg=plain_cfg)
    if kwargs.get("class_token") is False:  # timm's own pool of these models is the token by default
        kwargs["global_pool"] = "avg"
    model: Any = timm.create_model(backbone, num_classes=num_classes, **kwargs)
    put_pool(model, method, dtype=dtype, **pool)
    if global_pool is not None:
        model.reset_classifier(num_classes, global_pool)
    return model


def _filter(backbone: str) -> Callable[[dict[str, Tensor], Any], dict[str, Tensor]]:
    """What timm calls on a state dict before it loads it: the family's own filter, then ours."""
    family = getattr(sys.modules[model_entrypoint(backbone).__module__], "checkpoint_filter_fn", None)

    def filter_fn(state_dict: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
        return _with_fresh_head(family(state_dict, model) if family else state_dict, model)

    return filter_fn


def _with_fresh_head(state_dict: dict[str, Tensor], model: GCPMixin) -> dict[str, Tensor]:
    """A plain backbone's state dict with the model's own head in place of the backbone's.

    A state dict that has a covariance head already is returned unchanged.
    """
    head = model.gcp_head
    own = model.state_dict()
    first = f"{'pre_logits.fc1' if head.hidden else head.classifier}.weight"
    if any(key.startswith("global_pool.") for key in state_dict) or (
        first in state_dict and first in own and state_dict[first].shape[1:] == own[first].shape[1:]
    ):
        return state_dict
    fresh = ("global_pool.", "pre_logits.", f"{head.classifier}.")
    gone = tuple(f"{path}." for path in (*head.replaced, head.container) if path)
    kept = {k: v for k, v in state_dict.items() if not k.startswith(fresh) and (k in own or not k.startswith(gone))}
    return {**kept, **{k: v for k, v in own.items() if k.startswith(fresh)}}
