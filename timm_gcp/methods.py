"""The table of methods, and the two functions that take a method by name.

A method turns the features of an image into the vector that the classifier sees: most of them by a function of the
covariance (its square root, computed and differentiated in one way or another). A new method is a new row of ``_ROWS``.
"""

import contextlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .errors import GCPError
from .spectral import eigenfree as products
from .spectral import loewner
from .spectral.bilinear import bilinear, compact_bilinear
from .spectral.covariance import binary_scale, centre, rescale, triangle
from .spectral.matrix_pade import Approximant, matrix_root, pade_root, taylor_root
from .spectral.matrix_pade_eigen import matrix_root_eigen, pade_scalar, taylor_scalar
from .spectral.newton_schulz import newton_schulz, newton_schulz_of_features
from .spectral.newton_schulz_eigen import root_of_sigma_with_newton_gradient, root_with_newton_gradient
from .spectral.polar import DTYPES, hermitian_factor, polar_root
from .spectral.regularised import balanced_root, regularised_log, regularised_root
from .spectral.spectral_function import EXACT_ROOT, ClippedRoot, Elementwise, SpectralFunction, of_features, of_sigma
from .text import nearest

__all__ = ["METHODS", "Method", "covariance_sqrt", "get_method", "matrix_sqrt", "pool_features"]

_PRECISIONS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: the suffix of a registered model, and what ``method=`` takes.
        forward: what the output is, in words.
        backward: what the gradient is, in words.
        reference: where it was published.
        dtype: the precision of the spectral part unless the caller asks for another.
        dtypes: the precisions that the caller may ask for.
        dtype_off_cpu: the precision of a root elsewhere than on a CPU, for features that are not float64 themselves;
            None where it is the same.
        of_features: features ``[..., C, M]`` and the method's arguments → a symmetric ``[..., C, C]``, or, where
            ``of_sigma`` is None, the output vector itself.
        of_sigma: symmetric matrices ``[..., C, C]`` and the method's arguments → ``[..., C, C]``; None for a method
            that is no function of the covariance.
        degree: scaling the features by c scales the output by c^degree; a function of the arguments. A method that
            takes an argument ``unit`` has to know the scale: its features have been divided by it.
        width: channels and arguments → length of the output vector.
        by_products: centred features, by what they have been divided (``unit``) and the method's arguments → the
            value of ``of_features`` by matrix products alone; it raises GCPError for arguments without such a form.
            None where ``of_features`` is made of products already.
        products_dtype: the least precision of ``by_products``; what has to resolve small eigenvalues needs float64.
        defaults: the method's arguments with the papers' values.
        takes_unit: whether the method has to know by what its features have been divided.
        takes_products: whether ``of_features`` takes the precision of its matrix products (``products``), beside
            that of its eigenvalues.
    """

    name: str
    forward: str
    backward: str
    reference: str
    dtype: torch.dtype
    of_features: Callable[..., Tensor]
    of_sigma: Callable[..., Tensor] | None
    degree: Callable[..., float] = lambda **_: 1.0
    width: Callable[..., int] = lambda channels, **_: channels * (channels + 1) // 2
    by_products: Callable[..., Tensor] | None = None
    products_dtype: torch.dtype = torch.float64
    dtypes: tuple[torch.dtype, ...] = _PRECISIONS
    dtype_off_cpu: torch.dtype | None = None

    defaults: Mapping[str, Any] = field(init=False)
    takes_unit: bool = field(init=False)
    takes_products: bool = field(init=False)

    def __post_init__(self) -> None:
        # Once, at import: a compiled forward cannot look at signatures.
        parameters = list(inspect.signature(self.of_features).parameters.values())[1:]
        defaults = {p.name: p.default for p in parameters if p.name not in ("unit", "products")}
        object.__setattr__(self, "defaults", defaults)
        for name in ("unit", "products"):
            object.__setattr__(self, f"takes_{name}", any(p.name == name for p in parameters))

    def precision(self, x: Tensor, method_args: Mapping[str, Any]) -> torch.dtype:
        """The precision of the spectral part for these features, unless the caller asks for another."""
        here = x.device.type == "cpu" or x.dtype == torch.float64 or self.degree(**method_args) != 1
        return self.dtype if here or self.dtype_off_cpu is None else self.dtype_off_cpu

    def check_dtype(self, dtype: object, *, sigma: bool = False) -> None:
        """Refuses a precision that the method does not have, on features or on a given Σ.

        Raises:
            GCPError: naming those that it has.
        """
        allowed = _PRECISIONS if sigma else self.dtypes
        if dtype not in allowed:
            names = ", ".join(str(one).removeprefix("torch.") for one in allowed)
            what = "of a given matrix" if sigma else f"of method '{self.name}'"
            raise GCPError(f"The precision {what} is one of {names}, not {str(dtype).removeprefix('torch.')}.")

    def check_args(self, method_args: Mapping[str, Any]) -> None:
        """Refuses an argument that the method does not take, or a value outside its range.

        Raises:
            GCPError: naming the arguments that it does take.
        """
        for name, value in method_args.items():
            if name not in self.defaults:
                takes = ", ".join(self.defaults) or "none"
                raise GCPError(f"Method '{self.name}' has no argument '{name}'; the arguments it takes: {takes}.")
            whole = isinstance(self.defaults[name], int)
            number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            if not (number and value > 0):
                kind = "a whole number of at least 1" if whole else "a number above 0"
                raise GCPError(f"Argument '{name}' of method '{self.name}' is {kind}, not {value!r}.")


def _root_by_products(x: Tensor, **_: Any) -> Tensor:
    return hermitian_factor(x)


def _half_power_by_products(x: Tensor, alpha: float = 0.5, **_: Any) -> Tensor:
    if alpha != 0.5:
        raise GCPError(
            f"A power alpha={alpha:g} of the covariance is beyond matrix products, its square root is not: "
            "method 'svdlyap' is the root, and the same weights load."
        )
    return hermitian_factor(x)


def _largest_by_products(x: Tensor, keep: int = 206, **_: Any) -> Tensor:
    rank = min(x.shape[-2], x.shape[-1] - 1)
    if keep < rank:
        raise GCPError(
            f"The largest keep={keep} of {rank} eigenvalues are beyond matrix products, all of them are not: "
            "method 'svdlyap' is the root of all, and the same weights load."
        )
    return hermitian_factor(x)


def _spectral(
    name: str,
    backward: str,
    reference: str,
    function: Callable[..., SpectralFunction],
    forward: str = "exact root",
    degree: Callable[..., float] = lambda **_: 1.0,
    by_products: Callable[..., Tensor] = _root_by_products,
    exact: bool = False,
    takes_unit: bool = False,
) -> Method:
    """A row of the SVD family: float64, and a spectral function made from the method's arguments.

    A function whose gradient has a scale `takes_unit`. Where the gradient is `exact`, a root in a lower precision is
    made by products: no eigendecomposition of a Gram matrix reaches that of the features' own polar decomposition.
    """

    def features(x: Tensor, products: torch.dtype | None = None, unit: Tensor | None = None, **args: Any) -> Tensor:
        if exact and x.dtype != torch.float64 and degree(**args) == 1:
            return polar_root(x, products)
        return of_features(x, function(**args), products, unit)[0]

    def sigma(s: Tensor, unit: Tensor | None = None, **args: Any) -> Tensor:
        return of_sigma(s, function(**args), unit)[0]

    # What the row takes is what its function takes.
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(function).parameters.values()]
    first = inspect.Parameter("x", inspect.Parameter.POSITIONAL_ONLY)
    names = ("products", "unit") if takes_unit else ("products",)
    given = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    features.__signature__ = inspect.Signature([first, *given, *own])  # type: ignore[attr-defined]
    return Method(
        *(name, forward, backward, reference, torch.float64, features, sigma, degree),
        by_products=by_products,
        products_dtype=torch.float32,
        dtypes=DTYPES if exact else _PRECISIONS,
        dtype_off_cpu=torch.float32 if exact else None,
    )


def _power(alpha: float, k: loewner.Rule | None = None) -> Elementwise:
    """λ^α with its exact Loewner matrix, or through the eigenvectors with a K̂."""
    exact = loewner.exact_power(alpha)
    f = torch.sqrt if alpha == 0.5 else partial(torch.pow, exponent=alpha)
    return Elementwise(f, loewner.through_eigenvectors(k, exact) if k else exact)


def _twice(alpha: float = 0.5, **_: Any) -> float:
    """Σ^α has twice the degree α in the features."""
    return 2 * alpha


def _matrix_root(
    name: str,
    forward: str,
    approximant: Approximant,
    scalar: Approximant,
    degree: int,
    by_products: Callable[..., Tensor],
    products_dtype: torch.dtype,
) -> Method:
    """A row of MPA or MTP: on the eigenvalues of the smaller side where those are cheap, on Σ elsewhere."""

    def features(x: Tensor, degree: int = degree, iterations: int = 8) -> Tensor:
        if x.device.type == "cpu":
            return matrix_root_eigen(x, scalar, degree, iterations)
        return matrix_root(x @ x.mT, approximant, degree, iterations)

    def sigma(s: Tensor, degree: int = degree, iterations: int = 8) -> Tensor:
        return matrix_root(s, approximant, degree, iterations)

    backward, reference = "Lyapunov equation, 8 steps", "Song, Sebe, Wang, ICLR 2022"
    return Method(
        *(name, forward, backward, reference, torch.float32, features, sigma),
        by_products=by_products,
        products_dtype=products_dtype,
    )


def _pade_by_products(x: Tensor, degree: int = 5, iterations: int = 8, **_: Any) -> Tensor:
    return matrix_root(x @ x.mT, products.pade_root, degree, iterations)


def _taylor_by_products(x: Tensor, degree: int = 11, iterations: int = 8, **_: Any) -> Tensor:
    return matrix_root(x @ x.mT, taylor_root, degree, iterations)


_ROWS = (
    Method(
        "isqrt",
        "coupled Newton–Schulz, 5 iterations, compensated by the trace",
        "its adjoint, by hand",
        "Li, Xie, Wang, Gao: iSQRT-COV, CVPR 2018",
        torch.float32,
        newton_schulz_of_features,
        lambda s, iterations=5: newton_schulz(s, iterations),
        by_products=lambda x, iterations=5, **_: newton_schulz(x @ x.mT, iterations),
        products_dtype=torch.float32,
    ),
    _spectral(
        "svd",
        "the ordinary SVD gradient, 1/(λi − λj) with an overflow check",
        "Li, Xie, Wang, Zuo: MPN-COV, ICCV 2017; Ionescu, Vantzos, Sminchisescu, ICCV 2015",
        lambda alpha=0.5: _power(alpha, loewner.k_svd),
        degree=_twice,
        by_products=_half_power_by_products,
    ),
    _spectral(
        "svdtrunc",
        "1/(λi − λj) clipped",
        "Song, Sebe, Wang, ICCV 2021, §3",
        lambda clip=1e10: ClippedRoot(clip),
        takes_unit=True,
    ),
    _spectral(
        "svdtopn",
        "exact, of the same function",
        "Song, Sebe, Wang, ICCV 2021, §3",
        lambda keep=206: loewner.LargestRoots(keep),
        forward="root of the largest eigenvalues",
        by_products=_largest_by_products,
    ),
    _spectral(
        "svdtaylor",
        "Taylor polynomial of the series of 1/(λi − λj)",
        "Wang, Dang, Hu, Fua, Salzmann, TPAMI 2021",
        lambda degree=100: _power(0.5, loewner.k_taylor(degree)),
    ),
    _spectral(
        "svdpade",
        "diagonal Padé approximant of the series of 1/(λi − λj)",
        "Song, Sebe, Wang, ICCV 2021, §4",
        lambda alpha=0.5: _power(alpha, loewner.k_pade),
        degree=_twice,
        by_products=_half_power_by_products,
    ),
    Method(
        "svdnewton",
        "exact root",
        "adjoint of the Newton–Schulz iteration",
        "Song, Sebe, Wang: DifferentiableSVD",
        torch.float64,
        lambda x, iterations=10: root_with_newton_gradient(x, iterations),
        lambda s, iterations=10: root_of_sigma_with_newton_gradient(s, iterations),
        by_products=_root_by_products,
    ),
    _spectral(
        "svdpi",
        "power iteration with deflation, which truncates the series of 1/(λi − λj) after as many terms",
        "Wang, Dang, Hu, Fua, Salzmann, NeurIPS 2019",
        lambda iterations=20: _power(0.5, loewner.k_taylor(iterations)),
    ),
    _spectral(
        "svdlyap",
        "exact, the Lyapunov equation solved in the eigenbasis",
        "Lin, Maji: Improved Bilinear Pooling, BMVC 2017",
        lambda: EXACT_ROOT,
        exact=True,
    ),
    _spectral(
        "polar",
        "exact, 1/(√λi + √λj); from features bounded by √2 times the incoming gradient",
        "timm_gcp; Higham, Functions of Matrices, ch. 3; Araki & Yamagami 1981",
        lambda alpha=0.5: _power(alpha),
        degree=_twice,
        by_products=_half_power_by_products,
        exact=True,
    ),
    Method(
        "rsqrt",
        "root of λ + δ less √δ, δ a share of the mean eigenvalue",
        "exact, of δ too; smooth at zero",
        "timm_gcp",
        torch.float64,
        *regularised_root,
        by_products=lambda x, unit, share=0.1: products.regularised_root(x, share),
    ),
    Method(
        "logm",
        "logarithm of λ + δ, δ a share of the mean eigenvalue",
        "exact, of δ too",
        "Ionescu, Vantzos, Sminchisescu: DeepO2P, ICCV 2015",
        torch.float64,
        *regularised_log,
        degree=lambda **_: 0.0,
        by_products=lambda x, unit, share=1e-3: products.regularised_log(x, share, unit),
    ),
    _matrix_root(
        "mpa",
        "matrix Padé approximant [5/5]",
        pade_root,
        pade_scalar,
        5,
        _pade_by_products,
        torch.float64,
    ),
    _matrix_root(
        "mtp",
        "matrix Taylor polynomial of degree 11",
        taylor_root,
        taylor_scalar,
        11,
        _taylor_by_products,
        torch.float32,
    ),
    Method(
        "seb",
        "exact root times 1 + ‖√Σ exp(−Σ)‖",
        "exact through both factors",
        "Song, Sebe, Wang, TPAMI 2022: Scaling Eigen Branch",
        torch.float64,
        *balanced_root,
        by_products=lambda x, unit: products.balanced_root(x, unit),
    ),
    Method(
        "bcnn",
        "XXᵀ/M, signed root, unit length",
        "autograd",
        "Lin, RoyChowdhury, Maji, ICCV 2015",
        torch.float32,
        bilinear,
        None,
        degree=lambda **_: 0.0,
        width=lambda channels, **_: channels**2,
    ),
    Method(
        "cbp",
        "Tensor Sketch of XXᵀ/M, signed root, unit length",
        "autograd",
        "Gao, Beijbom, Zhang, Darrell, CVPR 2016",
        torch.float32,
        lambda x, sketch=8192: compact_bilinear(x, sketch),
        None,
        degree=lambda **_: 0.0,
        width=lambda channels, sketch=8192: sketch,
    ),
)

_BY_NAME = {row.name: row for row in _ROWS}  # torch 2.6 compiles no look-up in a proxy

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


def _scaled(
    row: Method,
    given: Tensor,
    dtype: torch.dtype | None,
    args: dict[str, Any],
    *,
    sigma: bool = False,
    finish: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Runs a method outside autocast, in its precision, on input scaled to magnitude one; scales the result back.

    The scale is the unit of the features, or its square for Σ. Scaled before anything is summed or cast down: no finite
    input overflows.

    Args:
        row: the method.
        given: features, or Σ.
        dtype: precision; None takes the method's own.
        args: the method's arguments.
        sigma: Σ is given.
        finish: what becomes of the method's output before it is scaled back.
    """
    if dtype is not None:
        row.check_dtype(dtype, sigma=sigma)
    dtype = dtype or (row.dtype if sigma else row.precision(given, args))
    power = 2 if sigma else 1
    # The meta device has no autocast to leave.
    with contextlib.nullcontext() if given.is_meta else torch.autocast(given.device.type, enabled=False):
        work = given.to(torch.promote_types(given.dtype, torch.float32))
        unit = binary_scale(work)
        if sigma:
            unit = torch.exp2(torch.floor(torch.log2(unit) / 2))  # an even power of two, to stay exact
        degree = row.degree(**args)
        scaled = rescale(work, unit**-power, torch.ones_like(unit))
        if row.takes_unit:
            args = {**args, "unit": unit.to(torch.promote_types(unit.dtype, torch.float64))}
        if row.takes_products and not sigma:
            args = {**args, "products": work.dtype if dtype in _PRECISIONS else dtype}
        dtype = torch.promote_types(dtype, torch.float32)
        scaled = scaled.to(dtype) if sigma or row.of_sigma is None else centre(scaled, dtype)
        compute = row.of_sigma if sigma else row.of_features
        assert compute is not None
        out = compute(scaled, **args)
        out = (out if finish is None else finish(out)).to(work.dtype)
        forward, back = unit**degree, unit ** (degree - power)
        if out.dim() < work.dim():
            forward, back = forward.squeeze(-1), back.squeeze(-1)
        return rescale(out, forward, back).to(given.dtype)


def _check_tensor(x: object, caller: str, what: str) -> None:
    """Refuses what is not a dense floating-point tensor of at least two dimensions, none of the last two empty.

    Raises:
        GCPError: naming the way to make one.
    """
    takes = f"{caller} takes {what}"
    if not isinstance(x, Tensor):
        remedy = "torch.from_numpy(x)" if type(x).__module__ == "numpy" else "torch.as_tensor(x)"
        raise GCPError(f"{takes} as a torch.Tensor, not a {type(x).__module__}.{type(x).__name__}; use {remedy}.")
    if x.layout != torch.strided:
        raise GCPError(f"{takes} as a dense tensor, not a sparse one; use x.to_dense().")
    if not x.is_floating_point():
        remedy = "take a real representation of it first" if x.is_complex() else "use x.float() or x.double()"
        raise GCPError(f"{takes} in floating point, not {x.dtype}; {remedy}.")
    if x.dim() < 2 or 0 in x.shape[-2:]:
        raise GCPError(f"{takes} with at least one of each, not a tensor of shape {list(x.shape)}.")


def pool_features(
    x: Tensor, method: str = "svdpade", *, dtype: torch.dtype | None = None, **method_args: Any
) -> Tensor:
    """The vector that a method makes of a batch of features: what ``GlobalCovariancePool`` gives after its reduction.

    Args:
        x: features ``[..., C, M]``, C channels at M positions, any floating dtype.
        method: a name of ``METHODS``.
        dtype: precision of the spectral part, one of ``METHODS[method].dtypes``; None takes the method's own.
        **method_args: the method's arguments (``METHODS[method].defaults``).

    Returns:
        ``[..., METHODS[method].width(C, **method_args)]`` in the dtype of ``x``; for a function of the covariance its
        upper triangle, row by row.

    Raises:
        GCPError: an unknown method or argument, or features without positions or channels.
    """
    row = get_method(method)
    row.check_args(method_args)
    _check_tensor(x, "pool_features", "features [..., channels, positions]")
    return _scaled(row, x, dtype, method_args, finish=None if row.of_sigma is None else triangle)


def covariance_sqrt(
    x: Tensor, method: str = "svdpade", *, dtype: torch.dtype | None = None, **method_args: Any
) -> Tensor:
    """The square root of the covariance of a batch of features (or what else the method takes of it).

    Centring, covariance and root run outside autocast, in the method's own precision. Scaling the features by c
    scales a root by c, over the whole range of the input's dtype.

    Args:
        x: features ``[..., C, M]``, C channels at M positions, any floating dtype.
        method: a name of ``METHODS``.
        dtype: precision of the spectral part, one of ``METHODS[method].dtypes``; None takes the method's own.
        **method_args: the method's arguments (``METHODS[method].defaults``).

    Returns:
        ``[..., C, C]``, symmetric, in the dtype of ``x``. Differentiable once.

    Raises:
        GCPError: an unknown method or argument, a method that is no function of the covariance, or features without
            positions or channels.
    """
    row = _of_covariance(method, method_args)
    _check_tensor(x, "covariance_sqrt", "features [..., channels, positions]")
    return _scaled(row, x, dtype, method_args)


def matrix_sqrt(
    sigma: Tensor, method: str = "svdpade", *, dtype: torch.dtype | None = None, **method_args: Any
) -> Tensor:
    """The square root of a batch of given symmetric positive semi-definite matrices (or what else the method takes).

    For people outside image classification. Where the features themselves are at hand, ``covariance_sqrt`` is faster
    and its exact gradient is bounded.

    Args:
        sigma: ``[..., C, C]``, any floating dtype. Only the symmetric part counts; negative eigenvalues count as zero.
        method: a name of ``METHODS``.
        dtype: precision of the computation, float32 or float64; None takes the method's own.
        **method_args: the method's arguments (``METHODS[method].defaults``).

    Returns:
        ``[..., C, C]``, symmetric, in the dtype of ``sigma``. Differentiable once.

    Raises:
        GCPError: an unknown method or argument, a method that is no function of the covariance, or matrices that are
            not square.
    """
    row = _of_covariance(method, method_args)
    _check_tensor(sigma, "matrix_sqrt", "square matrices [..., C, C]")
    if sigma.shape[-1] != sigma.shape[-2]:
        raise GCPError(f"matrix_sqrt takes square matrices [..., C, C], not a tensor of shape {list(sigma.shape)}.")
    return _scaled(row, sigma, dtype, method_args, sigma=True)


def _of_covariance(method: str, method_args: Mapping[str, Any]) -> Method:
    row = get_method(method)
    row.check_args(method_args)
    if row.of_sigma is None:
        raise GCPError(
            f"Method '{method}' is no function of the covariance; use pool_features or GlobalCovariancePool."
        )
    return row
