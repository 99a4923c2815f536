"""Options of an embedding."""

from dataclasses import dataclass

from ..errors import GCPError
from ..probing.options import ProbeOptions

__all__ = ["COMPACT", "EmbeddingOptions"]

COMPACT = ("sketch", "pca")
"""Ways to a short vector: a count sketch of the triangle, or its principal components over the images."""


@dataclass(kw_only=True)
class EmbeddingOptions(ProbeOptions):
    """Which images are embedded, and how. Features and covariance are those of a probe.

    Attributes:
        train_split: split of the data set; '' for the class folders in the folder itself.
        compact: 'sketch' or 'pca'.
        size: length of the vectors; None takes 1024 for a sketch and 256 for principal components, or what there is.
    """

    train_split: str = ""
    compact: str = "sketch"
    size: int | None = None

    def __post_init__(self) -> None:
        """Refuses a way or a length that there is not."""
        super().__post_init__()
        if self.compact not in COMPACT:
            raise GCPError(f"Unknown way '{self.compact}' to a short vector; there are {', '.join(COMPACT)}.")
        if self.size is not None and self.size < 1:
            raise GCPError(f"`size={self.size}`: give the length of the vectors, 1 or more.")
