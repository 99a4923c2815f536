"""A count sketch of the upper triangle of a symmetric matrix: a fixed random linear map to fewer numbers."""

import numpy as np
import torch
from torch import Tensor, nn

from .errors import GCPError

__all__ = ["CountSketch"]


class CountSketch(nn.Module):
    """Adds up the entries of triangles in ``size`` buckets, with random signs (Charikar, Chen, Farach-Colton, 2002).

    Each entry belongs to one bucket, and out_b = Σ s_k w_k t_k over the entries k of bucket b, with a random sign s_k
    and w_k = √2 off the diagonal, 1 on it. So ⟨t, u⟩ with weights w² is the Frobenius product of the two matrices, and
    the product of two sketches estimates it without bias over the draws, with a variance of about
    (‖Y‖²‖Z‖² + ⟨Y, Z⟩²) / size. It does not depend on the basis in which the matrices are written.

    All buckets hold the same number of entries up to one: a random permutation is cut up in place of the hash function
    of the paper. No bucket is empty, and the sum needs no scatter, so it is the same on every device and in every run.
    A sketch as long as the triangle is a permutation with signs.

    The draws depend on nothing but the two sizes and the seed: neither on torch's generator nor on a release. They are
    saved as buffers, so that a model that was made without memory gets them with its weights.

    Args:
        channels: side of each matrix.
        groups: number of triangles in the vector, one after the other.
        size: length of the sketch.
        seed: of the draws.

    Raises:
        GCPError: the sketch would be longer than the vector.
    """

    index: Tensor
    weight_code: Tensor

    def __init__(self, channels: int, groups: int, size: int, seed: int = 0) -> None:
        """See the class."""
        super().__init__()
        self.size = size
        length = groups * channels * (channels + 1) // 2
        if size > length:
            raise GCPError(
                f"count_sketch={size} is longer than the {length} numbers that it stands for; take at most {length}, "
                "or None for no sketch."
            )
        # RandomState is frozen: its numbers are the same in every release of NumPy.
        random = np.random.RandomState([seed, length, size])
        index = random.permutation(length)
        signs = random.randint(0, 2, length, dtype=np.uint32).astype(int) * 2 - 1
        rows, columns = np.triu_indices(channels)
        squares = np.tile(np.where(rows == columns, 1, 2), groups)[index]
        self.register_buffer("index", torch.tensor(index))
        # The sign times the square of the weight: a whole number, so that model.half() does not round √2.
        self.register_buffer("weight_code", torch.tensor(signs * squares, dtype=torch.int8))

    def forward(self, t: Tensor) -> Tensor:
        """Sketches vectors of triangles.

        Args:
            t: ``[..., D]``, D = groups · channels · (channels + 1) / 2, floating point.

        Returns:
            ``[..., size]`` in the dtype of ``t``; added up in float32 or better.
        """
        work = t.to(torch.promote_types(t.dtype, torch.float32))
        code = self.weight_code.to(work.dtype)
        work = work.index_select(-1, self.index) * (code.sign() * code.abs().sqrt())
        rows = -(-len(self.index) // self.size)
        padded = nn.functional.pad(work, (0, rows * self.size - len(self.index)))
        return padded.reshape(*t.shape[:-1], rows, self.size).sum(-2).to(t.dtype)

    def extra_repr(self) -> str:
        """The sizes, for ``print(model)``."""
        return f"{len(self.index)} -> {self.size}"
