"""The version of timm_gcp."""

__version__ = "0.1.0"
