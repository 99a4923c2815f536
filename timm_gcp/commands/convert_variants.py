"""Chooses the variant of a published network, stride and order of the triangle, that recognises labelled images."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from ..data.image_files import open_image
from ..errors import GCPError
from ..weights.upstream import PREPROCESSING, TRIU_ORDERS, Published

__all__ = ["Variant", "choose_by_images"]


@dataclass(frozen=True)
class Variant:
    """What a published file may not tell, and how well the network recognises images with it.

    Attributes:
        last_stride: stride of a ResNet's last stage; None for other networks.
        triu_order: order of the covariance's entries (``TRIU_ORDERS``).
        top1: accuracy in percent.
        loss: mean cross-entropy.
    """

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
) -> Variant:
    """Finds what a published file does not tell by evaluating every variant on labelled images.

    Args:
        published: the checkpoint.
        method: name of the method to evaluate with.
        images: some image files, each with its label.
        last_stride: stride of a ResNet's last stage; None tries both, whatever the file says.
        triu_order: order of the covariance's entries; None tries all.
        data_config: preprocessing (``timm.data.create_transform``); None for ``PREPROCESSING``.
        report: is called with one line per variant.

    Returns:
        The variant of the highest accuracy; of equal ones that of the smallest loss.

    Raises:
        GCPError: no images, a label or an image that cannot be used, or no variant that recognises any image.
    """
    if not images:
        raise GCPError("There are no images to choose by: give some, of several classes.")
    for file, label in images:
        if not 0 <= label < published.num_classes:
            raise GCPError(f"{file} has the label {label}, and {published.source} {published.num_classes} classes.")
    transform: Any = timm.data.create_transform(**{**PREPROCESSING, **(data_config or {})}, is_training=False)
    strides = [1, 2] if published.strided and not last_stride else [last_stride]
    variants = []
    for stride, order in itertools.product(strides, [triu_order] if triu_order else TRIU_ORDERS):
        model = published.build(method, stride, order)
        right, loss = 0, 0.0
        for file, label in images:
            logits = model(transform(open_image(file, "RGB", remedy="leave it out")).unsqueeze(0))[0]
            right += int(logits.argmax() == label)
            loss += float(nn.functional.cross_entropy(logits, torch.tensor(label)))
        variant = Variant(stride, order, 100 * right / len(images), loss / len(images))
        shown = f"last stride {stride}, triangle by {order}" if stride else f"triangle by {order}"
        report(f"{shown}: top-1 {variant.top1:.1f} % of {len(images)} images, loss {variant.loss:.3f}")
        variants.append(variant)
    best = min(variants, key=lambda variant: (-variant.top1, variant.loss))
    if not best.top1:
        raise GCPError(
            f"No variant of {published.source} recognises any of the {len(images)} images: check their labels and the "
            f"order of the classes, or give --last-stride and --triu-order."
        )
    return best
