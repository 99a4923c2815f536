import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# No test may depend on how fast the machine is.
calm = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("repo", deadline=None, derandomize=True, suppress_health_check=calm)
settings.load_profile("repo")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
