"""Embeddings of images by the covariance of their features: short vectors, neighbours, duplicates, label errors."""

from .embed import Embedding, embed
from .options import EmbeddingOptions

__all__ = ["Embedding", "EmbeddingOptions", "embed"]
