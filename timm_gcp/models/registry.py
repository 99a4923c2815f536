"""Registers ``<backbone>_<method>`` with timm, for the backbones below and for backbones and methods of the user."""

import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import timm
import torch
from timm.models import model_entrypoint, register_model
from torch import Tensor, nn

from ..errors import GCPError
from ..method import Method
from ..methods import METHODS, add_method
from ..text import nearest
from ..weights.init_tags import init_tag
from .backbones import BACKBONES
from .cfgs import default_cfgs_of
from .create import create_gcp_model
from .mixin import GENERIC_POOL, put_pool
from .names import endings, split_name

__all__ = ["ensure_registered", "register_backbone", "register_known", "register_method"]

_registered: set[str] = set()


def register_backbone(name: str) -> list[str]:
    """Adds ``<name>_<method>`` to timm's registry for every method of the table, and ``<name>_mp`` (Moment Probing).

    Each name has the tag ``init``: the plain backbone's own timm weights under a fresh head, the start for
    fine-tuning; and ``init-<tag>`` for every tag of the backbone for which timm has weights. They are never the default
    tag, so ``pretrained=True`` alone never gives a random classifier. A name that is registered already stays.

    Args:
        name: a timm model, without a tag. It is built once, without memory for its weights, to see that it fits.

    Returns:
        The registered names.

    Raises:
        GCPError: timm has no such model, a tag is given, or the family cannot pool a covariance; the message says why.
    """
    if not timm.is_model(name):
        raise GCPError(f"timm has no model '{name}'{nearest(name, timm.list_models())}")
    backbone, method, tag = split_name(name)
    if method and timm.is_model(backbone):
        raise GCPError(f"{name} has a covariance pool already; register its backbone {backbone}.")
    if tag:
        example = f"{backbone}_isqrt.{init_tag(tag)}"
        raise GCPError(f"{name} has a tag; leave the tag out; it goes after the method: {example}.")
    _check(name)
    return _register(name, endings())


def ensure_registered(name: str) -> bool:
    """Registers a name of the form ``<backbone>_<method>`` if timm has the backbone and it is not there yet.

    Args:
        name: a model's name, without a tag.

    Returns:
        Whether the name is a model now.

    Raises:
        GCPError: the backbone's family cannot pool a covariance.
    """
    backbone, method, _ = split_name(name)
    if not timm.is_model(name) and method and timm.is_model(backbone):
        register_backbone(backbone)
    return timm.is_model(name)


def register_method(method: Method) -> list[str]:
    """Adds a method to ``METHODS``, and ``<backbone>_<method>`` to timm's registry for every registered backbone.

    From then on the method is used by its name like every other, in ``GlobalCovariancePool``, ``pool_features``,
    ``graft``, ``HybridSchedule`` and ``timm.create_model``, and backbones that are registered later get it too. It is
    registered in this process: a process that loads a saved model of the method has to register it first.

    Args:
        method: the row, a ``Method`` or a ``SpectralMethod``.

    Returns:
        The names of the registered models.

    Raises:
        GCPError: not a ``Method``, or a name that is taken, by a method or by the end of a model's name in timm.
    """
    if not isinstance(method, Method):
        raise GCPError(f"register_method takes a timm_gcp.Method, not a {type(method).__name__}.")
    if method.name == GENERIC_POOL:
        raise GCPError(f"'{method.name}' means a pool of any method in saved models; give the method another name.")
    if method.name not in METHODS and (others := timm.list_models(f"*_{method.name}")):
        raise GCPError(f"timm has models named like {others[0]}, which end in _{method.name}; give it another name.")
    add_method(method)
    return [model for backbone in sorted(_registered) for model in _register(backbone, [method.name])]


def register_known() -> None:
    """Registers every name of ``BACKBONES`` that timm has. Nothing is built: these backbones are known to fit."""
    for backbone in BACKBONES:
        if timm.is_model(backbone):
            _register(backbone, endings())


def _check(backbone: str) -> None:
    """Puts a pool on the backbone on the meta device, where nothing is computed, and checks the map that it sees."""
    try:
        model, features = _map_of(backbone, "meta")
    except NotImplementedError:  # older versions of torch lack some operations on the meta device
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
    """The backbone with a pool, and its feature map of two blank images."""
    with torch.device(device), torch.no_grad():
        model: Any = timm.create_model(backbone).eval()
        put_pool(model, "isqrt")
        try:
            return model, model.forward_features(torch.zeros(2, *model.pretrained_cfg["input_size"]))
        except NotImplementedError:
            raise
        except Exception as error:  # families raise errors of many classes
            raise GCPError(f"{backbone} cannot pool a covariance: its features do not run ({error}).") from error


def _register(backbone: str, methods: Iterable[str]) -> list[str]:
    module = _module_of(backbone)
    cfgs = default_cfgs_of(backbone, methods)
    module.default_cfgs.update(cfgs)
    _registered.add(backbone)
    for method in methods:
        if timm.is_model(f"{backbone}_{method}"):  # timm warns of a name that is registered twice
            continue
        entrypoint = _entrypoint(backbone, method, module.__name__)
        setattr(module, entrypoint.__name__, entrypoint)
        register_model(entrypoint)
    return list(cfgs)


def _entrypoint(backbone: str, method: str, module: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return create_gcp_model(backbone, method, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = f"{backbone}_{method}"
    entrypoint.__module__ = module
    entrypoint.__doc__ = f"{backbone} with covariance pooling, root by ``{method}``. See ``create_gcp_model``."
    return entrypoint


def _module_of(backbone: str) -> Any:
    """A module for the entry points of a backbone, with the name of its family, by which timm lists models."""
    name = f"{__name__}.{model_entrypoint(backbone).__module__.rpartition('.')[2]}"
    if name not in sys.modules:
        module: Any = ModuleType(name, "Entry points made by ``register_backbone``.")
        module.default_cfgs, module.__all__ = {}, []
        sys.modules[name] = module
    return sys.modules[name]
