"""Global covariance pooling for everyone who uses timm. Importing it registers the models with timm."""

# ruff: noqa: E402  Ctrl-C is looked after before the slow imports
# isort: off
from .startup import stop_on_interrupt

stop_on_interrupt()
# isort: on

from .errors import GCPError
from .functional import covariance_sqrt, matrix_sqrt, pool_features
from .hybrid.schedule import HybridSchedule
from .method import Argument, Method, SpectralMethod
from .methods import METHODS
from .models import graft, register_backbone, register_method
from .pooling import GlobalCovariancePool
from .version import __version__

__all__ = [
    "METHODS",
    "Argument",
    "GCPError",
    "GlobalCovariancePool",
    "HybridSchedule",
    "Method",
    "SpectralMethod",
    "__version__",
    "covariance_sqrt",
    "graft",
    "matrix_sqrt",
    "pool_features",
    "register_backbone",
    "register_method",
]
