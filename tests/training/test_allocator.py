"""The heap that a run on a CPU keeps."""

import ctypes
import subprocess
import sys

import pytest
import torch

from timm_gcp.training.allocator import keep_heap

FREED = """
import resource, sys, torch
from timm_gcp.training.allocator import keep_heap

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

if sys.argv[1] == "kept":
    assert keep_heap(torch.device("cpu"))
torch.ones(2**20)  # whatever torch sets up first
before = resident()
block = torch.ones(2**26 // 4)
del block
print((resident() - before) / 2**26)
"""


def has_settings() -> bool:
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallopt")


@pytest.mark.slow
@pytest.mark.skipif(not has_settings(), reason="a C library without mallopt")
@pytest.mark.parametrize(("mode", "least", "most"), [("kept", 0.9, 3), ("as usual", -1, 0.5)])
def test_memory_that_is_freed_stays(mode, least, most):
    ran = subprocess.run([sys.executable, "-c", FREED, mode], capture_output=True, text=True, check=True)
    assert least < float(ran.stdout) < most


def test_a_gpu_needs_nothing():
    assert not keep_heap(torch.device("cuda"))
