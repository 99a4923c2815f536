"""Builds timm's feature extractor (``features_only``) of a backbone, which has no head and no pool."""

from collections.abc import Callable
from typing import Any

import timm
from timm.models import PretrainedCfg
from torch import nn

from ..errors import GCPError
from ..pool_options import PoolOptions
from ..text import some_of
from .stride import keeps_stride_one, set_stage_stride

__all__ = ["features_of"]

_HEAD_ARGUMENTS = ("reduce", "method_args", "spectral_dtype", "chunk_size", "global_pool", *PoolOptions.names())
_EXTRACTOR_ARGUMENTS = ("out_indices", "feature_cls", "feature_cfg")


def features_of(
    backbone: str,
    cfg: PretrainedCfg,
    plain: PretrainedCfg | None,
    whole: Callable[..., nn.Module] | None,
    last_stride: int | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Builds the backbone's ``features_only`` network, of the class that timm uses for its family.

    Args:
        backbone: a timm model's name.
        cfg: weights and preprocessing of the covariance-pooled model.
        plain: the cfg whose weights timm loads into the plain backbone; None for none.
        whole: builds the covariance-pooled model with its weights, of which the backbone's are taken; None for none.
        last_stride: as in ``graft``.
        **kwargs: as ``timm.create_model``.

    Returns:
        timm's extractor.

    Raises:
        GCPError: ``last_stride`` does not fit, or weights of the extractor are missing.
    """
    own = {key: value for key, value in kwargs.items() if key not in _HEAD_ARGUMENTS}
    source: dict[str, Any] = {"pretrained": True, "pretrained_cfg": plain} if plain else {}
    net: Any = timm.create_model(backbone, features_only=True, **source, **own)
    _set_stride(net, backbone, last_stride)
    if whole is not None:
        arguments = {key: value for key, value in kwargs.items() if key not in _EXTRACTOR_ARGUMENTS}
        _copy_weights(whole(last_stride=last_stride, **arguments), net)
    shown = {k: v for k, v in cfg.to_dict().items() if k not in ("num_classes", "classifier", "global_pool")}
    net.pretrained_cfg = net.default_cfg = shown
    return net


def _set_stride(net: Any, backbone: str, last_stride: int | None) -> None:
    if not keeps_stride_one(backbone):
        if last_stride is not None:
            raise GCPError(f"last_stride sets the last stage of ResNets and VGGs, not of {backbone}; leave it out.")
        return
    info = net.feature_info.info[-1]
    if last_stride == 2 or info["reduction"] != 32:
        return
    trunk = getattr(net, "model", net)
    stage = info["module"] if _has(trunk, info["module"]) else info["module"].replace(".", "_")
    if _has(trunk, stage):  # an extractor of earlier maps lacks this stage
        set_stage_stride(trunk, stage)
    info["reduction"] = 16


def _has(module: nn.Module, path: str) -> bool:
    return any(name == path for name, _ in module.named_modules())


def _copy_weights(whole: Any, net: nn.Module) -> None:
    # Extractors join the first two names of a path by '_', or keep the model, with its own head, as 'model'.
    head = whole.gcp_head
    without = tuple(f"model.{path.partition('.')[0]}." for path in (head.classifier, *head.replaced, "pre_logits"))
    given = {key.replace(".", "_"): value for key, value in whole.state_dict().items()}
    wanted = {
        key: key.removeprefix("model.").replace(".", "_") for key in net.state_dict() if not key.startswith(without)
    }
    missing = [key for key, name in wanted.items() if name not in given]
    if missing:
        raise GCPError(
            f"The feature extractor needs weights that the model lacks: {some_of(missing, 3)}; give pretrained=False."
        )
    net.load_state_dict({key: given[name] for key, name in wanted.items()}, strict=False)
