"""What is registered with timm: ``<backbone>_<method>`` for every backbone below and every method of the table."""

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import timm
import torch
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    get_pretrained_cfg,
    model_entrypoint,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models._pretrained import DefaultCfg
from torch import Tensor, nn

from ..errors import GCPError
from ..methods import METHODS, get_method
from ..text import nearest
from ..weights.manifest import Checkpoint, read_manifest
from .features import features_of
from .mixin import DEFAULT_REDUCE, GCPMixin, put_pool
from .stride import STRIDE_ONE_MODULES, set_pool_size

__all__ = ["BACKBONES", "create_gcp_model", "ensure_registered", "register_backbone", "register_known"]

BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "seresnet50",
    "wide_resnet50_2",
    "resnetv2_50",
    "resnest50d",
    "resnet10t",
    "test_resnet",
    "alexnet",
    "vgg16_bn",
    "densenet121",
    "densenet201",
    "inception_v3",
    "regnety_016",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "repvgg_a0",
    "convnext_tiny",
    "convnextv2_tiny",
    "swin_tiny_patch4_window7_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
)


_ROWS = read_manifest()


def register_backbone(name: str) -> list[str]:
    """Adds ``<name>_<method>`` to timm's registry for every method of the table.

    Each name has the tag ``init``: the plain backbone's own timm weights under a fresh head, the start for
    fine-tuning. It is never the default tag, so ``pretrained=True`` alone never gives a random classifier.

    Args:
        name: a timm model, without a tag. It is built once, without memory for its weights, to see that it fits.

    Returns:
        The registered names.

    Raises:
        GCPError: timm has no such model, or its family cannot pool a covariance; the message says why.
    """
    if not timm.is_model(name):
        raise GCPError(f"timm has no model '{name}'{nearest(name, timm.list_models())}")
    if name.rpartition("_")[2] in METHODS and timm.is_model(name.rpartition("_")[0]):
        raise GCPError(f"{name} has a covariance pool already; register its backbone {name.rpartition('_')[0]}.")
    _check(name)
    return _register(name)


def ensure_registered(name: str) -> bool:
    """Registers a name of the form ``<backbone>_<method>`` if timm has the backbone and it is not there yet.

    Args:
        name: a model's name, without a tag.

    Returns:
        Whether the name is a model now.

    Raises:
        GCPError: the backbone's family cannot pool a covariance.
    """
    backbone, _, method = name.rpartition("_")
    if not timm.is_model(name) and method in METHODS and timm.is_model(backbone):
        register_backbone(backbone)
    return timm.is_model(name)


def register_known() -> None:
    """Registers every name of ``BACKBONES``, which are known to fit: nothing is built."""
    for backbone in BACKBONES:
        _register(backbone)


def _check(backbone: str) -> None:
    """Grafts the backbone on the meta device, where nothing is computed, and compares its map with what was read."""
    try:
        model, features = _map_of(backbone, "meta")
    except NotImplementedError:  # an older torch has not every operation there
        model, features = _map_of(backbone, "cpu")
    layout, channels = model.gcp_head.input_fmt, model.num_features
    if not isinstance(features, Tensor):
        raise GCPError(f"{backbone} cannot pool a covariance: its features are a {type(features).__name__}.")
    found = features.shape[1] if layout == "NCHW" else features.shape[-1]
    if features.dim() != len(layout) or found != channels or features.numel() == 2 * channels:
        raise GCPError(
            f"{backbone} cannot pool a covariance: its features have the shape {list(features.shape)}, no {layout} map "
            f"of {channels} channels."
        )


def _map_of(backbone: str, device: str) -> tuple[Any, Any]:
    with torch.device(device), torch.no_grad():
        model: Any = timm.create_model(backbone).eval()
        put_pool(model, "isqrt")
        try:
            return model, model.forward_features(torch.zeros(2, *model.pretrained_cfg["input_size"]))
        except NotImplementedError:
            raise
        except Exception as error:  # families raise all kinds
            raise GCPError(f"{backbone} cannot pool a covariance: its features do not run ({error}).") from error


def _register(backbone: str) -> list[str]:
    home = _home(backbone)
    bare, init = _cfgs(backbone, home.__name__.rpartition(".")[2])
    names = []
    for method in METHODS:
        name = f"{backbone}_{method}"
        home.default_cfgs[name] = _default_cfg(name, bare, init)
        entrypoint = _entrypoint(backbone, method)
        entrypoint.__name__ = entrypoint.__qualname__ = name
        entrypoint.__module__ = home.__name__
        entrypoint.__doc__ = f"{backbone} with covariance pooling, root by ``{method}``. See ``create_gcp_model``."
        setattr(home, name, entrypoint)
        register_model(entrypoint)
        names.append(name)
    return names


def _entrypoint(backbone: str, method: str) -> Any:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return create_gcp_model(backbone, method, pretrained, **kwargs)

    return entrypoint


def _home(backbone: str) -> Any:
    """The module of a backbone's entry points: it carries the family's name, by which timm lists and tests models."""
    name = f"{__name__}.{model_entrypoint(backbone).__module__.rpartition('.')[2]}"
    if name not in sys.modules:
        home: Any = ModuleType(name, "Entry points made by ``register_backbone``.")
        home.default_cfgs, home.__all__ = {}, []
        sys.modules[name] = home
    return sys.modules[name]


def _cfgs(backbone: str, family: str) -> tuple[PretrainedCfg, PretrainedCfg | None]:
    """The cfg without weights, and that of the plain backbone's weights where timm has some."""
    cfg = get_pretrained_cfg(backbone) or PretrainedCfg()
    sixteenth = tuple(-(-side // 16) for side in cfg.input_size[1:])
    # A backbone's test-time settings and provenance belong to its weights; ours start without.
    shape = replace(
        cfg,
        source=None,
        num_classes=1000,
        pool_size=sixteenth if family in STRIDE_ONE_MODULES else cfg.pool_size,
        test_input_size=None,
        test_pool_size=None,
        test_crop_pct=None,
        description=None,
        notes=None,
    )
    nowhere = dict(url=None, file=None, state_dict=None, hf_hub_id=None, hf_hub_filename=None)
    bare = replace(
        shape,
        **nowhere,
        custom_load=False,
        label_offset=None,
        license=None,
        origin_url=None,
        paper_name=None,
        paper_ids=None,
    )
    return bare, _own_source(backbone, shape) if cfg.has_weights else None


def _default_cfg(name: str, bare: PretrainedCfg, init: PretrainedCfg | None) -> DefaultCfg:
    """The tags of a name: those of the manifest, or none, then ``init``."""
    cfgs = {row.tag: _cfg_of(row, bare) for row in _ROWS.values() if row.architecture == name} or {"": bare}
    if init is not None:
        cfgs["init"] = init
    return DefaultCfg(tags=deque(cfgs), cfgs=cfgs)


def _cfg_of(row: Checkpoint, bare: PretrainedCfg) -> PretrainedCfg:
    # timm lists what has a source; the file itself comes from ``weights.resolve``.
    file, hub, url = _places(row)
    return replace(
        bare,
        file=file,
        hf_hub_id=hub,
        url=url,
        num_classes=row.num_classes,
        input_size=row.input_size,
        interpolation=row.interpolation,
        crop_pct=row.crop_pct,
        mean=row.mean,
        std=row.std,
        label_names=row.label_names,
        license=row.licence,
        origin_url=row.origin_url,
        description=row.description,
    )


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
    features_only: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """What every registered name calls: builds the backbone, grafts the pool, and lets timm load the weights.

    Args:
        backbone: a timm model's name.
        method: a name of ``timm_gcp.METHODS``.
        pretrained: load the weights of the cfg. Those of the tag ``init`` are the plain backbone's, and are loaded as
            timm loads them there, before the pool is put on.
        pretrained_cfg: a tag (``'init'``) or a whole cfg, as in ``timm.create_model``.
        pretrained_cfg_overlay: entries that replace those of the cfg.
        features_only: timm's feature extractor of the backbone, which has no head.
        **kwargs: ``reduce``, ``last_stride``, ``method_args``, ``spectral_dtype`` (a name of
            ``METHODS[method].dtypes``, such as ``'float64'``) and ``chunk_size`` for the head (see ``graft``);
            everything else goes to the backbone or to timm's ``build_model_with_cfg``.

    Raises:
        GCPError: ``pretrained`` without weights to load, or arguments of the head that do not fit.
    """
    name = f"{backbone}_{method}"
    overlay = dict(pretrained_cfg_overlay or {})
    cfg = resolve_pretrained_cfg(name, pretrained_cfg, overlay)
    if pretrained and not (cfg.has_weights or cfg.state_dict):
        raise GCPError(f"There are no pretrained weights for {name} yet; {_remedy(backbone, name)}.")
    # A saved model keeps its cfg's tag, but its weights are its own.
    plain = pretrained and cfg.tag == "init" and cfg.source is None
    row = _row_behind(name, cfg) if pretrained or pretrained_cfg else None
    if row is not None and pretrained:
        from ..weights.resolve import arguments_of, resolve  # it reaches back to the models

        file = resolve(row)
        overlay.update({**dict.fromkeys(_SOURCES), "file": str(file)})
        kwargs = {**row.model_args, **arguments_of(file), **kwargs}
    elif row is not None:
        kwargs = {**row.model_args, **kwargs}

    def build(**model_kwargs: Any) -> nn.Module:
        return _build(backbone, method, cfg if plain else None, **model_kwargs)

    def create(**more: Any) -> nn.Module:
        model: Any = build_model_with_cfg(
            build,
            name,
            pretrained and not plain,
            pretrained_cfg=pretrained_cfg,
            pretrained_cfg_overlay=overlay,
            pretrained_filter_fn=_filter(backbone),
            **more,
        )
        set_pool_size(model)
        return model

    if features_only:
        return features_of(backbone, cfg, plain, create if pretrained and not plain else None, **kwargs)
    return create(**kwargs)


_SOURCES = ("file", "url", "hf_hub_id", "state_dict")


def _row_behind(name: str, cfg: PretrainedCfg) -> Checkpoint | None:
    """The row of the manifest that a cfg stands for; none if somebody has given it other weights."""
    row = _ROWS.get(f"{name}.{cfg.tag}")
    if row is None or cfg.source is not None or cfg.state_dict:
        return None
    return row if (cfg.file, cfg.hf_hub_id, cfg.url) == _places(row) else None


def _places(row: Checkpoint) -> tuple[str | None, str | None, str | None]:
    return row.package, row.hub, row.upstream.source if row.upstream else None


def _remedy(backbone: str, name: str) -> str:
    others = [row.name for row in _ROWS.values() if row.architecture.rpartition("_")[0] == backbone]
    method = name.rpartition("_")[2]
    if others and METHODS[method].of_sigma is not None:
        return f"{others[0]} has some, a root has no parameters: create that, and set global_pool.method = '{method}'"
    if timm.models.is_model_pretrained(backbone):
        return f"'{name}.init' starts from the plain backbone's weights under a fresh head, for fine-tuning"
    return "create it without pretrained=True and train it"


def _build(
    backbone: str,
    method: str,
    plain_cfg: PretrainedCfg | None,
    reduce: int = DEFAULT_REDUCE,
    last_stride: int | None = None,
    method_args: Mapping[str, Any] | None = None,
    spectral_dtype: str | torch.dtype | None = None,
    chunk_size: int | None = None,
    num_classes: int = 1000,
    global_pool: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    dtype: Any = getattr(torch, spectral_dtype, spectral_dtype) if isinstance(spectral_dtype, str) else spectral_dtype
    if dtype is not None:
        get_method(method).check_dtype(dtype)
    if plain_cfg is not None:
        kwargs.update(pretrained=True, pretrained_cfg=plain_cfg)
    model: Any = timm.create_model(backbone, num_classes=num_classes, **kwargs)
    put_pool(model, method, reduce, last_stride, dtype, method_args, chunk_size)
    if global_pool is not None:
        model.reset_classifier(num_classes, global_pool)
    return model


def _filter(backbone: str) -> Any:
    """What timm calls on a state dict before it loads it: the family's own filter, then ours."""
    family = getattr(sys.modules[model_entrypoint(backbone).__module__], "checkpoint_filter_fn", None)

    def filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        return fill_head(family(state_dict, model) if family else state_dict, model)

    return filter_fn


def fill_head(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Makes a plain backbone's state dict fit: its head goes, the model's own head stays as it is.

    A state dict that has our head already is returned unchanged. timm calls this on what it downloads
    (``checkpoint_filter_fn``).
    """
    if not isinstance(model, GCPMixin):
        raise TypeError(f"fill_head takes a grafted model, not a {type(model).__name__}.")
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
