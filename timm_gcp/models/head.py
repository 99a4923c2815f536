"""Finds the parts of a timm model's head, between feature map and classifier, by running the head once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.resnet import ResNet
from timm.models.resnetv2 import ResNetV2
from timm.models.vgg import VGG
from torch import Tensor, nn

from ..errors import GCPError
from .alexnet import AlexNet

__all__ = ["Family", "Head", "family_of", "read_head"]


@dataclass(frozen=True)
class Family:
    """Properties of the published networks of a family that cannot be read from a model.

    Attributes:
        stride_one: the last stage keeps stride 1, so its map has twice the sides.
        hidden: two hidden layers of the family's own width (``pre_logits``) stay between the pool and the classifier.
        reduce: channels of the covariance, 0 for all; None: by the width of the map.
    """

    stride_one: bool = False
    hidden: bool = False
    reduce: int | None = None


_FAMILIES: dict[type, Family] = {
    ResNet: Family(stride_one=True),
    ResNetV2: Family(stride_one=True),
    VGG: Family(stride_one=True, hidden=True),
    AlexNet: Family(hidden=True, reduce=0),
}

_UNFIT = {
    "PoolingVisionTransformer": "its features are class tokens alone, without a map",
    "NaFlexVit": "its features are a dictionary with a mask of valid patches",
}
"""Families whose head runs on a map although their features are not one, with the reason for the message."""

_UNCOUNTED_PREFIX = {"CoaT": 1}
"""Number of prefix tokens of families that have no ``num_prefix_tokens``."""


def family_of(model: nn.Module) -> Family:
    """The properties of a model's family; the defaults for most."""
    return next((row for cls, row in _FAMILIES.items() if isinstance(model, cls)), Family())


@dataclass(frozen=True)
class Head:
    """The parts of a timm head, as a covariance pool needs them.

    Attributes:
        classifier: path of the last linear layer.
        input_fmt: layout of the feature map, ``'NCHW'``, ``'NHWC'`` or ``'NLC'``.
        prefix: number of class and register tokens before the patch tokens; they are left out of the covariance.
        norm: path of a norm over the map's channels; it keeps its weights and comes before the pool.
        drop: path of the dropout module; None where the model drops by its ``drop_rate``.
        hidden: the family's two hidden layers, ``pre_logits``, stay after the pool.
        replaced: paths of the layers that are removed: pooling, and layers as wide as the pooled map.
    """

    classifier: str
    input_fmt: str
    prefix: int
    norm: str | None
    drop: str | None
    hidden: bool
    replaced: tuple[str, ...]

    @property
    def first_order(self) -> str:
        """The usual first-order vector beside a covariance: 'class', the class token, where there is one, or 'mean'."""
        return "class" if self.prefix else "mean"

    @property
    def container(self) -> str | None:
        """The child of the model that holds the classifier among other layers, if there is one."""
        child, _, rest = self.classifier.partition(".")
        return child if rest else None


def read_head(model: nn.Module) -> Head:
    """Finds the parts of a timm model's head.

    ``forward_head`` runs once on a small map of zeros. A norm over the map's channels that comes first (ConvNeXt's
    ``head.norm``, a ViT's ``fc_norm``) is kept and applied to every position instead of the mean. Layers on the pooled
    vector (MobileNetV3's ``conv_head``, the hidden layer of ``convnext_large_mlp``, attention pools) are as wide as the
    map and are removed.

    Args:
        model: a timm classification model, also one without classes; unchanged afterwards.

    Returns:
        The head.

    Raises:
        GCPError: the family cannot take the pool; the message says why.
    """
    name = type(model).__name__
    if name in _UNFIT:
        raise GCPError(f"{name} cannot pool a covariance: {_UNFIT[name]}.")
    missing = [part for part in ("forward_features", "forward_head", "get_classifier") if not hasattr(model, part)]
    if missing:
        raise GCPError(f"{name} is not a classification model of timm: it lacks {', '.join(missing)}.")
    classifier = _classifier_of(model)
    calls: list[_Call] = []
    for input_fmt in _formats(model):
        try:
            calls = _run(model, input_fmt)
        except Exception as error:  # heads raise errors of many classes for a wrong layout
            refusal = error
            continue
        break
    else:
        raise GCPError(f"{name} cannot pool a covariance: its head does not take its features alone ({refusal}).")
    return _sort(model, classifier, input_fmt, calls)


@dataclass(frozen=True)
class _Call:
    """A layer that ran in the head, and whether it saw more than one position."""

    path: str
    module: nn.Module
    on_map: bool


def _classifier_of(model: nn.Module) -> str:
    name = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    if isinstance(name, (tuple, list)):
        if len(name) > 1:
            raise GCPError(
                f"{type(model).__name__} has {len(name)} classifiers ({', '.join(name)}), for distillation or "
                f"auxiliary losses; a covariance pool feeds one."
            )
        name = name[0]
    if not name:
        module = model.get_classifier()  # type: ignore[operator]
        name = next((path for path, other in model.named_modules() if other is module), "")
    if not name:
        raise GCPError(f"{type(model).__name__} has no classifier, so there is nothing for a covariance pool to feed.")
    return str(name)


def _formats(model: nn.Module) -> Iterator[str]:
    """The layouts to try, the most likely first."""
    given = getattr(model, "output_fmt", None)
    if given is not None:
        yield str(getattr(given, "value", given))
        return
    if not hasattr(model, "num_prefix_tokens"):
        yield "NCHW"
    yield "NLC"


def _run(model: nn.Module, input_fmt: str) -> list[_Call]:
    side = 7
    channels = int(model.num_features)  # type: ignore[arg-type]
    shape = {
        "NCHW": (1, channels, side, side),
        "NHWC": (1, side, side, channels),
        "NLC": (1, side * side, channels),
    }[input_fmt]
    calls: list[_Call] = []

    def record(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor):
                calls.append(_Call(path, module, _on_map(args[0], input_fmt)))

        return hook

    handles = [
        module.register_forward_hook(record(path)) for path, module in model.named_modules() if _computes(module)
    ]
    modes = [(module, module.training) for module in model.modules()]
    like = next(model.parameters())
    model.eval()
    try:
        with torch.no_grad():
            out = model.forward_head(torch.zeros(shape, device=like.device, dtype=like.dtype))  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    if not isinstance(out, Tensor):
        raise GCPError(f"{type(model).__name__} has a head with several outputs; a covariance pool feeds one.")
    return calls


def _computes(module: nn.Module) -> bool:
    """Whether a module is a layer: without children, or with parameters of its own (timm's batch norm has children)."""
    return not any(module.children()) or any(True for _ in module.parameters(recurse=False))


def _on_map(x: Tensor, input_fmt: str) -> bool:
    if x.dim() == 4:
        positions = x.shape[1] * x.shape[2] if input_fmt == "NHWC" else x.shape[2] * x.shape[3]
        return positions > 1
    return x.dim() == 3 and x.shape[1] > 1


def _sort(model: nn.Module, classifier: str, input_fmt: str, calls: list[_Call]) -> Head:
    """Tells from the layers that ran in a head which of them stay and which are replaced."""
    family, name = family_of(model), type(model).__name__
    calls = [call for call in calls if call.path != classifier]
    pools = [_pooling_above(model, call.path) for call in calls]
    others = [call for call, pool in zip(calls, pools, strict=True) if pool is None]
    drop = next((call.path for call in reversed(others) if isinstance(call.module, nn.Dropout)), None)
    layers = [call for call in others if any(True for _ in call.module.parameters())]
    if family.hidden:
        layers = [call for call in layers if not call.path.startswith("pre_logits.")]
    norm = None
    if layers and _normalises(layers[0].module, int(model.num_features)):  # type: ignore[arg-type]
        norm = layers.pop(0).path
    container = classifier.partition(".")[0] if "." in classifier else None
    replaced = [pool for pool in pools if pool is not None]
    for call in layers:
        if call.on_map:
            raise GCPError(
                f"{name} cannot pool a covariance: its head runs {call.path} on the whole map, before it pools."
            )
        if (child := call.path.partition(".")[0]) != container:
            replaced.append(child)
    if drop is not None and drop.partition(".")[0] in replaced:
        drop = None
    prefix = int(getattr(model, "num_prefix_tokens", _UNCOUNTED_PREFIX.get(name, 0))) if input_fmt == "NLC" else 0
    return Head(classifier, input_fmt, prefix, norm, drop, family.hidden, tuple(dict.fromkeys(replaced)))


def _pooling_above(model: nn.Module, path: str) -> str | None:
    """The path of the attention pool that a layer is or belongs to."""
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        above = ".".join(parts[:end])
        if "AttentionPool" in type(model.get_submodule(above)).__name__:
            return above
    return None


def _normalises(module: nn.Module, channels: int) -> bool:
    """Whether a layer is a norm over the map's channels, applied to each position separately."""
    weight = getattr(module, "weight", None)
    position = "norm" in type(module).__name__.lower() and not isinstance(module, nn.modules.batchnorm._BatchNorm)
    return position and isinstance(weight, Tensor) and weight.shape == (channels,)
