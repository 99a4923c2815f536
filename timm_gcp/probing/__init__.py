"""A classifier on the frozen features of a backbone: second-order features in minutes, without training."""

from .estimator import CovariancePooling
from .options import ProbeOptions
from .probe import Probe, fit_probe

__all__ = ["CovariancePooling", "Probe", "ProbeOptions", "fit_probe"]
