"""Memory that is kept from step to step on a CPU."""

import ctypes
import sys

import torch

_M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_TOP_PAD = -4, -1, -2  # malloc.h


def keep_heap(device: torch.device) -> bool:
    """On a CPU, has the C library keep the memory of activations that are freed, for those of the next step.

    glibc gives every large block back to the system at once and takes it anew, zeroed, page by page. Training on a CPU
    is faster without that, for which the process stays as large as it has been. It holds for the whole process
    and its children. A GPU's memory is kept by torch already.

    Args:
        device: on which the activations are.

    Returns:
        Whether it does now: not for another device, nor by a C library without such settings (musl, macOS, Windows).
    """
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 2**26}
    return set_option is not None and all([set_option(name, value) for name, value in settings.items()])
