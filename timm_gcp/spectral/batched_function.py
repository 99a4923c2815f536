"""The base class of the hand-written autograd functions, for ``torch.func`` and against second derivatives."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["BatchedFunction"]


class BatchedFunction(torch.autograd.Function):
    """A function of batches of matrices ``[..., n, m]`` with a hand-written gradient.

    A subclass defines two static methods:

    - ``forward(*inputs)`` returns a tensor, or a tuple of tensors of which the first `results` are for the caller. The
      others are kept for the gradient; they have to be new tensors, not inputs or views. The gradient is taken of the
      first input; tensors and constants may follow.
    - ``gradient(kept, grads, constants)`` returns the gradient of the first input. ``kept`` are the inputs numbered in
      `keeps_inputs`, the results numbered in `keeps_results`, then the tensors kept by ``forward``; ``grads`` are
      those of the results, None for a result that was not used; ``constants`` are the inputs that are not tensors, and
      last the shape of the first input.

    ``apply`` returns all outputs; take the first `results`. ``torch.func.grad``, ``vmap`` and ``jacrev`` work: every
    tensor is a batch of matrices, so a mapped dimension becomes one more leading dimension. A second derivative raises
    ``RuntimeError`` unless the function is linear, also where ``once_differentiable`` would omit it without
    an error.

    Attributes:
        results: number of outputs for the caller.
        keeps_inputs: numbers of the inputs that the gradient needs.
        keeps_results: numbers of the results that the gradient needs.
        linear: whether ``gradient`` may be differentiated by autograd itself.
    """

    results = 1
    keeps_inputs: tuple[int, ...] = ()
    keeps_results: tuple[int, ...] = ()
    linear = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Makes the static methods that torch calls."""
        super().__init_subclass__(**kwargs)

        # Closures over plain values, because torch calls these without the class and cannot compile its attributes.
        forward, gradient, linear = cls.forward, cls.gradient, cls.linear
        keeps_inputs, keeps_results, results = cls.keeps_inputs, cls.keeps_results, cls.results

        @functools.wraps(forward)  # torch's compiler looks at the signature
        def forward_of_new_tensors(*inputs: Any) -> Any:
            output = forward(*inputs)
            if not torch.compiler.is_compiling():
                return output
            # Compiled by torch 2.11, the result of an operation in place would have no gradient, without an error.
            return output.clone() if isinstance(output, Tensor) else tuple(one.clone() for one in output)

        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.set_materialize_grads(False)
            outputs = output if isinstance(output, tuple) else (output,)
            kept = [inputs[i] for i in keeps_inputs] + [outputs[i] for i in keeps_results]
            ctx.save_for_backward(*kept, *outputs[results:])
            ctx.constants = (*(one for one in inputs if not isinstance(one, Tensor)), inputs[0].shape)
            ctx.others = len(inputs) - 1

        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            rest = (None,) * ctx.others
            used = grads[:results]
            if all(grad is None for grad in used):
                return None, *rest
            if linear or torch.compiler.is_compiling():
                return gradient(ctx.saved_tensors, used, ctx.constants), *rest
            present = tuple(grad is not None for grad in used)
            tensors = (*ctx.saved_tensors, *(grad for grad in used if grad is not None))
            return _Gradient.apply(gradient, present, ctx.constants, *tensors), *rest

        def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
            return _vmap(cls, info, in_dims, *inputs)

        cls.forward = staticmethod(forward_of_new_tensors)  # type: ignore[method-assign]
        cls.setup_context = staticmethod(setup_context)  # type: ignore[method-assign]
        cls.backward = staticmethod(backward)  # type: ignore[method-assign]
        cls.vmap = staticmethod(vmap)  # type: ignore[method-assign]

    @staticmethod
    def gradient(kept: Sequence[Tensor], grads: Sequence[Tensor | None], constants: Sequence[Any]) -> Tensor:
        """The gradient of the first input."""
        raise NotImplementedError


def _vmap(
    function: type[torch.autograd.Function], info: Any, in_dims: tuple[Any, ...], *inputs: Any
) -> tuple[Any, Any]:
    """Moves the mapped dimension of every tensor to the front; a tensor without one is repeated along it."""
    moved = [
        one
        if not isinstance(one, Tensor)
        else one.expand(info.batch_size, *one.shape)
        if dim is None
        else one.movedim(dim, 0)
        for one, dim in zip(inputs, in_dims, strict=True)
    ]
    out = function.apply(*moved)
    return out, 0 if isinstance(out, Tensor) else (0,) * len(out)


class _Gradient(torch.autograd.Function):
    """The gradient as a node of the graph, so that a second derivative can be refused."""

    @staticmethod
    def forward(
        gradient: Callable[..., Tensor], present: tuple[bool, ...], constants: tuple[Any, ...], *tensors: Tensor
    ) -> Tensor:
        count = len(tensors) - sum(present)
        given = iter(tensors[count:])
        return gradient(tensors[:count], [next(given) if there else None for there in present], constants)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keeps nothing: there is no second derivative."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Refuses a second derivative."""
        raise RuntimeError(
            "The gradient of covariance pooling cannot be differentiated a second time: use first derivatives only, or "
            "another pooling."
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        """Adds a leading dimension."""
        return _vmap(_Gradient, info, in_dims, *inputs)
