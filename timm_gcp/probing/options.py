"""Options of a probe: a classifier on the frozen features of a backbone."""

from dataclasses import dataclass

from ..data.options import InputOptions, LoadingOptions, TrainingDataOptions

__all__ = ["HeadOptions", "ProbeOptions"]


@dataclass(kw_only=True)
class HeadOptions:
    """The head of a probe, and how it is fitted.

    Attributes:
        components: number of principal directions, R; None takes 256, or all channels where there are fewer.
        method: method of the covariance's root.
        first_order: 'mean' or 'class' beside the triangle, 'none' for neither; 'auto' takes the class token of a ViT
            and the mean of other maps.
        classifier: 'ridge' or 'logistic'.
        compare: fit first-order heads and a nearest-neighbour classifier too, and compare.
    """

    components: int | None = None
    method: str = "isqrt"
    first_order: str = "auto"
    classifier: str = "ridge"
    compare: bool = False


@dataclass(kw_only=True)
class ProbeOptions(TrainingDataOptions, InputOptions, LoadingOptions, HeadOptions):
    """What a probe is fitted to, and how.

    Attributes:
        views: 1, or 2 to add the mirror image of every training image.
        batch_size: images per batch.
    """

    views: int = 1
    batch_size: int = 32
