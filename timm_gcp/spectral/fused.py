"""Elementwise rules as one kernel on a GPU, where every step of theirs is otherwise a kernel and a way through memory.

torch's compiler makes the kernel, once for all sizes, when a rule first meets a GPU, which takes seconds. A CPU would
need a C++ compiler for it, so there a rule runs as it is written; ``torch.compile`` of the whole layer fuses it on
either. ``TORCH_COMPILE_DISABLE=1`` turns all of it off.
"""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from .eigensolvers import recorded

__all__ = ["DEVICES", "fused"]

_logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

DEVICES = {"cuda"}
"""Types of devices on which rules are compiled."""


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """Compiles a function of tensors where its first tensor lies on one of `DEVICES`.

    Where that fails (no compiler, a card too old for it) the function runs as it is written, from then on, and a
    warning says so once. Inside a graph that is being compiled, exported or traced it is part of that graph.

    Args:
        function: without side effects; its other arguments are constants of the kernel.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if function in _failed or not _on_device(args):
            return function(*args, **kwargs)
        try:
            return _compiled(function)(*args, **kwargs)
        except Exception as error:  # whatever a compiler raises that does not fit the machine
            result = function(*args, **kwargs)  # what is wrong with the arguments shows here
            _failed.add(function)
            _logger.warning(
                "%s runs uncompiled, torch.compile failed: %s", function.__name__, str(error).split("\n")[0]
            )
            return result

    return run


_failed: set[Callable] = set()


def _on_device(args: tuple) -> bool:
    first = next(one for one in args if isinstance(one, Tensor))
    return first.device.type in DEVICES and not recorded(first)


@functools.cache
def _compiled(function: Callable[P, R]) -> Callable[P, R]:
    return torch.compile(function, dynamic=True)
