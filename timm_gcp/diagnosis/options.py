"""Options of a diagnosis."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..data.options import DatasetOptions, LoadingOptions

__all__ = ["DiagnosisOptions"]


@dataclass(kw_only=True)
class DiagnosisOptions(DatasetOptions, LoadingOptions):
    """Which images are looked at, and for which training.

    Attributes:
        splits: names of the splits; empty takes those of train, validation and test that there are, or the class
            folders in the folder itself.
        model: registered name of the model whose epoch is timed; '' times none.
        img_size: height and width of its images, pixels; None takes the suggested size.
        batch_size: images per batch; None takes the suggested one.
        seconds: about how long the timing takes.
        scale: least and largest share of a photograph that a crop for the timing takes.
        color_jitter: change of colours in the timing, as timm's ``--color-jitter``.
    """

    splits: Sequence[str] = ()
    model: str = "resnet50_svdpade"
    img_size: int | None = None
    batch_size: int | None = None
    seconds: float = 10.0
    scale: tuple[float, float] = (0.08, 1.0)
    color_jitter: float = 0.4
