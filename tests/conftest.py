import os

# The tensors here are small: one thread is faster than several, and leaves the other cores to other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.support.tools import COMMON, MODEL, write_images
from timm_gcp.commands.train import main

# No test may depend on how fast the machine is.
calm = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("repo", deadline=None, derandomize=True, suppress_health_check=calm)
settings.load_profile("repo")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Image folders of three classes."""
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def run(images, tmp_path_factory):
    """One finished run: four epochs, Newton–Schulz in the first two."""
    output = tmp_path_factory.mktemp("runs")
    given = ["--data-dir", images, "--model", MODEL, *COMMON, "--output", output, "--experiment", "base"]
    assert main(list(map(str, given))) == 0
    return output / "base"
