"""Explains a covariance head: what each position of the feature map contributes to a logit."""

from .contributions import Explanation, explain

__all__ = ["Explanation", "explain"]
