"""What a method is: its name, its arguments, the precisions it runs in, and the functions that compute it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import GCPError
from .spectral.polar import polar_root
from .spectral.spectral_function import SpectralFunction, of_features, of_sigma

__all__ = ["FULL_PRECISIONS", "Argument", "Method", "SpectralMethod", "name_of_dtype"]

FULL_PRECISIONS = (torch.float32, torch.float64)
"""The precisions of most methods; the reduced ones are for methods that say so."""

_RESERVED = {"self", "x", "sigma", "method", "dtype", "channels", "unit", "matmul_dtype"}
"""Names of the library's own parameters in functions that also take the arguments of a method."""


def name_of_dtype(dtype: object) -> str:
    """The name of a precision without its package: 'float32'."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Argument:
    """One argument of a method: a positive number.

    Attributes:
        name: the keyword.
        kind: ``int`` for whole numbers of at least 1, ``float`` for numbers above 0.
        default: the value of the paper.
        description: what it is, in a few words.
    """

    name: str
    kind: type[int] | type[float]
    default: float
    description: str

    def __post_init__(self) -> None:
        """Refuses a name or a default that cannot be used."""
        if not self.name.isidentifier() or self.name in _RESERVED:
            raise GCPError(
                f"'{self.name}' cannot be the name of an argument; use a Python identifier other than "
                f"{', '.join(sorted(_RESERVED))}."
            )
        if not self.accepts(self.default):
            raise GCPError(f"The default of argument '{self.name}' is {self.requirement}, not {self.default!r}.")

    @property
    def requirement(self) -> str:
        """What a value has to be, for messages."""
        return "a whole number of at least 1" if self.kind is int else "a number above 0"

    def accepts(self, value: object) -> bool:
        """Whether a value is of the argument's kind and in its range."""
        number = isinstance(value, int if self.kind is int else (int, float)) and not isinstance(value, bool)
        return number and value > 0  # type: ignore[operator]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table of methods.

    The functions of a row are called with every declared argument by keyword.

    Attributes:
        name: the suffix of a registered model, and what ``method=`` takes: lower-case letters and digits.
        forward: what the output is, in a phrase.
        backward: what the gradient is, in a phrase.
        reference: where it was published.
        arguments: the arguments, in the order in which they are shown.
        of_features: features ``[..., C, M]`` → a symmetric ``[..., C, C]``, or the output vector itself where
            ``of_sigma`` is None. The features are centred, except where ``of_sigma`` is None.
        of_sigma: symmetric matrices ``[..., C, C]`` → ``[..., C, C]``; None for a method that is no function of the
            covariance.
        eigenfree: the value of ``of_features`` without an eigensolver and without a gradient, for ONNX. It also gets
            ``unit``, ``[..., 1, 1]``, by which its features have been divided, and raises GCPError for arguments that
            it cannot compute. None where there is no such form.
        eigenfree_dtype: the least precision of ``eigenfree``; float64 where small eigenvalues have to be resolved.
        homogeneity: arguments → the degree k for which features scaled by c give an output scaled by cᵏ.
        output_width: channels and arguments → length of the output vector.
        dtype: the precision of the spectral part unless the caller asks for another.
        dtypes: the precisions that the caller may ask for.
        dtype_off_cpu: the precision of a root on devices other than a CPU, for features that are not float64
            themselves; None where it is the same.
        takes_unit: ``of_features`` and ``of_sigma`` also get ``unit``, ``[..., 1, 1]``, by which the features have
            been divided (Σ by its square): for a method that depends on the scale of the features.
        takes_matmul_dtype: ``of_features`` also gets ``matmul_dtype``, the precision of its matrix products; that of
            its eigenvalues is the dtype of the features.
        defaults: the default of every argument, by name.
    """

    name: str
    forward: str
    backward: str
    reference: str
    arguments: tuple[Argument, ...] = ()
    of_features: Callable[..., Tensor]
    of_sigma: Callable[..., Tensor] | None
    eigenfree: Callable[..., Tensor] | None = None
    eigenfree_dtype: torch.dtype = torch.float64
    homogeneity: Callable[..., float] = lambda **_: 1.0
    output_width: Callable[..., int] = lambda channels, **_: channels * (channels + 1) // 2
    dtype: torch.dtype = torch.float64
    dtypes: tuple[torch.dtype, ...] = FULL_PRECISIONS
    dtype_off_cpu: torch.dtype | None = None
    takes_unit: bool = False
    takes_matmul_dtype: bool = False

    defaults: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Refuses a name that cannot be a suffix, and arguments of one name."""
        if not re.fullmatch("[a-z][a-z0-9]*", self.name):
            raise GCPError(
                f"'{self.name}' cannot be the name of a method; use lower-case letters and digits, a letter first: "
                "models are named <backbone>_<method>.<tag>."
            )
        # A plain dict: torch 2.6 cannot compile a look-up in a read-only view.
        object.__setattr__(self, "defaults", {one.name: one.default for one in self.arguments})
        if len(self.defaults) < len(self.arguments):
            raise GCPError(f"Method '{self.name}' has two arguments of one name; rename one of them.")

    def complete(self, method_args: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments, with the defaults of the others."""
        return {**self.defaults, **method_args}

    def degree(self, **method_args: Any) -> float:
        """The degree k for which features scaled by c give an output scaled by cᵏ."""
        return self.homogeneity(**self.complete(method_args))

    @property
    def is_root(self) -> bool:
        """Whether the output stands for the square root of the covariance: a function of it of degree one.

        The classifier of one such method is of use with another; a function of another degree is of another scale.
        """
        return self.of_sigma is not None and self.degree() == 1

    def width(self, channels: int, **method_args: Any) -> int:
        """Length of the output vector for this many channels."""
        return self.output_width(channels, **self.complete(method_args))

    def precision(self, x: Tensor, method_args: Mapping[str, Any]) -> torch.dtype:
        """The precision of the spectral part for these features, unless the caller asks for another."""
        same = x.device.type == "cpu" or x.dtype == torch.float64 or self.degree(**method_args) != 1
        return self.dtype if same or self.dtype_off_cpu is None else self.dtype_off_cpu

    def check_dtype(self, dtype: object, *, sigma: bool = False) -> None:
        """Refuses a precision that the method does not have, on features or on a given Σ.

        Raises:
            GCPError: naming those that it has.
        """
        if not isinstance(dtype, torch.dtype):
            raise GCPError(f"A precision is a torch.dtype, such as torch.float32, not {dtype!r}.")
        allowed = FULL_PRECISIONS if sigma else self.dtypes
        if dtype not in allowed:
            names = ", ".join(name_of_dtype(one) for one in allowed)
            what = "of a given matrix" if sigma else f"of method '{self.name}'"
            raise GCPError(f"The precision {what} is one of {names}, not {name_of_dtype(dtype)}.")

    def check_args(self, method_args: Mapping[str, Any]) -> None:
        """Refuses an argument that the method does not take, or a value outside its range.

        Raises:
            GCPError: naming the arguments that it does take.
        """
        for name in method_args:
            if name not in self.defaults:
                takes = ", ".join(self.defaults) or "none"
                raise GCPError(f"Method '{self.name}' has no argument '{name}'; the arguments it takes: {takes}.")
        for one in self.arguments:
            if one.name in method_args and not one.accepts(method_args[one.name]):
                value = method_args[one.name]
                raise GCPError(f"Argument '{one.name}' of method '{self.name}' is {one.requirement}, not {value!r}.")


@dataclass(frozen=True, kw_only=True)
class SpectralMethod(Method):
    """A method that is a function of the eigenvalues, with a rule for its Loewner matrix.

    Attributes:
        function: arguments → the function and its rule; ``of_features`` and ``of_sigma`` are made of it.
        polar: whether a root in less than float64 is computed by the polar decomposition of the features, which then
            is more accurate than an eigendecomposition of a Gram matrix. For rules that are exact.
    """

    function: Callable[..., SpectralFunction]
    polar: bool = False
    takes_matmul_dtype: bool = True

    of_features: Callable[..., Tensor] = field(init=False)
    of_sigma: Callable[..., Tensor] = field(init=False)

    def __post_init__(self) -> None:
        """Makes the functions of features and of Σ."""
        super().__post_init__()
        function, homogeneity, polar = self.function, self.homogeneity, self.polar

        def features(
            x: Tensor, matmul_dtype: torch.dtype | None = None, unit: Tensor | None = None, **args: Any
        ) -> Tensor:
            if polar and x.dtype != torch.float64 and homogeneity(**args) == 1:
                return polar_root(x, matmul_dtype)
            return of_features(x, function(**args), matmul_dtype, unit)[0]

        def matrices(sigma: Tensor, unit: Tensor | None = None, **args: Any) -> Tensor:
            return of_sigma(sigma, function(**args), unit)[0]

        object.__setattr__(self, "of_features", features)
        object.__setattr__(self, "of_sigma", matrices)
