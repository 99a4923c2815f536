"""Short vectors of images: the triangle of the covariance's root, compressed, centred and of unit length.

The inner product of two triangles, entries off the diagonal times √2, is that of the two roots. The roots of all images
have much in common, so their mean is removed before the cosine is taken.
"""

import torch
from torch import Tensor

from ..errors import GCPError
from ..probing.features import FeatureSet
from ..probing.heads import Kernel
from ..probing.parts import CPU, CovariancePart

__all__ = ["compact_vectors"]

_SKETCH, _COMPONENTS = 1024, 256  # usual lengths
_RANK = 1e-10  # of the largest eigenvalue: smaller ones are rounding


def compact_vectors(features: FeatureSet, method: str, compact: str, size: int | None = None) -> Tensor:
    """A vector for every image.

    - ``'sketch'``: a count sketch (`timm_gcp.count_sketch`). It is the same linear map for all images, and its inner
      products have a standard error of about one over the root of the length.
    - ``'pca'``: principal components over the images. Of all linear maps to that length it keeps the most of the
      distances between these images.

    Args:
        features: of the images, one view of each.
        method: of the root, a function of the covariance.
        compact: 'sketch' or 'pca'.
        size: length of the vectors; None takes 1024 for a sketch and 256 for principal components, or the most that
            there can be.

    Returns:
        ``[images, size]`` in float32, of unit length; zero for an image that is equal to the mean.

    Raises:
        GCPError: longer vectors than there can be, or fewer than two images.
    """
    if features.rows < 2:
        raise GCPError("There is one image only; an embedding compares images, so give two or more.")
    vectors = _sketched(features, method, size) if compact == "sketch" else _components(features, method, size)
    return torch.nn.functional.normalize(vectors, dim=1).float()


def _length(size: int | None, usual: int, most: int, why: str) -> int:
    if size is not None and size > most:
        raise GCPError(f"Vectors of length {size} are longer than {why}; give a `size` of at most {most}.")
    return min(usual, most) if size is None else size


def _sketched(features: FeatureSet, method: str, size: int | None) -> Tensor:
    most = features.components * (features.components + 1) // 2
    length = _length(size, _SKETCH, most, f"the {most} numbers of the triangle of {features.components} directions")
    rows = [vectors for _, vectors in CovariancePart(method, count_sketch=length).vectors(features, CPU)]
    vectors = torch.cat(rows).double()
    return vectors - vectors.mean(0)


def _components(features: FeatureSet, method: str, size: int | None) -> Tensor:
    values, directions = torch.linalg.eigh(Kernel(features, CovariancePart(method)).matrix)
    rank = int((values > _RANK * values[-1]).sum())
    most = max(1, min(rank, features.rows - 1))
    length = _length(size, _COMPONENTS, most, f"the {most} dimensions in which {features.rows} images differ")
    values, directions = values[-length:].flip(0).clamp_min(0), directions[:, -length:].flip(1)
    # The sign of an eigenvector is arbitrary; this one does not depend on the library.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return directions * largest.sign() * values.sqrt()
