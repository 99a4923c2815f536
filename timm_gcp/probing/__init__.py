"""A classifier on the frozen features of a backbone: second-order features in minutes, without training."""

from .api import probe
from .estimator import CovariancePooling
from .options import FeatureOptions, HeadOptions, MomentSettings, ProbeOptions
from .probe import Probe, fit_probe

__all__ = [
    "CovariancePooling",
    "FeatureOptions",
    "HeadOptions",
    "MomentSettings",
    "Probe",
    "ProbeOptions",
    "fit_probe",
    "probe",
]
