"""Keeps the random generators of a process, and cuDNN's choice of algorithms, as they were before a training run."""

import contextlib
from collections.abc import Iterator

import torch

from ..training.generators import restored_generators

__all__ = ["kept_process_state"]


@contextlib.contextmanager
def kept_process_state() -> Iterator[None]:
    """Restores the random generators and cuDNN's choice of algorithms after a block.

    A run seeds every generator by its own seed: without this, numbers that a caller draws between two runs, such as
    settings of a random search, would be the same each time.
    """
    benchmark = torch.backends.cudnn.benchmark
    try:
        with restored_generators():
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
