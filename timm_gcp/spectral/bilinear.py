"""Bilinear pooling, whole and sketched: second-order pooling without a matrix root."""

import numpy as np
import torch
from torch import Tensor

_FLOOR = 1e-5  # added under the signed root, as in the published layers, so that its slope at zero is finite


def signed_root(y: Tensor) -> Tensor:
    """The signed root sign(y) √(|y| + 1e-5), scaled to unit length in the last dimension; zero for zero."""
    y = torch.sign(y) * (y.abs() + _FLOOR).sqrt()
    return torch.nn.functional.normalize(y, dim=-1)


def bilinear(x: Tensor) -> Tensor:
    """BCNN (Lin, RoyChowdhury, Maji, ICCV 2015): XXᵀ/M, not centred, signed root, unit length.

    Args:
        x: features ``[..., C, M]``.

    Returns:
        ``[..., C²]``.
    """
    return signed_root((x @ x.mT / x.shape[-1]).flatten(-2))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def _draws(channels: int, sketch: int) -> tuple[list[list[int]], list[list[float]]]:
    # Numbers, not tensors of a torch generator, so that compiled, exported and traced graphs hold them as constants.
    # NumPy's RandomState is frozen: they are the same in every release.
    generator = np.random.RandomState((channels * 1_000_003 + sketch) % 2**32)
    places, signs = generator.randint(0, 2**32, (2, 2, channels), dtype=np.uint32)
    return (places % sketch).tolist(), (signs % 2 * 2.0 - 1.0).tolist()


def hashes(channels: int, sketch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two Count-Sketch hashes, places ``[2, C]`` and signs ``[2, C]``; they depend on nothing but the two sizes."""
    places, signs = _draws(channels, sketch)
    return torch.tensor(places, device=device), torch.tensor(signs, device=device)


def tensor_sketch(x: Tensor, sketch: int) -> Tensor:
    """The Tensor Sketch of XXᵀ/M (Pham & Pagh, KDD 2013).

    The circular convolution of two Count Sketches of each position, averaged over positions, is one Count Sketch of
    XXᵀ/M: entry ij goes to place (h¹ᵢ + h²ⱼ) mod sketch with sign s¹ᵢ s²ⱼ. So it is computed without a Fourier
    transform, whose rounding would become 0.003 under the signed root in every place without an entry. Its inner
    products estimate those of XXᵀ/M without bias, with a variance that falls like 1/sketch.

    Args:
        x: features ``[..., C, M]``.
        sketch: length of the sketch.

    Returns:
        ``[..., sketch]``.
    """
    places, signs = hashes(int(x.shape[-2]), sketch, x.device)
    place = (places[0, :, None] + places[1]) % sketch
    sign = (signs[0, :, None] * signs[1]).to(x.dtype)
    signed = (x @ x.mT / x.shape[-1] * sign).flatten(-2)
    return x.new_zeros(*x.shape[:-2], sketch).index_add(-1, place.flatten(), signed)


def compact_bilinear(x: Tensor, sketch: int) -> Tensor:
    """Compact bilinear pooling (Gao, Beijbom, Zhang, Darrell, CVPR 2016): Tensor Sketch, signed root, unit length.

    Args:
        x: features ``[..., C, M]``.
        sketch: length of the sketch.

    Returns:
        ``[..., sketch]``.
    """
    return signed_root(tensor_sketch(x, sketch))
