"""Measures the errors of every method's output and gradient as the conditioning of Σ worsens.

Features with known singular values, from 1 down to 10⁻ᵉ, go through every method. Output and gradient are compared with
a float64 thin singular value decomposition of the features, which does not form Σ. Also recorded: the largest
|K| = 1/|λi − λj| of a gradient through the eigenvectors, the norm of the gradient relative to that of the incoming one,
and how fast the gradient changes with the features (a finite-difference Lipschitz estimate).
"""

import argparse
import math
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from timm_gcp import METHODS, covariance_sqrt
from timm_gcp.commands.option_types import path_object
from timm_gcp.plots import new_figure, save_figure

from .record import RESULTS, provenance, read_table, write_table

SHAPES = ((64, 49), (64, 196))
EXPONENTS = (0, 1, 2, 3, 4, 5, 6, 7, 8)
STEP = 1e-3
"""Step of the finite difference, relative to the smallest singular value."""

OWN_FUNCTION = ("svdtopn", "rsqrt", "logm", "seb", "cov", "maxexp", "corr")
"""Methods of a function other than the square root, which are not compared with it."""


def main(argv: list[str]) -> None:
    """Runs the command ``gradients``."""
    parser = argparse.ArgumentParser(prog="python -m eval gradients", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=path_object, default=RESULTS, help="folder of the results (%(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="random matrices per measurement (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (%(default)s)")
    args = parser.parse_args(argv)
    args.results.mkdir(parents=True, exist_ok=True)
    table = args.results / "gradients.csv"
    write_table(table, [{**row, **provenance()} for row in measure(args.batch, args.seed)])
    draw(read_table(table), args.results / "gradients.png")


def features(c: int, m: int, exponent: int, batch: int) -> Tensor:
    """Random features ``[batch, C, M]`` of which X̄ has singular values from 1 to 10^−exponent, in float64.

    Args:
        c: channels.
        m: positions.
        exponent: of the smallest singular value.
        batch: number of matrices.
    """
    r = min(c, m - 1)
    s = torch.logspace(0, -exponent, r, dtype=torch.float64)
    u = torch.linalg.qr(torch.randn(batch, c, r, dtype=torch.float64))[0]
    w = torch.randn(batch, m, r, dtype=torch.float64)
    w = torch.linalg.qr(w - w.mean(-2, keepdim=True))[0]
    return math.sqrt(m) * (u * s) @ w.mT


def reference(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of Σ and the gradient with respect to the features, by thin singular value decomposition.

    Args:
        x: features ``[B, C, M]``, float64.
        g: gradient with respect to the root, ``[B, C, C]``.

    Returns:
        ``[B, C, C]`` and ``[B, C, M]``.
    """
    m = x.shape[-1]
    centred = (x - x.mean(-1, keepdim=True)) / math.sqrt(m)
    u, s, wt = torch.linalg.svd(centred, full_matrices=False)
    r = min(x.shape[-2], m - 1)
    u, s, wt = u[..., :r], s[..., :r], wt[..., :r, :]
    g = (g + g.mT) / 2
    p = u.mT @ g @ u
    fs = s.unsqueeze(-2) / (s.unsqueeze(-1) + s.unsqueeze(-2))
    grad = 2 * (u @ (p * fs) + g @ u - u @ p) @ wt
    return (u * s.unsqueeze(-2)) @ u.mT, (grad - grad.mean(-1, keepdim=True)) / math.sqrt(m)


def through(x: Tensor, g: Tensor, method: str, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Output and gradient of a method.

    Args:
        x: features ``[B, C, M]``.
        g: gradient with respect to the output, ``[B, C, C]``.
        method: a key of ``METHODS``.
        dtype: precision of the spectral part; None takes the method's own.
    """
    x = x.clone().requires_grad_()
    y = covariance_sqrt(x, method, dtype=dtype)
    (grad,) = torch.autograd.grad(y, x, g)
    return y.detach(), grad


def measure(batch: int, seed: int) -> list[dict[str, object]]:
    """One row for every method, shape and exponent: `batch` random matrices from this seed."""
    rows: list[dict[str, object]] = []
    methods = [name for name, row in METHODS.items() if row.of_sigma is not None]
    with tqdm(total=len(SHAPES) * len(EXPONENTS) * len(methods), desc="gradients", disable=None) as bar:
        for c, m in SHAPES:
            for exponent in EXPONENTS:
                torch.manual_seed(seed)
                x = features(c, m, exponent, batch)
                g = torch.randn(batch, c, c, dtype=torch.float64)
                root, gradient = reference(x, g)
                eigenvalues = torch.logspace(0, -2 * exponent, min(c, m - 1), dtype=torch.float64)
                largest_k = float(1 / (eigenvalues[:-1] - eigenvalues[1:]).min()) if exponent else math.inf
                step = STEP * 10.0**-exponent * math.sqrt(m) * torch.randn_like(x) / math.sqrt(x[0].numel())
                for method in methods:
                    y, grad = through(x, g, method)
                    # In float64 for every method: it measures the function, not its rounding errors.
                    here, moved = (through(at, g, method, torch.float64)[1] for at in (x, x + step))
                    lipschitz = (moved - here).flatten(1).norm(dim=1) / step.flatten(1).norm(dim=1)
                    comparable = method not in OWN_FUNCTION
                    rows.append(
                        {
                            "method": method,
                            "channels": c,
                            "positions": m,
                            "decay": exponent,
                            "output_error": f"{_relative(y, root):.3e}" if comparable else "",
                            "gradient_error": f"{_relative(grad, gradient):.3e}" if comparable else "",
                            "gradient_gain": f"{_gain(grad, g):.4f}",
                            "gradient_lipschitz": f"{float(lipschitz.median()):.3e}",
                            "largest_k": f"{largest_k:.3e}",
                            "seed": seed,
                        }
                    )
                    bar.update()
    return rows


def _relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).median())


def _gain(grad: Tensor, g: Tensor) -> float:
    """‖∂L/∂X̄‖ / ‖G‖, the largest of the batch; at most √2 for the exact root."""
    scale = math.sqrt(grad.shape[-1])  # from X to X̄
    return float((scale * grad.flatten(1).norm(dim=1) / ((g + g.mT) / 2).flatten(1).norm(dim=1)).max())


def draw(rows: pd.DataFrame, out: Path) -> None:
    """Errors and Lipschitz estimates against the decay; one column of plots per shape."""
    panels = {
        "output_error": "relative error of the output",
        "gradient_error": "relative error of the gradient",
        "gradient_lipschitz": "change of the gradient / change of X",
    }
    shapes = rows.groupby(["channels", "positions"], sort=False)
    figure = new_figure(figsize=(12, 13), layout="constrained")
    axes = figure.subplots(len(panels), shapes.ngroups, sharex=True, sharey="row", squeeze=False)
    styles = ("-", "--", ":", "-.")
    for column, ((c, m), of_shape) in enumerate(shapes):
        for panel, (key, label) in zip(axes[:, column], panels.items(), strict=True):
            for index, method in enumerate(rows["method"].unique()):
                own = of_shape[of_shape["method"] == method].dropna(subset=key)
                if len(own):
                    style = dict(color=f"C{index % 10}", ls=styles[index // 10 * 2 % 4], marker=".", lw=1.3)
                    panel.plot(own["decay"], own[key].clip(lower=1e-16), label=method, **style)
            panel.set_yscale("log")
            panel.grid(alpha=0.3)
            panel.set_ylabel(label if not column else "")
        axes[0][column].set_title(f"C = {c}, M = {m}")
        axes[-1][column].set_xlabel("singular values of X̄ from 1 down to 10^−e; e")
    axes[0][-1].legend(fontsize=8, ncols=2)
    axes[-1][-1].legend(fontsize=8, ncols=2)
    save_figure(figure, out, dpi=110)
