"""Contributions drawn over the photograph: red where they are above zero, blue where they are below."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["heat_map", "photograph"]

_FOR, _AGAINST = (178, 24, 43), (33, 102, 172)  # ends of ColorBrewer's RdBu, which colour-blind readers can tell apart
_OPAQUE = 0.85  # of the colour at the largest contribution


def photograph(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """What a preprocessed image shows.

    Args:
        image: ``[C, H, W]``, one or three channels.
        mean: of the channels, that was taken away.
        std: of the channels, by which they were divided.

    Returns:
        ``[H, W, 3]`` in uint8.
    """
    shape = (-1, 1, 1)
    pixels = image.cpu().float() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    return (255 * pixels.clamp(0, 1)).round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy()


def heat_map(picture: np.ndarray, contributions: Tensor, largest: float) -> np.ndarray:
    """Draws contributions over a photograph in grey.

    Args:
        picture: ``[H, W, 3]`` in uint8.
        contributions: of the positions of the feature map, ``[h, w]``; interpolated to H×W.
        largest: the magnitude that has the full colour.

    Returns:
        ``[H, W, 3]`` in uint8.
    """
    size = picture.shape[:2]
    shares = contributions.float()[None, None] / (largest or 1.0)
    shares = torch.nn.functional.interpolate(shares, size, mode="bicubic", align_corners=False)[0, 0].clamp(-1, 1)
    grey = picture @ np.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
    grey = (60 + 0.7 * grey)[..., None]  # lighter, so that the colours can be seen
    colour = np.where((shares > 0).numpy()[..., None], _FOR, _AGAINST)
    weight = _OPAQUE * shares.abs().numpy()[..., None]
    return ((1 - weight) * grey + weight * colour).round().clip(0, 255).astype(np.uint8)
