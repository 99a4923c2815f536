"""Options of an embedding."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import GCPError
from ..probing.options import FeatureOptions

__all__ = ["COMPACT", "EmbeddingOptions"]

COMPACT = ("sketch", "pca")
"""Ways to a short vector: a count sketch of the triangle, or its principal components over the images."""


@dataclass(kw_only=True)
class EmbeddingOptions(FeatureOptions):
    """Which images are embedded, and how.

    Attributes:
        splits: of the data set, embedded together; empty takes those that an image folder has, or else the folder
            itself, and the training split of another data set.
        compact: 'sketch' or 'pca'.
        size: length of the vectors; None takes 1024 for a sketch and 256 for principal components, or what there is.
    """

    splits: Sequence[str] = ()
    compact: str = "sketch"
    size: int | None = None

    def __post_init__(self) -> None:
        """Refuses a way or a length that there is not."""
        if self.compact not in COMPACT:
            raise GCPError(f"Unknown way '{self.compact}' to a short vector; there are {', '.join(COMPACT)}.")
        if self.size is not None and self.size < 1:
            raise GCPError(f"`size={self.size}`: give the length of the vectors, 1 or more.")
