"""Looks at a data set before training: what it holds, what would break a training, what to choose."""

from .diagnose import Diagnosis, diagnose
from .options import DiagnosisOptions

__all__ = ["Diagnosis", "DiagnosisOptions", "diagnose"]
