"""A backward that may not be differentiated again."""

import functools
from collections.abc import Callable

import torch


def differentiable_once(backward: Callable) -> Callable:
    """Decorates the ``backward`` of an ``autograd.Function`` that is written by hand.

    torch's own ``once_differentiable`` stays silent where the incoming gradient does not require one, and a second
    derivative would then miss this part without a word. Here the first pass with ``create_graph=True`` says so.
    """

    @functools.wraps(backward)
    def wrapped(ctx, *grads):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The gradient of covariance pooling cannot be differentiated a second time: "
                "call backward or grad without create_graph=True."
            )
        return backward(ctx, *grads)

    return wrapped
