"""The classifier of a model without a covariance pool, fitted to the vectors that it gets from the frozen backbone."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..data.loaders import evaluation_loader
from ..data.preprocessing import preprocessing
from ..errors import GCPError
from ..output import BAR
from .classifiers import centred, fit_ridge, float64_device, temperature_of
from .fits import Result
from .options import ProbeOptions

__all__ = ["PlainHead", "fit_plain_head"]


@dataclass(frozen=True)
class PlainHead:
    """A linear classifier.

    Attributes:
        weights: ``[classes, D]``, float64.
        bias: ``[classes]``; the layer gives logits.
    """

    weights: Tensor
    bias: Tensor


def fit_plain_head(model: nn.Module, train: Any, options: ProbeOptions) -> tuple[PlainHead, Result]:
    """Fits the classifier of a model to its own pooled features, with ridge regression.

    Args:
        model: a timm model that ends in a linear layer; it is left in evaluation mode.
        train: the training images, in timm's form.
        options: preprocessing and loading.

    Returns:
        The classifier, and its accuracy.

    Raises:
        GCPError: the model does not end in a linear layer with a bias, or images of less than two classes.
    """
    began, classes = time.monotonic(), _classifier(model).out_features
    features, labels = _features(model, train, options)
    mean = features.mean(0)
    features -= mean
    wide = features.to(float64_device(options.torch_device))
    kernel = centred(wide @ wide.T)
    scale = float(kernel.diagonal().mean()) or 1.0
    fit = fit_ridge(kernel / scale, labels, classes)
    weights = fit.coefficients.T @ features / scale
    factor = temperature_of(fit.left_out, labels)
    left_out = None if fit.left_out is None else 100 * float((fit.left_out.argmax(1) == labels).double().mean())
    seconds = round(time.monotonic() - began, 1)
    result = Result("pooled features", features.shape[1], left_out, None, fit.strength, seconds)
    return PlainHead(factor * weights, factor * (fit.intercept - weights @ mean)), result


@torch.no_grad()
def _features(model: nn.Module, train: Any, options: ProbeOptions) -> tuple[Tensor, Tensor]:
    """What the classifier gets for every image: ``[images, D]`` in float64, and the labels."""
    config, device = preprocessing(options, model, use_test_size=True), options.torch_device
    autocast = options.autocast(device)
    layout = torch.channels_last if options.channels_last else torch.preserve_format
    model.to(device, memory_format=layout).eval()  # type: ignore[call-overload]
    found: list[Tensor] = []
    hook = _classifier(model).register_forward_pre_hook(lambda _, given: found.append(given[0].double().cpu()))
    labels = []
    try:
        with evaluation_loader(options, train, config, device, options.batch_size) as loader:
            for images, own in tqdm(loader, desc="features", disable=None, bar_format=BAR):
                with autocast():
                    model(images.to(device))
                labels.append(own.cpu())
    finally:
        hook.remove()
    return torch.cat(found), torch.cat(labels)


def _classifier(model: Any) -> nn.Linear:
    """The last layer.

    Raises:
        GCPError: it is not linear, or there are two.
    """
    last = model.get_classifier()
    if not isinstance(last, nn.Linear) or last.bias is None:
        raise GCPError(
            f"{type(model).__name__} does not end in one linear layer, so a probe cannot fit its classifier."
        )
    return last
