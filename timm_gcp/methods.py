"""The table of methods.

A method turns the features of an image into the vector that the classifier gets: most of them by a function of the
covariance (its square root, computed and differentiated in one way or another). Every method is one row of ``_ROWS``;
``timm_gcp.register_method`` adds a row of the user's own.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .errors import GCPError
from .method import Argument, Method, SpectralMethod
from .spectral import eigenfree, loewner
from .spectral.bilinear import bilinear, compact_bilinear
from .spectral.brownian import brownian_distance
from .spectral.correlation import (
    correlation_root_eigenfree,
    correlation_root_of_features,
    correlation_root_of_sigma,
)
from .spectral.covariance import symmetric
from .spectral.gaussian import gaussian_embedding, gaussian_embedding_eigenfree
from .spectral.matrix_pade import matrix_root, pade_root, taylor_root
from .spectral.matrix_pade_eigen import matrix_root_of_features, pade_scalar, taylor_scalar
from .spectral.max_exp import max_exp_of_features, max_exp_of_sigma
from .spectral.newton_schulz import newton_schulz, newton_schulz_of_features
from .spectral.newton_schulz_eigen import root_of_sigma_with_newton_gradient, root_with_newton_gradient
from .spectral.polar import DTYPES, hermitian_factor
from .spectral.regularised import (
    balanced_root_of_features,
    balanced_root_of_sigma,
    regularised_log_of_features,
    regularised_log_of_sigma,
    regularised_root_of_features,
    regularised_root_of_sigma,
)
from .spectral.spectral_function import EXACT_ROOT, ClippedRoot, power
from .text import nearest

__all__ = ["METHODS", "add_method", "covariance_method", "get_method"]

_ALPHA = Argument("alpha", float, 0.5, "power of the eigenvalues; 0.5 is the root")


def _twice_alpha(alpha: float) -> float:
    """Σ^α is homogeneous of degree 2α in the features."""
    return 2 * alpha


def _root_eigenfree(x: Tensor, **_: Any) -> Tensor:
    return hermitian_factor(x)


def _power_eigenfree(x: Tensor, unit: Tensor, alpha: float) -> Tensor:
    if alpha != 0.5:
        raise GCPError(
            f"Without an eigensolver only the square root of the covariance can be computed, not its power "
            f"alpha={alpha:g}; use method 'svdlyap', which is the root and loads the same weights."
        )
    return hermitian_factor(x)


def _largest_eigenfree(x: Tensor, unit: Tensor, keep: int) -> Tensor:
    rank = min(x.shape[-2], x.shape[-1] - 1)
    if keep < rank:
        raise GCPError(
            "Without an eigensolver only the root of all eigenvalues can be computed, not of the largest "
            f"keep={keep} of {rank}; use method 'svdlyap', which is the root of all and loads the same weights."
        )
    return hermitian_factor(x)


_ROWS = (
    Method(
        name="isqrt",
        forward="coupled Newton–Schulz, 5 iterations, compensated by the trace",
        backward="adjoint of the iteration",
        reference="Li, Xie, Wang, Gao: iSQRT-COV, CVPR 2018",
        arguments=(Argument("iterations", int, 5, "steps of the iteration"),),
        of_features=newton_schulz_of_features,
        of_sigma=newton_schulz,
        eigenfree=lambda x, unit, iterations: newton_schulz(x @ x.mT, iterations),
        eigenfree_dtype=torch.float32,
        dtype=torch.float32,
    ),
    SpectralMethod(
        name="svd",
        forward="exact root",
        backward="the ordinary SVD gradient, 1/(λi − λj) with an overflow check",
        reference="Li, Xie, Wang, Zuo: MPN-COV, ICCV 2017; Ionescu, Vantzos, Sminchisescu, ICCV 2015",
        arguments=(_ALPHA,),
        function=lambda alpha: power(alpha, loewner.k_svd),
        homogeneity=_twice_alpha,
        eigenfree=_power_eigenfree,
        eigenfree_dtype=torch.float32,
    ),
    SpectralMethod(
        name="svdtrunc",
        forward="exact root",
        backward="1/(λi − λj) clipped",
        reference="Song, Sebe, Wang, ICCV 2021, §3",
        arguments=(Argument("clip", float, 1e10, "bound of |1/(λi − λj)|, in units of 1/Σ"),),
        function=ClippedRoot,
        takes_unit=True,
        eigenfree=_root_eigenfree,
        eigenfree_dtype=torch.float32,
    ),
    SpectralMethod(
        name="svdtopn",
        forward="root of the largest eigenvalues",
        backward="exact, of the same function",
        reference="Song, Sebe, Wang, ICCV 2021, §3",
        arguments=(Argument("keep", int, 206, "number of eigenvalues that are kept"),),
        function=loewner.LargestRoots,
        eigenfree=_largest_eigenfree,
        eigenfree_dtype=torch.float32,
    ),
    SpectralMethod(
        name="svdtaylor",
        forward="exact root",
        backward="Taylor polynomial of the series of 1/(λi − λj)",
        reference="Wang, Dang, Hu, Fua, Salzmann, TPAMI 2021",
        arguments=(Argument("degree", int, 100, "degree of the polynomial"),),
        function=lambda degree: power(0.5, loewner.k_taylor(degree)),
        eigenfree=_root_eigenfree,
        eigenfree_dtype=torch.float32,
    ),
    SpectralMethod(
        name="svdpade",
        forward="exact root",
        backward="diagonal Padé approximant of the series of 1/(λi − λj)",
        reference="Song, Sebe, Wang, ICCV 2021, §4",
        arguments=(_ALPHA,),
        function=lambda alpha: power(alpha, loewner.k_pade),
        homogeneity=_twice_alpha,
        eigenfree=_power_eigenfree,
        eigenfree_dtype=torch.float32,
    ),
    Method(
        name="svdnewton",
        forward="exact root",
        backward="adjoint of the Newton–Schulz iteration",
        reference="Song, Sebe, Wang: DifferentiableSVD",
        arguments=(Argument("iterations", int, 10, "steps of the iteration whose adjoint is taken"),),
        of_features=root_with_newton_gradient,
        of_sigma=root_of_sigma_with_newton_gradient,
        eigenfree=_root_eigenfree,
    ),
    SpectralMethod(
        name="svdpi",
        forward="exact root",
        backward="power iteration with deflation, which truncates the series of 1/(λi − λj) after that many terms",
        reference="Wang, Dang, Hu, Fua, Salzmann, NeurIPS 2019",
        arguments=(Argument("iterations", int, 20, "steps of the power iteration"),),
        function=lambda iterations: power(0.5, loewner.k_taylor(iterations)),
        eigenfree=_root_eigenfree,
        eigenfree_dtype=torch.float32,
    ),
    SpectralMethod(
        name="svdlyap",
        forward="exact root",
        backward="exact, the Lyapunov equation solved in the eigenbasis",
        reference="Lin, Maji: Improved Bilinear Pooling, BMVC 2017",
        function=lambda: EXACT_ROOT,
        polar=True,
        dtypes=DTYPES,
        dtype_off_cpu=torch.float32,
        eigenfree=_root_eigenfree,
        eigenfree_dtype=torch.float32,
    ),
    SpectralMethod(
        name="polar",
        forward="exact root",
        backward="exact, 1/(√λi + √λj); from features bounded by √2 times the incoming gradient",
        reference="timm_gcp; Higham, Functions of Matrices, ch. 3; Araki & Yamagami 1981",
        arguments=(_ALPHA,),
        function=power,
        homogeneity=_twice_alpha,
        polar=True,
        dtypes=DTYPES,
        dtype_off_cpu=torch.float32,
        eigenfree=_power_eigenfree,
        eigenfree_dtype=torch.float32,
    ),
    Method(
        name="rsqrt",
        forward="root of λ + δ minus √δ, δ a share of the mean eigenvalue",
        backward="exact, with the derivative of δ; smooth at zero",
        reference="timm_gcp",
        arguments=(Argument("share", float, 0.1, "δ as a share of the mean eigenvalue"),),
        of_features=regularised_root_of_features,
        of_sigma=regularised_root_of_sigma,
        takes_matmul_dtype=True,
        eigenfree=lambda x, unit, share: eigenfree.regularised_root(x, share),
    ),
    Method(
        name="logm",
        forward="logarithm of λ + δ, δ a share of the mean eigenvalue",
        backward="exact, with the derivative of δ",
        reference="Ionescu, Vantzos, Sminchisescu: DeepO2P, ICCV 2015",
        arguments=(Argument("share", float, 1e-3, "δ as a share of the mean eigenvalue"),),
        of_features=regularised_log_of_features,
        of_sigma=regularised_log_of_sigma,
        homogeneity=lambda share: 0.0,
        takes_unit=True,
        takes_matmul_dtype=True,
        eigenfree=eigenfree.regularised_log,
    ),
    Method(
        name="mpa",
        forward="matrix Padé approximant [5/5]",
        backward="Lyapunov equation, 8 steps",
        reference="Song, Sebe, Wang, ICLR 2022",
        arguments=(
            Argument("degree", int, 5, "degree of numerator and denominator"),
            Argument("iterations", int, 8, "steps of the Lyapunov solver"),
        ),
        of_features=partial(matrix_root_of_features, approximant=pade_root, scalar=pade_scalar),
        of_sigma=partial(matrix_root, approximant=pade_root),
        eigenfree=lambda x, unit, **args: matrix_root(x @ x.mT, eigenfree.pade_root, **args),
        dtype=torch.float32,
    ),
    Method(
        name="mtp",
        forward="matrix Taylor polynomial of degree 11",
        backward="Lyapunov equation, 8 steps",
        reference="Song, Sebe, Wang, ICLR 2022",
        arguments=(
            Argument("degree", int, 11, "degree of the polynomial"),
            Argument("iterations", int, 8, "steps of the Lyapunov solver"),
        ),
        of_features=partial(matrix_root_of_features, approximant=taylor_root, scalar=taylor_scalar),
        of_sigma=partial(matrix_root, approximant=taylor_root),
        eigenfree=lambda x, unit, **args: matrix_root(x @ x.mT, taylor_root, **args),
        eigenfree_dtype=torch.float32,
        dtype=torch.float32,
    ),
    Method(
        name="seb",
        forward="exact root times 1 + ‖√Σ exp(−Σ)‖",
        backward="exact through both factors",
        reference="Song, Sebe, Wang, TPAMI 2022: Scaling Eigen Branch",
        of_features=balanced_root_of_features,
        of_sigma=balanced_root_of_sigma,
        takes_unit=True,
        takes_matmul_dtype=True,
        eigenfree=eigenfree.balanced_root,
    ),
    Method(
        name="cov",
        forward="the covariance itself",
        backward="autograd",
        reference="Wang, Gao, Zhang, Xie, Li, Hu: DropCov, NeurIPS 2022",
        of_features=lambda x: x @ x.mT,
        of_sigma=symmetric,
        eigenfree=lambda x, unit: x @ x.mT,
        eigenfree_dtype=torch.float32,
        homogeneity=lambda: 2.0,
        dtype=torch.float32,
    ),
    Method(
        name="maxexp",
        forward="I − (I − Σ/tr Σ)^η, by matrix products",
        backward="autograd, with the derivative of the trace",
        reference="Koniusz, Zhang, Porikli, CVPR 2018; Koniusz, Zhang: Power Normalizations, TPAMI 2022",
        arguments=(Argument("eta", int, 50, "η, about the number of positions"),),
        of_features=max_exp_of_features,
        of_sigma=max_exp_of_sigma,
        eigenfree=lambda x, unit, eta: max_exp_of_features(x, eta),
        eigenfree_dtype=torch.float32,
        homogeneity=lambda eta: 0.0,
        dtype=torch.float32,
    ),
    Method(
        name="corr",
        forward="exact root of the correlation matrix; zero for a constant channel",
        backward="exact, through the standard deviations too",
        reference="timm_gcp",
        of_features=correlation_root_of_features,
        of_sigma=correlation_root_of_sigma,
        takes_matmul_dtype=True,
        eigenfree=lambda x, unit: correlation_root_eigenfree(x),
        eigenfree_dtype=torch.float32,
        homogeneity=lambda: 0.0,
    ),
    Method(
        name="gaussian",
        forward="exact root of [[Σ + β²μμᵀ, βμ], [βμᵀ, 1]], μ the mean",
        backward="exact",
        reference="Wang, Li, Zhang: G²DeNet, CVPR 2017",
        arguments=(Argument("beta", float, 1.0, "β, the weight of the mean"),),
        of_features=gaussian_embedding,
        of_sigma=None,
        takes_unit=True,
        eigenfree=gaussian_embedding_eigenfree,
        eigenfree_dtype=torch.float32,
        output_width=lambda channels, beta: (channels + 1) * (channels + 2) // 2,
    ),
    Method(
        name="bdc",
        forward="Brownian distance covariance: distances between channels, double-centred",
        backward="autograd; zero at distance zero",
        reference="Xie, Long, Lv, Wang, Li: DeepBDC, CVPR 2022",
        arguments=(Argument("temperature", float, 0.5, "factor of the squared distance per position"),),
        of_features=brownian_distance,
        of_sigma=None,
        eigenfree=lambda x, unit, temperature: brownian_distance(x, temperature),
        eigenfree_dtype=torch.float32,
    ),
    Method(
        name="bcnn",
        forward="XXᵀ/M, signed root, unit length",
        backward="autograd",
        reference="Lin, RoyChowdhury, Maji, ICCV 2015",
        of_features=bilinear,
        of_sigma=None,
        eigenfree=lambda x, unit: bilinear(x),
        eigenfree_dtype=torch.float32,
        homogeneity=lambda: 0.0,
        output_width=lambda channels: channels**2,
        dtype=torch.float32,
    ),
    Method(
        name="cbp",
        forward="Tensor Sketch of XXᵀ/M, signed root, unit length",
        backward="autograd",
        reference="Gao, Beijbom, Zhang, Darrell, CVPR 2016",
        arguments=(Argument("sketch", int, 8192, "length of the sketch"),),
        of_features=compact_bilinear,
        of_sigma=None,
        eigenfree=lambda x, unit, sketch: compact_bilinear(x, sketch),
        eigenfree_dtype=torch.float32,
        homogeneity=lambda sketch: 0.0,
        output_width=lambda channels, sketch: sketch,
        dtype=torch.float32,
    ),
)

_BY_NAME = {row.name: row for row in _ROWS}  # torch 2.6 cannot compile a look-up in a read-only view

METHODS: Mapping[str, Method] = MappingProxyType(_BY_NAME)
"""Every method by name; read-only."""


def get_method(name: str) -> Method:
    """The row of a method.

    Raises:
        GCPError: no such method; the message names those there are and the near matches.
    """
    if not isinstance(name, str):
        raise GCPError(f"A method is given by its name, such as 'svdpade', not by {name!r}.")
    if name not in _BY_NAME:
        raise GCPError(f"Unknown method '{name}'; there are {', '.join(METHODS)}{nearest(name, METHODS)}")
    return _BY_NAME[name]


def covariance_method(name: str, given: str = "") -> Method:
    """The row of a method that is a function of the covariance.

    Args:
        name: of the method.
        given: how the user named it, for the message, such as ``--method bcnn``.

    Raises:
        GCPError: no such method, or one that is no function of the covariance.
    """
    row = get_method(name)
    if row.of_sigma is None:
        what = given or f"Method '{name}'"
        raise GCPError(f"{what} is no function of the covariance; use isqrt, or another root.")
    return row


def add_method(method: Method) -> None:
    """Adds a row to the table. Users call ``timm_gcp.register_method``, which also registers its models with timm.

    Raises:
        GCPError: there is a method of that name.
    """
    if method.name in _BY_NAME:
        raise GCPError(f"There is a method '{method.name}' already; give the new one another name.")
    _BY_NAME[method.name] = method
