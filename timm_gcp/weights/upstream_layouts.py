"""The layouts of the networks that fast-MPN-COV and its descendants published, told from names and shapes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import GCPError
from ..text import some_of

__all__ = ["Layout", "find_last_stride", "find_layout", "is_published", "wrapper_prefixes"]

_REDUCTION = {
    "representation.conv_dr_block.0": "global_pool.reduce.conv",
    "representation.conv_dr_block.1": "global_pool.reduce.norm",
}
_STAGES = {f"layer{i}": f"layer{i}" for i in range(1, 5)}
_STANDALONE_RESNET = {
    **{"conv1": "conv1", "bn1": "bn1", "fc": "fc"},
    **_STAGES,
    "layer_reduce": "global_pool.reduce.conv",
    "layer_reduce_bn": "global_pool.reduce.norm",
}
_SEQUENTIAL_RESNET = {
    **{"features.0": "conv1", "features.1": "bn1", "classifier": "fc"},
    **{f"features.{i + 3}": f"layer{i}" for i in range(1, 5)},
    # Fine-tuned from a covariance network, whose reduction is then the end of its features.
    "features.8": "global_pool.reduce.conv",
    "features.9": "global_pool.reduce.norm",
    **_REDUCTION,
}
_UPSTREAM = r"((?:.+?\.)??)(?:representation|layer_reduce|features|classifier)\."  # a wrapper's prefix before a part
# Blocks of the four stages, and whether they are bottlenecks → timm's name.
_RESNETS = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}


@dataclass(frozen=True)
class Layout:
    """Maps the layers of a published network to those of ours.

    Attributes:
        backbone: timm's name.
        layers: upstream's prefix → ours.
        channels: of the last feature map.
        first_linear: our layer that sees the covariance.
        classifier: our last layer.
        arguments: of the backbone.
    """

    backbone: str
    layers: Mapping[str, str]
    channels: int
    first_linear: str = "fc"
    classifier: str = "fc"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def strided(self) -> bool:
        """Whether the network is a ResNet, whose last stage has stride 1 or 2."""
        return self.backbone in _RESNETS.values()


def _with_hidden(
    backbone: str, channels: int, places: tuple[int, int, int], classifier: str, **arguments: Any
) -> Layout:
    """The layout of an AlexNet or VGG, whose classifier has three linear layers, at these places."""
    names = ("pre_logits.fc1", "pre_logits.fc2", classifier)
    linear = {f"classifier.{at}": name for at, name in zip(places, names, strict=True)}
    return Layout(backbone, {"features": "features", **linear, **_REDUCTION}, channels, names[0], classifier, arguments)


def is_published(weights: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the entry names of upstream's networks (or of torchvision's VGG), not those of timm's.

    The names may be under a wrapper's prefix, such as ``model.`` or ``net.``.
    """
    return bool(wrapper_prefixes(weights))


def wrapper_prefixes(weights: Mapping[str, Tensor]) -> list[str]:
    """The prefixes, such as ``model.``, under which a state dict has a network of upstream's; [''] for no wrapper."""
    found = (re.match(_UPSTREAM, key) for key in weights)
    prefixes = dict.fromkeys(match[1] for match in found if match)
    return [""] if _has_upstream_names(weights, "") else [p for p in prefixes if p and _has_upstream_names(weights, p)]


def _has_upstream_names(weights: Mapping[str, Tensor], prefix: str) -> bool:
    first = {key.removeprefix(prefix).partition(".")[0] for key in weights if key.startswith(prefix)}
    return bool(first & {"representation", "layer_reduce"}) or (
        {"features", "classifier"} <= first
        and (f"{prefix}features.0.weight" in weights or f"{prefix}features.module.0.weight" in weights)
    )


def find_layout(weights: Mapping[str, Tensor], source: str) -> Layout:
    """Tells the layout of a published network from the names and shapes of its weights.

    Args:
        weights: state dict, without a wrapper's prefix.
        source: what messages call it.

    Raises:
        GCPError: it has none of the published layouts.
    """
    stem = weights.get("features.0.weight")
    shape = tuple(stem.shape) if stem is not None else ()
    batch_norm = "features.1.running_mean" in weights
    if "conv1.weight" in weights and "layer_reduce.weight" in weights:
        return _resnet(weights, r"layer(\d)\.(\d+)\.", 1, _STANDALONE_RESNET, source)
    if shape == (64, 3, 7, 7):
        return _resnet(weights, r"features\.(\d)\.(\d+)\.", 4, _SEQUENTIAL_RESNET, source)
    if shape == (64, 3, 3, 3) and batch_norm:
        return _with_hidden("vgg16_bn", 512, (0, 3, 6), "head.fc")
    if shape == (64, 3, 11, 11):
        return _with_hidden("alexnet", 256, (0, 2, 4) if batch_norm else (1, 4, 6), "head", batch_norm=batch_norm)
    raise GCPError(
        f"{source} has none of the published layouts (its entries begin with {some_of(list(weights), 3)}); give a "
        f"checkpoint of fast-MPN-COV, DifferentiableSVD or GCP_Optimization: a ResNet, VGG-16-BN or AlexNet with a "
        f"covariance head."
    )


def _resnet(weights: Mapping[str, Tensor], block: str, first: int, layers: Mapping[str, str], source: str) -> Layout:
    """The layout of a ResNet, told from the number and the kind of its blocks.

    Args:
        weights: state dict.
        block: pattern of the start of an entry in a block, with groups for the stage and the block.
        first: the number of the first stage in the names.
        layers: upstream's prefix → ours.
        source: what messages call the state dict.
    """
    found = {match.groups() for key in weights if (match := re.match(block, key))}
    blocks = tuple(sum(stage == str(first + i) for stage, _ in found) for i in range(4))
    bottlenecks = any(re.match(block + r"conv3\.", key) for key in weights)
    backbone = _RESNETS.get((blocks, bottlenecks))
    if backbone is None:
        raise GCPError(
            f"{source} is a ResNet of {'-'.join(map(str, blocks))} blocks "
            f"({'bottlenecks' if bottlenecks else 'basic blocks'}); those of {', '.join(_RESNETS.values())} can be "
            "converted."
        )
    return Layout(backbone, layers, 2048 if bottlenecks else 512)


def find_last_stride(keys: Sequence[str], arch: str, ordered: bool) -> int | None:
    """The stride of a published ResNet's last stage; None where neither its name nor its entries tell.

    Args:
        keys: names of the entries.
        arch: upstream's name of the network, '' if unknown.
        ordered: the entries come in the order in which upstream saved them.
    """
    if arch.startswith("mpncov") or "layer_reduce.weight" in keys or "features.8.weight" in keys:
        return 1
    if arch.startswith("resnet"):
        return 2
    parts = " ".join(dict.fromkeys(key.partition(".")[0] for key in keys))
    order = {"features classifier representation": 1, "features representation classifier": 2}
    return order.get(parts) if ordered else None
