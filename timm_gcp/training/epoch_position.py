"""How far an epoch is."""

from dataclasses import dataclass

__all__ = ["Position"]


@dataclass
class Position:
    """The batches of an epoch that are behind, and what the epoch's numbers are made of so far.

    Attributes:
        batches: batches done, by whole updates.
        loss_sum, loss_count: over images.
        right_sum, right_count: percent right, over images with one label.
        skipped: updates left out because loss or gradient was not finite.
        fallbacks: matrices on which the batched eigensolver did not converge.
        seconds: spent on them.
    """

    batches: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    right_sum: float = 0.0
    right_count: int = 0
    skipped: int = 0
    fallbacks: int = 0
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """Mean loss so far; nan before the first image."""
        return self.loss_sum / self.loss_count if self.loss_count else float("nan")

    @property
    def top1(self) -> float:
        """Training accuracy so far in per cent; nan where targets are soft."""
        return self.right_sum / self.right_count if self.right_count else float("nan")
