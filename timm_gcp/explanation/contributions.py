"""The logits of a model with a covariance pool as sums of contributions of the positions of its feature map."""

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GCPError
from ..map_pool import MapPool, at_common_length
from ..models.mixin import GCPMixin
from ..pooling import GlobalCovariancePool
from ..tasks import task_of_model
from .grid import grid_of
from .rules import Rule, rule_of

__all__ = ["Explanation", "check_explainable", "explain"]

_ENTRIES = 2**21
"""Entries of the matrices of the images that are explained at a time."""
_RUNNING = threading.Lock()
"""Held while a model runs in evaluation mode and its pool's input is noted: one explanation at a time."""


@dataclass(frozen=True)
class Explanation:
    """What each position of the feature map contributes to the logits of some classes.

    For every image and class ``logits = covariance.sum() + mean.sum() + token + bias``. All but the probabilities is
    in float64, on the CPU.

    Attributes:
        classes: of each image, ``[B, K]``, the most probable first unless they were given.
        probabilities: of these classes, ``[B, K]``, by the model itself.
        logits: of these classes, ``[B, K]``.
        covariance: contributions to the second-order part, ``[B, K, h, w]``.
        mean: contributions to the part of the mean beside the covariance, ``[B, K, h, w]``; None where there is none.
        token: the part of the class token, which has no position, ``[B, K]``; None where there is none.
        bias: of the classifier, ``[B, K]``.
    """

    classes: Tensor
    probabilities: Tensor
    logits: Tensor
    covariance: Tensor
    mean: Tensor | None
    token: Tensor | None
    bias: Tensor


def explain(model: nn.Module, images: Tensor, classes: Sequence[int] | None = None, top: int = 3) -> Explanation:
    """Divides the logits of a model with a covariance pool among the positions of its feature map.

    The classifier is linear in the pooled vector, and the pooled vector is homogeneous in the centred features x̄ₘ of
    the positions. With the gradient G of a logit with respect to the covariance, position m contributes 2 x̄ₘᵀGx̄ₘ under
    a root and x̄ₘᵀGx̄ₘ under the covariance itself. These numbers add up to the second-order part of the logit. The
    gradient is exact, whatever the method trains with (`timm_gcp.explanation.rules`). Groups, a count sketch and any
    reduction are included: a reduction is applied to each position alone, and a position contributes by its reduced
    features. The mean beside a covariance is divided among the positions too, apart from it; the class token has no
    position. With ``normalize_parts`` the factor that scales a part is a constant of the image.

    The features of a position depend on its surroundings in the image, as far as the backbone sees. The head is
    computed in float64 on the CPU.

    Args:
        model: a timm model with a covariance pool (``timm_gcp.graft``, or ``<backbone>_<method>``). It is run as in
            evaluation and not changed.
        images: ``[B, 3, H, W]``, preprocessed for the model.
        classes: those to explain for every image; None takes the most probable ones of each.
        top: how many of the most probable ones, or all where there are fewer.

    Returns:
        The contributions.

    Raises:
        GCPError: the model or its method has no such rule (the message says why), or there is no such class.

    Example::

        found = timm_gcp.explain(model, images, top=2)
        found.covariance[0, 0]  # [h, w]: where the evidence for the best class of the first image is
    """
    rule = check_explainable(model)
    if images.dim() != 4 or not len(images):
        raise GCPError(f"`images` is a batch [B, C, H, W] of one image or more, not {list(images.shape)}.")
    network: Any = model
    pool: GlobalCovariancePool = network.global_pool
    with torch.inference_mode(False):
        maps, token, scores = _run(model, images.clone())
        chosen = _classes(scores, classes, top)
        probabilities = task_of_model(model).probabilities(scores).gather(1, chosen)
        head = _Head(pool, network.get_classifier(), rule, (images.shape[-2], images.shape[-1]))
        size = max(1, _ENTRIES // pool.channels**2)
        parts = [
            head.divide(maps[start : start + size], None if token is None else token[start : start + size], some)
            for start, some in zip(range(0, len(maps), size), chosen.split(size), strict=True)
        ]
    covariance, mean, of_token, bias = (
        None if found[0] is None else torch.cat([each for each in found if each is not None])
        for found in zip(*parts, strict=True)
    )
    assert covariance is not None
    assert bias is not None
    logits = covariance.sum((2, 3)) + bias
    logits = logits if mean is None else logits + mean.sum((2, 3))
    logits = logits if of_token is None else logits + of_token
    return Explanation(chosen, probabilities, logits, covariance, mean, of_token, bias)


def check_explainable(model: nn.Module) -> Rule:
    """The rule of a model's pool.

    Raises:
        GCPError: the model, or its method, cannot be explained; the message says why.
    """
    network: Any = model
    pool: Any = getattr(model, "global_pool", None)
    if not isinstance(model, GCPMixin) or not isinstance(pool, MapPool):
        raise GCPError(
            f"{type(model).__name__} has no covariance pool to explain; create a model such as resnet50_isqrt, or put "
            "a pool on yours by timm_gcp.graft."
        )
    rule = rule_of(pool.method, getattr(pool, "method_args", None))  # Moment Probing has none, and is refused
    if network.gcp_head.hidden:
        raise GCPError(
            f"{type(model).__name__} has hidden layers between pool and classifier, so its logits are not linear in "
            "the pooled vector; explain a model without them, such as a ResNet."
        )
    if not isinstance(network.get_classifier(), nn.Linear):
        raise GCPError(f"{type(model).__name__} has no linear classifier to explain; create it with num_classes.")
    return rule


@torch.no_grad()
def _run(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """What the pool is given, and the logits in float32, on the CPU."""
    given: list[tuple[Tensor, ...]] = []
    network: Any = model
    own = threading.get_ident()

    def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        if threading.get_ident() == own:  # another thread may use the model meanwhile
            given.append(args)

    with _RUNNING:
        handle = network.global_pool.register_forward_pre_hook(note)
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            scores: Tensor = model(images)
        finally:
            handle.remove()
            for module, training in modes:
                module.training = training
    (args,) = given
    return args[0].cpu(), args[1].cpu() if len(args) > 1 else None, scores.float().cpu()


def _classes(scores: Tensor, given: Sequence[int] | None, top: int) -> Tensor:
    """The classes of each image, ``[B, K]``.

    Raises:
        GCPError: no class is asked for, or one that there is not.
    """
    number = scores.shape[1]
    if given is None:
        if top < 1:
            raise GCPError(f"`top={top}`: give the number of classes to explain, 1 or more.")
        return scores.topk(min(top, number), 1).indices
    wrong = [label for label in given if not 0 <= label < number]
    if wrong or not given:
        raise GCPError(f"`classes` has {wrong[0] if wrong else 'no class'}; give labels from 0 to {number - 1}.")
    return torch.tensor(given).expand(len(scores), -1)


class _Head:
    """Pool and classifier of a model, in float64 on the CPU.

    Args:
        pool: of the model.
        classifier: of the model.
        rule: of the pool's method.
        size: height and width of the images.
    """

    def __init__(self, pool: GlobalCovariancePool, classifier: nn.Linear, rule: Rule, size: tuple[int, int]) -> None:
        self.pool = copy.deepcopy(pool).cpu().double().eval()
        self.rule, self.size = rule, size
        self.weight = classifier.weight.detach().cpu().double()
        bias = classifier.bias
        self.bias = self.weight.new_zeros(len(self.weight)) if bias is None else bias.detach().cpu().double()

    def divide(
        self, maps: Tensor, token: Tensor | None, classes: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """The contributions of some images: of covariance and mean, and the parts of the token and the bias.

        Args:
            maps: what the pool is given.
            token: the class token, or None.
            classes: ``[B, K]``.
        """
        with torch.no_grad():
            incoming, reduced = self._maps(maps.double())
        h, w = incoming.shape[2:] if self.pool.input_fmt != "NLC" else grid_of(incoming.shape[2], self.size)
        names = self.pool.options.first_order_parts
        widths = [self.pool.in_features] * len(names)
        *first, second = self.weight.split([*widths, self.weight.shape[1] - sum(widths)], 1)
        covariance = self._second_order(reduced, second, classes).unflatten(2, (h, w))
        mean = of_token = None
        for name, weight in zip(names, first, strict=True):
            vector = incoming.mean((2, 3)) if name == "mean" else token.double()  # type: ignore[union-attr]
            weights = weight[classes] * self._factor(vector)[:, None, None]  # [B, K, C]
            if name == "mean":
                columns = incoming.flatten(2)
                mean = (weights @ columns / columns.shape[2]).unflatten(2, (h, w))
            else:
                of_token = (weights @ vector.unsqueeze(2)).squeeze(2)
        return covariance, mean, of_token, self.bias[classes]

    def _maps(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The map before and after the reduction: ``[B, C, h, w]``, ``[B, R, h, w]``; or of tokens ``[B, C, N, 1]``."""
        incoming = self.pool.in_nchw(maps)
        return incoming, self.pool.reduce(incoming.clone())  # its ReLU works in place

    def _second_order(self, reduced: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
        """Contributions of the positions to the second-order part, ``[B, K, M]``."""
        groups = self.pool.options.groups
        x = reduced.flatten(2).unflatten(1, (groups, -1))  # [B, G, R/G, M]
        x = x - x.mean(3, keepdim=True) if self.rule.centred else x
        x = x.detach().requires_grad_()
        vector = self.pool.sketch(self.rule.vector(x).flatten(1))
        factor = self._factor(vector.detach())
        shares = []
        for rank in range(classes.shape[1]):
            part = (vector * weight[classes[:, rank]]).sum(1) * factor
            (gradient,) = torch.autograd.grad(part.sum(), x, retain_graph=rank + 1 < classes.shape[1])
            shares.append((x.detach() * gradient).sum((1, 2)) / self.rule.degree)
        return torch.stack(shares, 1)

    def _factor(self, part: Tensor) -> Tensor:
        """The number by which ``normalize_parts`` multiplies a part of each image, ``[B]``; one without it."""
        if not self.pool.options.normalize_parts:
            return part.new_ones(len(part))
        squares = part.square().sum(1)
        return (at_common_length(part) * part).sum(1) / squares.masked_fill(squares == 0, 1)
