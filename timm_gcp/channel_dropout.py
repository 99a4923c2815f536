"""Dropout of whole channels before the covariance, with a fixed probability or one that the features decide."""

import math

import torch
from torch import Tensor, nn

__all__ = ["ADAPTIVE", "AdaptiveChannelDropout", "channel_dropout_of"]

ADAPTIVE = "adaptive"
"""The value of the option that stands for ``AdaptiveChannelDropout``."""

_GAIN = 10.0  # the number in the authors' code
_HIGHEST = 0.9  # ours: the authors allow 1, which drops every channel of every image


def channel_dropout_of(probability: float | str | None) -> nn.Module:
    """The layer of an option's value: nothing, a fixed probability, or the adaptive one.

    Args:
        probability: of a channel to be dropped, above 0 and under 1; ``'adaptive'``; or None for no dropout.
    """
    if probability is None:
        return nn.Identity()
    return AdaptiveChannelDropout() if probability == ADAPTIVE else nn.Dropout2d(float(probability))


class AdaptiveChannelDropout(nn.Module):
    """The adaptive channel dropout of DropCov (Wang, Gao, Zhang, Xie, Li, Hu, NeurIPS 2022).

    In training, with d channels at M positions,

    - ω = softmax(a ∗ mean(X)): the importance of the channels, with a learned filter a of three neighbouring channels;
    - X ← X ⊙ (1 + ω), which is what trains the filter;
    - π = cov(X) 1: the sum of each channel's covariances with all channels;
    - ρ = 1 − (10 / log₂ d) · cos(ω, π), averaged over the batch, in [0, 0.9]: the more the important channels are the
      correlated ones, the fewer are dropped;
    - each channel of each image is zero with probability ρ, and is divided by 1 − ρ otherwise.

    The factor 10 is that of the authors' code. They bound ρ by 1; here it is 0.9, so that some channels are left. ρ has
    no gradient. π costs no covariance matrix: it is X̄ (X̄ᵀ1). In evaluation the layer does nothing. Under distributed
    training every process has the ρ of its own batch.

    It is made for channels that have passed a ReLU, where covariances and means are of one sign. For a linear reduction
    give a fixed probability; the authors take 0.2 for ViTs.
    """

    def __init__(self) -> None:
        """See the class."""
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Drops channels of ``[B, d, H, W]`` in training; returns the input itself in evaluation."""
        if not self.training:
            return x
        importance = self.importance(x)
        x = x * (1 + importance)[..., None, None].to(x.dtype)
        probability = self.probability(x.detach(), importance.detach())
        kept = torch.rand(importance.shape, device=x.device) >= probability
        return x * (kept / (1 - probability))[..., None, None].to(x.dtype)

    def importance(self, x: Tensor) -> Tensor:
        """ω ``[B, d]``, float32 or float64, of a map ``[B, d, H, W]``."""
        mean = x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
        filtered: Tensor = self.conv(mean.unsqueeze(1).to(self.conv.weight.dtype)).squeeze(1)
        return filtered.to(mean.dtype).softmax(1)

    @staticmethod
    def probability(x: Tensor, importance: Tensor) -> Tensor:
        """ρ, a number, for a map ``[B, d, H, W]`` and its importance ``[B, d]``."""
        x = x.flatten(2).to(importance.dtype)
        centred = x - x.mean(-1, keepdim=True)
        centred = centred / centred.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        correlation = (centred * centred.sum(1, keepdim=True)).mean(-1)
        # nanmean: an image that is not finite does not reach the others
        cosine = nn.functional.cosine_similarity(importance, correlation, dim=1).nanmean()
        return (1 - _GAIN / math.log2(max(x.shape[1], 2)) * cosine).clamp(0, _HIGHEST)
