"""Global covariance pooling for everyone who uses timm. Importing it registers the models with timm."""

# ruff: noqa: E402  Ctrl-C is looked after before the slow imports
# isort: off
from .startup import stop_on_interrupt

stop_on_interrupt()
# isort: on

from typing import TYPE_CHECKING, Any

from .errors import GCPError
from .explanation.contributions import explain
from .functional import covariance_sqrt, matrix_sqrt, pool_features
from .hybrid.schedule import HybridSchedule
from .method import Argument, Method, SpectralMethod
from .methods import METHODS
from .models import graft, register_backbone, register_method
from .moment_pooling import MomentPool
from .pooling import GlobalCovariancePool
from .version import __version__

if TYPE_CHECKING:
    from .probing.api import probe

__all__ = [
    "METHODS",
    "Argument",
    "GCPError",
    "GlobalCovariancePool",
    "HybridSchedule",
    "Method",
    "MomentPool",
    "SpectralMethod",
    "__version__",
    "covariance_sqrt",
    "explain",
    "graft",
    "matrix_sqrt",
    "pool_features",
    "probe",
    "register_backbone",
    "register_method",
]


def __getattr__(name: str) -> Any:
    """Imports ``probe`` when it is first used: it needs scikit-learn, which takes long to import."""
    if name == "probe":
        from .probing.api import probe

        return probe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
