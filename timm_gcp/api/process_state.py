"""What a training run changes in its process, and a function has to leave as it was."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["kept_process_state"]


@contextlib.contextmanager
def kept_process_state() -> Iterator[None]:
    """Restores the random generators and cuDNN's choice of algorithms after a block.

    A run seeds every generator by its own seed: without this, numbers that a caller draws between two runs, such as
    settings of a random search, would be the same each time.
    """
    python, arrays, benchmark = random.getstate(), np.random.get_state(), torch.backends.cudnn.benchmark  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002
        torch.backends.cudnn.benchmark = benchmark
