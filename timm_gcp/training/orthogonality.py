"""Better-conditioned covariances: nearest orthogonal gradient and optimal learning rate for the reduction.

Song, Sebe, Wang: Improving Covariance Conditioning of the SVD Meta-layer by Orthogonality, ECCV 2022, arXiv 2207.02119.
With W the R×C weight of the 1×1 convolution before the pool and L its gradient:

- *Nearest orthogonal gradient*: the update uses the semi-orthogonal matrix nearest to L in the Frobenius norm, its
  polar factor (LLᵀ)^(−1/2) L = UVᵀ with L = USVᵀ.
- *Optimal learning rate*: with w and l the vectors of all entries of W and L,
  η* = (wᵀw · lᵀw) / (wᵀw · lᵀl + 2(lᵀw)²), one Newton step from η = 0 on ‖w − ηl‖⁴, the part of
  ‖(w − ηl)(w − ηl)ᵀ − I‖² that counts where w is long. It takes the place of the scheduled rate η where 0 < η* < η.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GCPError
from ..pooling import find_pools
from .options import OptimizerOptions

__all__ = [
    "Orthogonality",
    "make_orthogonality",
    "nearest_orthogonal",
    "optimal_learning_rate",
    "reduction_weights",
]


@torch.no_grad()
def nearest_orthogonal(gradient: Tensor) -> Tensor:
    """The polar factor UVᵀ of a gradient L = USVᵀ.

    Directions whose singular value is rounding, under max(R, C)·eps·s_max, stay zero: the polar factor is not unique
    there. (The published script gives them unit length in an arbitrary direction.) So a gradient of zeros stays zero. A
    gradient that is not finite is returned as it is, for the gradient scaler to see.

    Args:
        gradient: ``[R, C, ...]``; trailing dimensions count as columns. Half precision is computed in float32.

    Returns:
        A tensor of the same shape and dtype; the rows of its matrix are orthonormal where L has full rank and R ≤ C.
    """
    matrix = _single_or_double(gradient).flatten(1)
    finite = matrix.isfinite().all()
    matrix = matrix.nan_to_num(0.0, 0.0, 0.0)
    largest = matrix.abs().amax()
    u, s, vh = torch.linalg.svd(matrix / torch.where(largest > 0, largest, 1), full_matrices=False)
    kept = s > max(matrix.shape) * torch.finfo(s.dtype).eps * s[0]
    factor = ((u * kept) @ vh).view(gradient.shape).to(gradient.dtype)
    return torch.where(finite, factor, gradient)


@torch.no_grad()
def optimal_learning_rate(weight: Tensor, gradient: Tensor) -> float:
    """The rate η* of a gradient step, computed as (‖w‖/‖l‖) · c/(1 + 2c²) with c the cosine between w and l.

    Args:
        weight: any shape.
        gradient: the same shape.

    Returns:
        η*; it may be negative, and is nan where weight or gradient is zero.
    """
    w, g = _single_or_double(weight).flatten(), _single_or_double(gradient).flatten()
    long, short = torch.linalg.vector_norm(w), torch.linalg.vector_norm(g)
    cosine = (w / long) @ (g / short)
    return float(long / short * cosine / (1 + 2 * cosine.square()))


def _single_or_double(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def reduction_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights of the 1×1 convolutions before the covariance pools of a model, in the order of its modules."""
    reductions: list[Any] = [pool.reduce for pool in find_pools(model)]
    return [reduction.conv.weight for reduction in reductions if hasattr(reduction, "conv")]


@dataclass
class Orthogonality:
    """Changes gradient and rate of the reduction for one update of the optimiser.

    The polar factor has the length √R whatever that of the gradient, so clipping comes before it. Every process has the
    same averaged gradient, so every process makes the same update.

    Attributes:
        weights: of the reductions; with ``rate`` each is alone in its parameter group.
        gradient: use the nearest orthogonal gradient.
        rate: use the optimal learning rate.
    """

    weights: Sequence[nn.Parameter]
    gradient: bool
    rate: bool

    @contextlib.contextmanager
    def applied(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """The context of ``optimizer.step()``: gradients are unscaled and clipped before, rates are reset after it."""
        rates: list[tuple[dict[str, Any], float]] = []
        for weight in self.weights:
            if weight.grad is None:
                continue
            if self.gradient:
                weight.grad.copy_(nearest_orthogonal(weight.grad))
            if self.rate:
                group = next(g for g in optimizer.param_groups if any(p is weight for p in g["params"]))
                optimal = optimal_learning_rate(weight, weight.grad)
                rates.append((group, group["lr"]))
                if 0 < optimal < group["lr"]:
                    group["lr"] = optimal
        try:
            yield
        finally:
            for group, rate in rates:
                group["lr"] = rate


def make_orthogonality(options: OptimizerOptions, model: nn.Module) -> Orthogonality | None:
    """What the options ask for; None for neither.

    Args:
        options: of the optimiser.
        model: to train.

    Raises:
        GCPError: the model has no reduction before a covariance pool, or it is frozen.
    """
    if not (options.orthogonal_gradient or options.optimal_lr):
        return None
    weights = reduction_weights(model)
    option = "--orthogonal-gradient" if options.orthogonal_gradient else "--optimal-lr"
    if not weights:
        raise GCPError(
            f"{option} changes the reduction before a covariance pool, and {type(model).__name__} has none; leave it "
            "out."
        )
    if not all(weight.requires_grad for weight in weights):
        raise GCPError(f"{option} changes the reduction before the pool, which --train-only freezes; leave one out.")
    return Orthogonality(weights, options.orthogonal_gradient, options.optimal_lr)
