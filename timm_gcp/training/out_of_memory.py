"""Turns an out-of-memory error into a message that names the batch size and what to change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import GCPError

__all__ = ["LESS_IN_EVALUATION", "LESS_MEMORY", "naming_the_batch"]

LESS_MEMORY = (
    "lower -b (--grad-accum-steps N keeps the images of an update) or --img-size, or add --amp or --grad-checkpointing"
)
"""What makes training need less memory."""
LESS_IN_EVALUATION = "lower -vb or --img-size, or add --amp"
"""What makes the evaluations of a training need less memory."""


@contextmanager
def naming_the_batch(batch_size: int, device: torch.device, remedies: str) -> Iterator[None]:
    """Turns an allocation that fails into a sentence.

    Args:
        batch_size: images per batch.
        device: on which the model is.
        remedies: options that need less memory, as part of a sentence.

    Raises:
        GCPError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # The allocator of the CPU raises a plain RuntimeError.
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in str(error):
            raise
        raise GCPError(f"Out of memory on {device} with batches of {batch_size} images: {remedies}.") from error
