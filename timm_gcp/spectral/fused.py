"""Compiles elementwise rules to one kernel on a GPU, where otherwise each of their steps is a kernel of its own.

torch's compiler creates the kernel, for all sizes, when a rule is first used on a GPU, which takes seconds. On a CPU it
would need a C++ compiler, so there a rule runs uncompiled; ``torch.compile`` of the whole layer fuses it on both.
``TORCH_COMPILE_DISABLE=1`` turns compilation off.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from .eigensolvers import recorded

__all__ = ["DEVICES", "fused"]

_logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

DEVICES = {"cuda"}
"""The types of devices on which rules are compiled."""


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """Compiles a function of tensors if its first tensor is on one of `DEVICES`.

    If compilation fails (no compiler, a GPU that is too old) the function runs uncompiled from then on, and one warning
    is logged. Inside a graph that is being compiled, exported or traced the function becomes part of that graph.

    Args:
        function: without side effects; its arguments that are not tensors are constants of the kernel.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if function in _failed or not _on_device(args):
            return function(*args, **kwargs)
        try:
            compiled: Callable[P, R] = _compiled(function)
            return compiled(*args, **kwargs)
        except Exception as error:  # a compiler that does not fit the machine may raise anything
            result = function(*args, **kwargs)  # raises if the arguments are wrong
            _failed.add(function)
            _logger.warning(
                "%s runs uncompiled, torch.compile failed: %s", function.__name__, str(error).split("\n")[0]
            )
            return result

    return run


_failed: set[Callable[..., Any]] = set()


def _on_device(args: tuple[object, ...]) -> bool:
    first = next(one for one in args if isinstance(one, Tensor))
    return first.device.type in DEVICES and not recorded(first)


@functools.cache
def _compiled(function: Callable[P, R]) -> Callable[P, R]:
    compiled: Callable[P, R] = torch.compile(function, dynamic=True)
    return compiled
