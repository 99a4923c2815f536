"""What is registered with timm: ``<backbone>_<method>`` for every backbone below and every method of the table."""

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, build_model_with_cfg, get_pretrained_cfg, register_model, resolve_pretrained_cfg
from timm.models._pretrained import DefaultCfg
from torch import Tensor, nn

from ..errors import GCPError
from ..methods import METHODS, nearest
from .graft import DEFAULT_REDUCE, GCPMixin, graft

__all__ = ["BACKBONES", "create_gcp_model", "register_backbone"]

BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "seresnet50",
    "wide_resnet50_2",
    "resnet10t",
    "test_resnet",
)

default_cfgs: dict[str, DefaultCfg] = {}
"""timm's ``register_model`` reads the pretrained cfgs of this module's models here."""


def register_backbone(name: str) -> list[str]:
    """Adds ``<name>_<method>`` to timm's registry for every method of the table.

    Each name has the tag ``init``: the plain backbone's own timm weights under a fresh head, the start for
    fine-tuning. It is never the default tag, so ``pretrained=True`` alone never gives a random classifier.

    Args:
        name: a timm model of the ResNet class, without a tag.

    Returns:
        The registered names.

    Raises:
        GCPError: timm has no such model.
    """
    if not timm.is_model(name):
        near = nearest(name, timm.list_models())
        raise GCPError(f"timm has no model '{name}'{near}")
    return [_register(name, method) for method in METHODS]


def _register(backbone: str, method: str) -> str:
    name = f"{backbone}_{method}"
    default_cfgs[name] = _default_cfg(backbone)

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return create_gcp_model(backbone, method, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = __name__
    entrypoint.__doc__ = f"{backbone} with covariance pooling, root by ``{method}``. See ``create_gcp_model``."
    setattr(sys.modules[__name__], name, entrypoint)
    register_model(entrypoint)
    return name


def _default_cfg(backbone: str) -> DefaultCfg:
    cfg = get_pretrained_cfg(backbone) or PretrainedCfg()
    # A backbone's test-time settings and provenance belong to its weights; ours start without.
    shape = replace(
        cfg,
        pool_size=cfg.pool_size and tuple(2 * side for side in cfg.pool_size),
        test_input_size=None,
        test_pool_size=None,
        test_crop_pct=None,
        description=None,
        notes=None,
    )
    source = dict(url=None, file=None, state_dict=None, hf_hub_id=None, hf_hub_filename=None, source=None)
    bare = replace(shape, **source, license=None, origin_url=None, paper_name=None, paper_ids=None)
    return DefaultCfg(tags=deque(["", "init"]), cfgs={"": bare, "init": _own_source(backbone, shape)})


def _own_source(backbone: str, cfg: PretrainedCfg) -> PretrainedCfg:
    # timm completes a Hub id that ends in '/' with the registering model's name: here that has to be the backbone's.
    if cfg.hf_hub_id and cfg.hf_hub_id.endswith("/"):
        tag = f".{cfg.tag}" if cfg.tag else ""
        cfg = replace(cfg, hf_hub_id=f"{cfg.hf_hub_id}{backbone}{tag}")
    return cfg


def create_gcp_model(
    backbone: str,
    method: str,
    pretrained: bool = False,
    *,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """What every registered name calls: builds the backbone, grafts the pool, and lets timm load the weights.

    Args:
        backbone: a timm model's name.
        method: a name of ``timm_gcp.METHODS``.
        pretrained: load the weights of the cfg.
        pretrained_cfg: a tag (``'init'``) or a whole cfg, as in ``timm.create_model``.
        pretrained_cfg_overlay: entries that replace those of the cfg.
        **kwargs: ``reduce``, ``last_stride``, ``method_args`` and ``spectral_dtype`` (``'float32'`` or
            ``'float64'``) for the head (see ``graft``); everything else goes to the backbone or to timm's
            ``build_model_with_cfg``.

    Raises:
        GCPError: ``pretrained`` without weights to load, or arguments of the head that do not fit.
    """
    name = f"{backbone}_{method}"
    if pretrained:
        cfg = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
        if not (cfg.has_weights or cfg.state_dict):
            raise GCPError(
                f"There are no pretrained weights for {name} yet; '{name}.init' starts from the plain backbone's "
                f"weights under a fresh head, for fine-tuning."
            )

    def build(**model_kwargs: Any) -> nn.Module:
        return _build(backbone, method, **model_kwargs)

    return build_model_with_cfg(
        build,
        name,
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        pretrained_filter_fn=fill_head,
        **kwargs,
    )


def _build(
    backbone: str,
    method: str,
    reduce: int = DEFAULT_REDUCE,
    last_stride: int | None = 1,
    method_args: Mapping[str, Any] | None = None,
    spectral_dtype: str | torch.dtype | None = None,
    num_classes: int = 1000,
    global_pool: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    dtype = getattr(torch, spectral_dtype, None) if isinstance(spectral_dtype, str) else spectral_dtype
    if spectral_dtype is not None and dtype not in (torch.float32, torch.float64):
        raise GCPError(f"spectral_dtype is 'float32' or 'float64', not '{spectral_dtype}'.")
    model = timm.create_model(backbone, num_classes=num_classes, **kwargs)
    graft(model, method, reduce, last_stride, dtype, method_args)
    if global_pool is not None:
        model.reset_classifier(num_classes, global_pool)
    return model


def fill_head(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Makes a plain backbone's state dict fit: its classifier goes, the model's own head stays as it is.

    A state dict that has our head already is returned unchanged. timm calls this on what it downloads
    (``checkpoint_filter_fn``).
    """
    if not isinstance(model, GCPMixin):
        return state_dict  # a features_only wrapper has no head
    classifier = str(model.get_classifier(name_only=True))
    own = {k: v for k, v in model.state_dict().items() if k.startswith(("global_pool.", f"{classifier}."))}
    weight = state_dict.get(f"{classifier}.weight")
    if any(k.startswith("global_pool.") for k in state_dict) or (
        weight is not None and weight.shape[1] == model.head_hidden_size
    ):
        return state_dict
    return {**{k: v for k, v in state_dict.items() if not k.startswith(f"{classifier}.")}, **own}
