"""Restores the random generators of a process after a block."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["restored_generators"]


@contextlib.contextmanager
def restored_generators() -> Iterator[None]:
    """Puts the generators of Python, numpy and torch, on the CPU and on every GPU in use, back to where they were."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002
