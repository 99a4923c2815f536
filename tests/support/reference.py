"""What the layers are held against: the exact root and its gradient by float64 thin SVD, and awkward inputs."""

import math

import torch
from torch import Tensor


def relative(a, b) -> float:
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def polar_reference(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """(X̄X̄ᵀ)^½ and 2[U((UᵀGU)∘FS) + (I − UUᵀ)GU]Wᵀ, one matrix at a time, sliced at its own rank.

    Args:
        x: centred features [B, C, M], float64.
        g: gradient [B, C, C] with respect to the output.
    """
    roots, grads = [], []
    for xi, gi in zip(x, (g + g.mT) / 2, strict=True):
        u, s, wt = torch.linalg.svd(xi, full_matrices=False)
        rank = int((s**2 > max(xi.shape) * torch.finfo(torch.float64).eps * s[0] ** 2).sum())
        u, s, wt = u[:, :rank], s[:rank], wt[:rank]
        roots.append(u * s @ u.mT)
        p = u.mT @ gi @ u
        grads.append(2 * (u @ (p * (s / (s[:, None] + s))) + gi @ u - u @ p) @ wt)
    return torch.stack(roots), torch.stack(grads)


def with_singular_values(c: int, m: int, s: Tensor) -> Tensor:
    """Features [C, M] whose centred, M-normalised form has the singular values ``s`` (min(C, M − 1) at most)."""
    u = torch.linalg.qr(torch.randn(c, len(s), dtype=torch.float64))[0]
    w = torch.randn(m, len(s), dtype=torch.float64)
    w = torch.linalg.qr(w - w.mean(0))[0]  # orthogonal to 1: centring leaves it as it is
    return math.sqrt(m) * (u * s) @ w.mT


def awkward(kind: str, c: int, m: int, generator: torch.Generator) -> Tensor:
    """Features [2, C, M] of a kind that breaks naive code; the two differ in rank where the kind allows."""
    x = torch.randn(2, c, m, generator=generator, dtype=torch.float64)
    if kind == "zero":
        return x * 0
    if kind == "one_zero":
        x[0] = 0
    elif kind == "dead_channels":
        x = x.relu()
        x[0, : c // 2] = 0
        x[1, : c // 4] = 0
    elif kind == "repeated_columns":
        x[0] = x[0, :, :1]
        x[1, :, m // 2 :] = x[1, :, :1]
    elif kind == "repeated_channels":
        x[:, c // 2 :] = x[:, :1]
    elif kind == "constant_channels":
        x[:] = torch.randn(2, c, 1, generator=generator, dtype=torch.float64)
    elif kind == "equal_eigenvalues":
        k = min(c, m)
        x = torch.zeros(2, c, m, dtype=torch.float64)
        x[:, torch.arange(k), torch.arange(k)] = 1.0
    elif kind == "graded":
        x *= torch.logspace(0, -12, c, dtype=torch.float64)[:, None]
    elif kind != "plain":
        raise ValueError(kind)
    return x


KINDS = (
    "plain",
    "zero",
    "one_zero",
    "dead_channels",
    "repeated_columns",
    "repeated_channels",
    "constant_channels",
    "equal_eigenvalues",
    "graded",
)
