"""Global covariance pooling for everyone who uses timm. Importing it registers the models with timm."""

# ruff: noqa: E402  Ctrl-C is looked after before the slow imports
# isort: off
from .startup import stop_on_interrupt

stop_on_interrupt()
# isort: on

import importlib
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
    from .api.evaluation import evaluate
    from .api.evaluation_result import EvaluationResult
    from .api.prediction import predict
    from .api.train_result import TrainResult
    from .api.training import train
    from .prediction.result import Prediction, PredictionList
    from .probing.api import probe

__all__ = [
    "METHODS",
    "Argument",
    "EvaluationResult",
    "GCPError",
    "GlobalCovariancePool",
    "HybridSchedule",
    "Method",
    "MomentPool",
    "Prediction",
    "PredictionList",
    "SpectralMethod",
    "TrainResult",
    "__version__",
    "covariance_sqrt",
    "evaluate",
    "explain",
    "graft",
    "matrix_sqrt",
    "pool_features",
    "predict",
    "probe",
    "register_backbone",
    "register_method",
    "train",
]


_LATE = {
    "EvaluationResult": "api.evaluation_result",
    "Prediction": "prediction.result",
    "PredictionList": "prediction.result",
    "TrainResult": "api.train_result",
    "evaluate": "api.evaluation",
    "predict": "api.prediction",
    "probe": "probing.api",
    "train": "api.training",
}
"""Names that are imported when they are first used, and their modules: the commands and scikit-learn take long."""


def __getattr__(name: str) -> Any:
    """Imports a name of `_LATE`."""
    if name in _LATE:
        return getattr(importlib.import_module(f".{_LATE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """All names, those of `_LATE` as well."""
    return sorted({*globals(), *__all__})
