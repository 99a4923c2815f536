"""Reads checkpoints of fast-MPN-COV, DifferentiableSVD and GCP_Optimization, into the layout of our models."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import clean_state_dict
from torch import Tensor, nn

from ..errors import GCPError
from ..files import sha256_of
from ..text import some_of
from .download import is_web_page
from .file import load_file, load_weights, read_weights, take_prefix, weights_of
from .upstream_layouts import Layout, find_last_stride, find_layout, wrapper_prefixes

__all__ = ["PREPROCESSING", "TRIU_ORDERS", "Published", "convert", "read_published"]

TRIU_ORDERS = ("row", "column")
"""Orders in which the entries of a covariance's triangle can be stored.

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

_WRAPPED = r"^(features|representation|classifier)\.module\."  # DataParallel around a part


@dataclass(frozen=True)
class Published:
    """A published checkpoint in our layout, with what its file tells of the network.

    Attributes:
        weights: state dict of ``timm.create_model(f"{backbone}_{method}", num_classes=num_classes, **model_args)``,
            where ``method`` is any one without parameters, such as ``isqrt``, ``svdpade``, ``seb``: floating-point
            tensors in float32, those of the covariance's entries in the file's own order (see ``state_dict``).
        backbone: timm's name.
        num_classes: outputs.
        model_args: ``reduce``, for AlexNet ``batch_norm``, and ``last_stride`` where the file tells it.
        strided: the network is a ResNet, whose last stage has stride 1 or 2.
        first_linear: the layer that sees the covariance.
        source: the file, as messages name it.
        sha256: of the file; '' for weights from elsewhere.
    """

    weights: Mapping[str, Tensor] = field(repr=False)
    backbone: str
    num_classes: int
    model_args: Mapping[str, Any]
    strided: bool
    first_linear: str
    source: str
    sha256: str = ""

    @property
    def stride_open(self) -> bool:
        """Whether the file does not tell the stride of the last stage that the network needs."""
        return self.strided and "last_stride" not in self.model_args

    @property
    def triu_order(self) -> str:
        """The order of the covariance's entries: 'column' for the two files that are known to have it, else 'row'."""
        return "column" if self.sha256.startswith(_BY_COLUMN) else "row"

    def state_dict(self, triu_order: str | None = None) -> dict[str, Tensor]:
        """The weights, with the entries of the covariance in our order (upper triangle, row by row).

        Args:
            triu_order: order of the covariance's entries in the file (``TRIU_ORDERS``); None for ``self.triu_order``.
        """
        weights = dict(self.weights)
        if (triu_order or self.triu_order) == "column":
            key = f"{self.first_linear}.weight"
            channels = _triangle_side(weights[key].shape[1])
            row, column = torch.triu_indices(channels, channels)
            weights[key] = weights[key][:, column * (column + 1) // 2 + row]
        return weights

    def build(self, method: str, last_stride: int | None = None, triu_order: str | None = None) -> nn.Module:
        """Builds the network with these weights, for evaluation. It shares its tensors with ``weights``.

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
    """Converts a published state dict to our layout.

    The layout is told from the names and shapes: ``features.*``, ``representation.*``, ``classifier.*`` (ResNet-18 to
    -152, VGG-16-BN, AlexNet with and without batch norm, also with DataParallel's ``module``), or the ResNets'
    ``conv1`` … ``layer4``, ``layer_reduce``, ``layer_reduce_bn``, ``fc``. No root has parameters. The
    prefix of a wrapper, such as ``model.`` or ``net.``, is removed, and a warning says what was left out.

    The stride of a ResNet's last stage is not in the weights. It is 1 in the networks called ``mpncovresnet`` and in
    those with a ``layer_reduce`` (GCP_Optimization has only these), and 2 in those called ``resnet``. ``arch`` tells
    the name, or else the order of the entries does: upstream puts the representation of an ``mpncovresnet`` after its
    classifier, that of a ``resnet`` before.

    Args:
        weights: state dict.
        arch: upstream's name of the network, from a training checkpoint.
        source: what messages call the checkpoint.
        ordered: the entries are in the order in which upstream saved them (safetensors sorts them).
        sha256: of the file.

    Raises:
        GCPError: another layout, entries that do not fit (the message names the first), a head without covariance, or
            weights that are not finite.
    """
    plain = clean_state_dict(dict(weights))
    wrappers = wrapper_prefixes(plain)
    if wrappers and "" not in wrappers:
        plain = take_prefix(plain, wrappers, source)
    plain = {re.sub(_WRAPPED, r"\1.", key): value for key, value in plain.items()}
    _check_storage(plain, source)
    layout = find_layout(plain, source)
    ours = _renamed(plain, layout, source)
    reduction = ours.get("global_pool.reduce.conv.weight")
    reduce = 0 if reduction is None else reduction.shape[0]
    _check_head(ours, layout, reduce, source)
    stride = find_last_stride(list(plain), arch, ordered) if layout.strided else None
    published = Published(
        weights=ours,
        backbone=layout.backbone,
        num_classes=ours[f"{layout.classifier}.weight"].shape[0],
        model_args={**layout.arguments, "reduce": reduce, **({"last_stride": stride} if stride else {})},
        strided=layout.strided,
        first_linear=layout.first_linear,
        source=source,
        sha256=sha256,
    )
    published.build("isqrt", (stride or 1) if layout.strided else None)  # raises where a name or shape does not fit
    bad = [key for key, value in ours.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise GCPError(f"{source} holds NaN or infinite weights ({some_of(bad, 3)}); use another checkpoint.")
    return published


def _renamed(weights: Mapping[str, Tensor], layout: Layout, source: str) -> dict[str, Tensor]:
    """The weights under our names, in float32."""
    ours: dict[str, Tensor] = {}
    unknown = []
    for key, value in weights.items():
        layer = next((prefix for prefix in _prefixes(key) if prefix in layout.layers), None)
        if layer is None:
            unknown.append(key)
        else:
            ours[layout.layers[layer] + key[len(layer) :]] = value.float() if value.is_floating_point() else value
    if unknown:
        raise GCPError(
            f"{source} is no published {layout.backbone}: it has {some_of(unknown, 3)}; give a checkpoint of "
            f"fast-MPN-COV, DifferentiableSVD or GCP_Optimization."
        )
    for key in [key for key in ours if key.endswith(".running_mean")]:  # PyTorch before 0.4.1 did not count batches
        ours.setdefault(key.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    return ours


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _triangle_side(width: int) -> int:
    """C of a triangle of ``C(C+1)/2`` entries."""
    return int(((8 * width + 1) ** 0.5 - 1) / 2 + 0.5)


def _check_storage(weights: Mapping[str, Tensor], source: str) -> None:
    # A view may claim more elements than the file holds.
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


def _check_head(weights: Mapping[str, Tensor], layout: Layout, reduce: int, source: str) -> None:
    for layer in (layout.first_linear, layout.classifier):
        if f"{layer}.weight" not in weights or weights[f"{layer}.weight"].dim() != 2:
            upstream = next(name for name, ours in layout.layers.items() if ours == layer)
            raise GCPError(f"{source} lacks the matrix {upstream}.weight of its classifier: give the whole checkpoint.")
    channels = reduce or layout.channels
    width, wanted = weights[f"{layout.first_linear}.weight"].shape[1], channels * (channels + 1) // 2
    if width != wanted:
        raise GCPError(
            f"{source} has no covariance head: its classifier sees {width} values, and the covariance of {channels} "
            f"channels has {wanted}; give a checkpoint of MPNCOV, SVD_Pade, SEB or another root."
        )
