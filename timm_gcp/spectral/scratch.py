"""Memory kept from step to step for what does not outlive a function, on the CPU.

Fresh memory costs a fault a page, there as much as the work that is done in it: on 7×7 maps a quarter of the backward.
A GPU's allocator keeps its memory by itself.
"""

import threading

import torch
from torch import Tensor

__all__ = ["plus_transpose", "release"]

_own = threading.local()


def plus_transpose(g: Tensor) -> Tensor:
    """G + Gᵀ. On the CPU it stands in a buffer of this thread, which the next call overwrites: use it at once.

    Args:
        g: ``[..., n, n]``, without a graph.
    """
    if g.device.type != "cpu" or torch.compiler.is_compiling() or type(g) is not Tensor:
        return g + g.mT
    kept = getattr(_own, "buffer", None)
    if kept is None or kept.dtype != g.dtype or kept.numel() < g.numel():
        _own.buffer = kept = torch.empty(g.numel(), dtype=g.dtype)
    return torch.add(g, g.mT, out=kept[: g.numel()].view(g.shape))


def release() -> None:
    """Gives this thread's buffer back."""
    _own.buffer = None
