"""Checkpoints that fast-MPN-COV and DifferentiableSVD published, in the layout of our models."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import clean_state_dict
from torch import Tensor, nn

from ..data.image_files import open_image
from ..errors import GCPError
from ..text import some_of
from .download import is_web_page, sha256_of
from .file import load_file, load_weights, read_weights, take_prefix, weights_of

__all__ = [
    "PREPROCESSING",
    "TRIU_ORDERS",
    "Choice",
    "Published",
    "choose_by_images",
    "convert",
    "is_published",
    "read_published",
]

TRIU_ORDERS = ("row", "column")
"""Orders in which a triangle of the covariance is read.

``row`` is ours, and that of fast-MPN-COV since its commit e68a5ee (2018-12-26) and of all of DifferentiableSVD: the
upper triangle, row by row. Before that commit, the only one that changed it, the lower triangle was read row by row;
the matrix being symmetric, that is the upper one by ``column``. Weights trained before keep that order:
``mpncovresnet50-15991845.pth`` and ``mpncovresnet101-ade9737a.pth``, which score 0.17 % with today's (issue 20 of
fast-MPN-COV, where its author names the change as the cause).
"""

PREPROCESSING = {
    "input_size": (3, 224, 224),
    "interpolation": "bilinear",
    "crop_pct": 0.875,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
"""The published evaluation on ImageNet: shorter side 256, centre crop of 224."""

_BY_COLUMN = ("15991845", "ade9737a")  # the first digits of the two files' SHA-256, which are in their names

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
_WRAPPED = r"^(features|representation|classifier)\.module\."  # DataParallel around a part
_UPSTREAM = r"((?:.+?\.)??)(?:representation|layer_reduce|features|classifier)\."  # a wrapper's prefix before a part
_RESNETS = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101"}
_CHANNELS = {"resnet50": 2048, "resnet101": 2048, "vgg16_bn": 512, "alexnet": 256}


@dataclass(frozen=True)
class _Layout:
    """Where upstream's layers are in our network.

    Attributes:
        backbone: timm's name.
        layers: upstream's prefix → ours.
        first_linear: our layer that sees the covariance.
        classifier: our last layer.
        arguments: of the backbone.
    """

    backbone: str
    layers: Mapping[str, str]
    first_linear: str = "fc"
    classifier: str = "fc"
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _with_hidden(backbone: str, places: tuple[int, int, int], classifier: str, **arguments: Any) -> _Layout:
    """An AlexNet or VGG: its classifier has two hidden layers, its three linear ones at these places."""
    names = ("pre_logits.fc1", "pre_logits.fc2", classifier)
    linear = {f"classifier.{at}": name for at, name in zip(places, names, strict=True)}
    return _Layout(backbone, {"features": "features", **linear, **_REDUCTION}, names[0], classifier, arguments)


@dataclass(frozen=True)
class Published:
    """A published checkpoint in our layout, and what its file tells.

    Attributes:
        weights: state dict of ``timm.create_model(f"{backbone}_{method}", num_classes=num_classes, **model_args)``,
            where ``method`` is any one without parameters, such as ``isqrt``, ``svdpade``, ``seb``: floating-point
            tensors in float32, those of the covariance's entries in the file's own order (see ``state_dict``).
        backbone: timm's name.
        num_classes: outputs.
        model_args: ``reduce``, for AlexNet ``batch_norm``, and ``last_stride`` where the file tells it.
        stride_open: the file does not tell whether the last stage has stride 1 or 2.
        first_linear: the layer that sees the covariance.
        source: the file, as messages name it.
        sha256: of the file; '' for weights from elsewhere.
    """

    weights: Mapping[str, Tensor] = field(repr=False)
    backbone: str
    num_classes: int
    model_args: Mapping[str, Any]
    stride_open: bool
    first_linear: str
    source: str
    sha256: str = ""

    @property
    def triu_order(self) -> str:
        """The order known for this very file; 'row' for all that are not known as older."""
        return "column" if self.sha256.startswith(_BY_COLUMN) else "row"

    def state_dict(self, triu_order: str | None = None) -> dict[str, Tensor]:
        """The weights for our row-major upper triangle.

        Args:
            triu_order: order of the covariance's entries in the file (``TRIU_ORDERS``); None for the known one.
        """
        weights = dict(self.weights)
        if (triu_order or self.triu_order) == "column":
            key = f"{self.first_linear}.weight"
            channels = _triangle_side(weights[key].shape[1])
            row, column = torch.triu_indices(channels, channels)
            weights[key] = weights[key][:, column * (column + 1) // 2 + row]
        return weights

    def build(self, method: str, last_stride: int | None = None, triu_order: str | None = None) -> nn.Module:
        """The network with these weights, for evaluation. The tensors are shared with ``weights``.

        Args:
            method: a name of ``timm_gcp.METHODS`` whose covariance has this form.
            last_stride: of a ResNet's last stage, where the file does not tell it.
            triu_order: as in ``state_dict``.

        Raises:
            GCPError: the stride is neither known nor given, or the method's classifier has another width.
        """
        arguments = {**self.model_args, **({"last_stride": last_stride} if last_stride else {})}
        if self.stride_open and not last_stride:
            raise GCPError(
                f"{self.source} does not tell the stride of its {self.backbone}'s last stage: give --last-stride 2 for "
                f"a 'resnet', 1 for an 'mpncovresnet', or --images FOLDER to find out."
            )
        with torch.device("meta"):
            model: Any = timm.create_model(f"{self.backbone}_{method}", num_classes=self.num_classes, **arguments)
        load_weights(model, self.state_dict(triu_order), self.source)
        model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, **PREPROCESSING}
        return model.eval()


def is_published(weights: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of upstream's networks (or torchvision's VGG), not those of timm's.

    The names may be under a wrapper's prefix, such as ``model.`` or ``net.``.
    """
    return bool(_wrappers(weights))


def _wrappers(weights: Mapping[str, Tensor]) -> list[str]:
    """The prefixes under which there is a network of upstream's; [''] for one without a wrapper."""
    found = (re.match(_UPSTREAM, key) for key in weights)
    prefixes = dict.fromkeys(match[1] for match in found if match)
    return [""] if _has_upstream_names(weights, "") else [p for p in prefixes if p and _has_upstream_names(weights, p)]


def _has_upstream_names(weights: Mapping[str, Tensor], prefix: str) -> bool:
    first = {key.removeprefix(prefix).partition(".")[0] for key in weights if key.startswith(prefix)}
    return bool(first & {"representation", "layer_reduce"}) or (
        {"features", "classifier"} <= first
        and (f"{prefix}features.0.weight" in weights or f"{prefix}features.module.0.weight" in weights)
    )


def read_published(path: str | os.PathLike[str]) -> Published:
    """Reads a published checkpoint. Nothing in the file is executed.

    Args:
        path: what ``torch.save`` wrote, a training checkpoint (``epoch, arch, state_dict, best_prec1, optimizer``) or a
            state dict, or a safetensors file.

    Raises:
        GCPError: no such file, a damaged one, a web page, one with pickled objects, or as ``convert``.
    """
    file = Path(path)
    if file.is_file():
        if not file.stat().st_size:
            raise GCPError(f"{path} is empty; download it again.")
        with open(file, "rb") as content:
            if is_web_page(content.read(1024)):
                raise GCPError(f"{path} is a web page, not a checkpoint; download the file itself.")
    if str(path).endswith(".safetensors"):
        arch, weights, ordered = "", read_weights(path), False
    else:
        checkpoint = load_file(path)
        weights, ordered = weights_of(checkpoint, path), True
        found = checkpoint.get("arch")
        arch = found if isinstance(found, str) else ""
        own = [value.untyped_storage() for value in weights.values() if value.is_cpu and value.layout == torch.strided]
        # Older PyTorch takes a size from the file without comparing it with what is there.
        if sum({part.data_ptr(): part.nbytes() for part in own}.values()) > file.stat().st_size:
            raise GCPError(f"{path} is damaged: its tensors are larger than itself; download it again.")
    return convert(weights, arch, source=str(path), ordered=ordered, sha256=sha256_of(file))


def convert(
    weights: Mapping[str, Tensor],
    arch: str = "",
    *,
    source: str = "The checkpoint",
    ordered: bool = True,
    sha256: str = "",
) -> Published:
    """Brings a published state dict into our layout.

    The layout is told from the names and shapes: ``features.*``, ``representation.*``, ``classifier.*`` (ResNet-50 and
    -101, VGG-16-BN, AlexNet with and without batch norm, also with DataParallel's ``module``), or the ResNets'
    ``conv1`` … ``layer4``, ``layer_reduce``, ``layer_reduce_bn``, ``fc``. Every root has the same parameters, none. A
    prefix of a wrapper, such as ``model.`` or ``net.``, is taken off with a warning that says what was left.

    The stride of a ResNet's last stage is not in the weights. It is 1 in the networks called ``mpncovresnet``, 2 in
    those called ``resnet``, which ``arch`` tells, or else the order of the entries: upstream's wrapper puts an
    ``mpncovresnet``'s representation after its classifier, a ``resnet``'s before.

    Args:
        weights: entry → tensor.
        arch: upstream's name of the network, from a training checkpoint.
        source: what messages call it.
        ordered: the entries come in the order in which upstream saved them (safetensors sorts them).
        sha256: of the file.

    Raises:
        GCPError: none of these layouts, entries that do not fit (the first are named), a head that does not see a
            covariance, or weights that are not finite.
    """
    plain = clean_state_dict(dict(weights))
    wrappers = _wrappers(plain)
    if wrappers and "" not in wrappers:
        plain = take_prefix(plain, wrappers, source)
    plain = {re.sub(_WRAPPED, r"\1.", key): value for key, value in plain.items()}
    _check_storage(plain, source)
    layout = _layout(plain, source)
    ours: dict[str, Tensor] = {}
    unknown = []
    for key, value in plain.items():
        layer = next((prefix for prefix in _prefixes(key) if prefix in layout.layers), None)
        if layer is None:
            unknown.append(key)
        else:
            ours[layout.layers[layer] + key[len(layer) :]] = value.float() if value.is_floating_point() else value
    if unknown:
        raise GCPError(
            f"{source} is no published {layout.backbone}: it has {some_of(unknown, 3)}; give a checkpoint of "
            f"fast-MPN-COV or DifferentiableSVD."
        )
    for key in [key for key in ours if key.endswith(".running_mean")]:  # PyTorch before 0.4.1 did not count batches
        ours.setdefault(key.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    reduction = ours.get("global_pool.reduce.conv.weight")
    reduce = 0 if reduction is None else reduction.shape[0]
    _check_head(ours, layout, reduce, source)
    strided = layout.backbone in _RESNETS.values()
    stride = _last_stride(list(plain), arch, ordered) if strided else None
    published = Published(
        weights=ours,
        backbone=layout.backbone,
        num_classes=ours[f"{layout.classifier}.weight"].shape[0],
        model_args={**layout.arguments, "reduce": reduce, **({"last_stride": stride} if stride else {})},
        stride_open=strided and stride is None,
        first_linear=layout.first_linear,
        source=source,
        sha256=sha256,
    )
    published.build("isqrt", (stride or 1) if strided else None)  # every name and shape
    bad = [key for key, value in ours.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise GCPError(f"{source} holds NaN or infinite weights ({some_of(bad, 3)}); use another checkpoint.")
    return published


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _layout(weights: Mapping[str, Tensor], source: str) -> _Layout:
    stem = weights.get("features.0.weight")
    shape = tuple(stem.shape) if stem is not None else ()
    batch_norm = "features.1.running_mean" in weights
    if "conv1.weight" in weights and "layer_reduce.weight" in weights:
        return _Layout(_resnet(weights, r"layer(\d)\.(\d+)\.", 1, source), _STANDALONE_RESNET)
    if shape == (64, 3, 7, 7):
        return _Layout(_resnet(weights, r"features\.(\d)\.(\d+)\.", 4, source), _SEQUENTIAL_RESNET)
    if shape == (64, 3, 3, 3) and batch_norm:
        return _with_hidden("vgg16_bn", (0, 3, 6), "head.fc")
    if shape == (64, 3, 11, 11):
        return _with_hidden("alexnet", (0, 2, 4) if batch_norm else (1, 4, 6), "head", batch_norm=batch_norm)
    raise GCPError(
        f"{source} has none of the published layouts (its entries begin with {some_of(list(weights), 3)}); give a "
        f"checkpoint of fast-MPN-COV or DifferentiableSVD: ResNet-50, ResNet-101, VGG-16-BN or AlexNet with a "
        f"covariance head."
    )


def _resnet(weights: Mapping[str, Tensor], block: str, first: int, source: str) -> str:
    found = {match.groups() for key in weights if (match := re.match(block, key))}
    blocks = tuple(sum(stage == str(first + i) for stage, _ in found) for i in range(4))
    if blocks not in _RESNETS:
        raise GCPError(
            f"{source} is a ResNet of {'-'.join(map(str, blocks))} blocks; ResNet-50 (3-4-6-3) and ResNet-101 "
            f"(3-4-23-3) were published and can be converted."
        )
    return _RESNETS[blocks]


def _last_stride(keys: list[str], arch: str, ordered: bool) -> int | None:
    """The stride of a published ResNet's last stage; None where neither its name nor its entries tell."""
    if arch.startswith("mpncov") or "layer_reduce.weight" in keys or "features.8.weight" in keys:
        return 1
    if arch.startswith("resnet"):
        return 2
    parts = " ".join(dict.fromkeys(key.partition(".")[0] for key in keys))
    order = {"features classifier representation": 1, "features representation classifier": 2}
    return order.get(parts) if ordered else None


def _triangle_side(width: int) -> int:
    """C of a triangle of ``C(C+1)/2`` entries."""
    return int(((8 * width + 1) ** 0.5 - 1) / 2 + 0.5)


def _check_storage(weights: Mapping[str, Tensor], source: str) -> None:
    # A view may claim any number of elements of the few that the file holds.
    bad = [
        key
        for key, value in weights.items()
        if value.layout != torch.strided
        or value.device.type != "cpu"
        or value.numel() * value.element_size() > value.untyped_storage().nbytes()
    ]
    if bad:
        raise GCPError(
            f"{source} holds tensors without values of their own ({some_of(bad, 3)}); use another checkpoint."
        )


def _check_head(weights: Mapping[str, Tensor], layout: _Layout, reduce: int, source: str) -> None:
    for layer in (layout.first_linear, layout.classifier):
        if f"{layer}.weight" not in weights or weights[f"{layer}.weight"].dim() != 2:
            upstream = next(name for name, ours in layout.layers.items() if ours == layer)
            raise GCPError(f"{source} lacks the matrix {upstream}.weight of its classifier: give the whole checkpoint.")
    channels = reduce or _CHANNELS[layout.backbone]
    width, wanted = weights[f"{layout.first_linear}.weight"].shape[1], channels * (channels + 1) // 2
    if width != wanted:
        raise GCPError(
            f"{source} has no covariance head: its classifier sees {width} values, and the covariance of {channels} "
            f"channels has {wanted}; give a checkpoint of MPNCOV, SVD_Pade, SEB or another root."
        )


@dataclass(frozen=True)
class Choice:
    """What the images decided; ``top1`` in percent, ``loss`` the mean cross-entropy."""

    last_stride: int | None
    triu_order: str
    top1: float
    loss: float


@torch.no_grad()
def choose_by_images(
    published: Published,
    method: str,
    images: Sequence[tuple[str | os.PathLike[str], int]],
    *,
    last_stride: int | None = None,
    triu_order: str | None = None,
    data_config: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = print,
) -> Choice:
    """Finds what a file does not tell by evaluating every candidate on labelled images.

    Args:
        published: the checkpoint.
        method: name of the method to evaluate with.
        images: a handful of image files, each with its label.
        last_stride: stride of a ResNet's last stage; None tries both, whatever the file says.
        triu_order: order of the covariance's entries; None tries all.
        data_config: preprocessing (``timm.data.create_transform``); None for ``PREPROCESSING``.
        report: takes a line for each candidate.

    Returns:
        The candidate of the highest accuracy; among equals that of the smallest loss.

    Raises:
        GCPError: no images, a label or an image that cannot be used, or no candidate that recognises any image.
    """
    if not images:
        raise GCPError("There are no images to choose by: give some, of several classes.")
    for file, label in images:
        if not 0 <= label < published.num_classes:
            raise GCPError(f"{file} has the label {label}, and {published.source} {published.num_classes} classes.")
    transform: Any = timm.data.create_transform(**{**PREPROCESSING, **(data_config or {})}, is_training=False)
    strided = published.backbone in _RESNETS.values()
    choices = []
    for stride in [last_stride] if last_stride or not strided else [1, 2]:
        for order in [triu_order] if triu_order else TRIU_ORDERS:
            model = published.build(method, stride, order)
            right, loss = 0, 0.0
            for file, label in images:
                logits = model(transform(open_image(file, "RGB", remedy="leave it out")).unsqueeze(0))[0]
                right += int(logits.argmax() == label)
                loss += float(nn.functional.cross_entropy(logits, torch.tensor(label)))
            choice = Choice(stride, order, 100 * right / len(images), loss / len(images))
            candidate = f"last stride {stride}, triangle by {order}" if stride else f"triangle by {order}"
            report(f"{candidate}: top-1 {choice.top1:.1f} % of {len(images)} images, loss {choice.loss:.3f}")
            choices.append(choice)
    best = min(choices, key=lambda choice: (-choice.top1, choice.loss))
    if not best.top1:
        raise GCPError(
            f"No variant of {published.source} recognises any of the {len(images)} images: check their labels and the "
            f"order of the classes, or give --last-stride and --triu-order."
        )
    return best
