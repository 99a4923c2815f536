"""Options of a probe: a classifier on the frozen features of a backbone."""

from dataclasses import dataclass, field

from ..data.options import DatasetOptions, InputOptions, LoadingOptions, TrainingDataOptions
from ..errors import GCPError
from ..methods import covariance_method
from ..tasks import SINGLE_LABEL
from ..text import nearest

__all__ = [
    "CLASSIFIERS",
    "FIRST_ORDERS",
    "HEADS",
    "VIEWS",
    "FeatureOptions",
    "HeadOptions",
    "MomentSettings",
    "ProbeOptions",
]

HEADS = ("covariance", "mp")
"""Heads of a probe: the triangle of a covariance's root, or Moment Probing."""
CLASSIFIERS = ("ridge", "logistic")
"""Classifiers of the first: ridge regression, or multinomial logistic regression."""
FIRST_ORDERS = ("auto", "none", "mean", "class", "mean+class")
"""Vectors beside the covariance."""
VIEWS = (1, 2)
"""Views of a training image: the image, or the image and its mirror image."""


@dataclass(frozen=True, kw_only=True)
class MomentSettings:
    """How the pool of Moment Probing and its classifier are trained: AdamW, warm-up, then a cosine schedule.

    Attributes:
        width: channels after the 1×1 convolution.
        groups: of channels.
        epochs: length of the schedule; training stops at the best epoch.
        learning_rate: peak of the schedule.
        weight_decay: of all weights.
        warmup: share of the schedule in which the rate rises.
        batch_size: rows per update.
        positions: share of the positions of a map that a batch sees, drawn for every row.
        smoothing: label smoothing.
        held_out: share of the training images of every class by which the epoch is chosen; 0 trains all epochs.
        seed: of weights, order, positions and the images that are held out.

    Raises:
        GCPError: a value out of range.
    """

    width: int = 512
    groups: int = 4
    epochs: int = 12
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    batch_size: int = 64
    positions: float = 0.5
    smoothing: float = 0.1
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses values that no training can have."""
        least = {"epochs": self.epochs, "batch_size": self.batch_size}
        shares = {"warmup": self.warmup, "smoothing": self.smoothing, "held_out": self.held_out}
        for name, value in least.items():
            if value < 1:
                raise GCPError(f"`{name}={value}` of Moment Probing: give 1 or more.")
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise GCPError(f"`{name}={share:g}` of Moment Probing: give 0 or more, and less than 1.")
        if not 0 < self.positions <= 1:
            raise GCPError(f"`positions={self.positions:g}` of Moment Probing: give more than 0, and at most 1.")
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise GCPError("Moment Probing needs a learning rate above 0 and a weight decay of at least 0.")


@dataclass(kw_only=True)
class FeatureOptions(DatasetOptions, InputOptions, LoadingOptions):
    """Which images pass a frozen backbone, and which of its features are taken.

    Attributes:
        components: number of principal directions, R; None takes 256, or all channels where there are fewer.
        method: method of the covariance's root.
        first_order: 'mean', 'class' or 'mean+class' beside the triangle, 'none' for neither; 'auto' takes the class
            token of a ViT and the mean of other maps.
        batch_size: images per batch.
    """

    components: int | None = None
    method: str = "isqrt"
    first_order: str = "auto"
    batch_size: int = 32


@dataclass(kw_only=True)
class HeadOptions:
    """The head of a probe, and how it is fitted.

    Attributes:
        head: 'covariance', or 'mp' for Moment Probing, which is trained.
        classifier: 'ridge' or 'logistic'.
        compare: fit first-order heads and a nearest-neighbour classifier too, and compare.
        moment: how Moment Probing is trained.
    """

    head: str = "covariance"
    classifier: str = "ridge"
    compare: bool = False
    moment: MomentSettings = field(default_factory=MomentSettings)

    def __post_init__(self) -> None:
        """Refuses a head or a classifier that there is not."""
        if self.head not in HEADS:
            raise GCPError(f"Unknown head '{self.head}' of a probe; there are {', '.join(HEADS)}.")
        _require_one_of("classifier", self.classifier, CLASSIFIERS)


@dataclass(kw_only=True)
class ProbeOptions(TrainingDataOptions, FeatureOptions, HeadOptions):
    """What a probe is fitted to, and how.

    Attributes:
        views: 1, or 2 to add the mirror image of every training image.
    """

    views: int = 1

    def __post_init__(self) -> None:
        """Refuses a head that there is not, values out of range, and data that its classifiers cannot take."""
        super().__post_init__()
        _require_one_of("first_order", self.first_order, FIRST_ORDERS)
        if self.views not in VIEWS:
            raise GCPError(f"`views={self.views}`: give 1, or 2 to add the mirror image of every image.")
        if self.batch_size < 1:
            raise GCPError(f"`batch_size={self.batch_size}`: give 1 or more.")
        covariance_method(self.method, f"`method={self.method}`")
        if self.task is not SINGLE_LABEL:
            raise GCPError(
                f"A probe fits classifiers with one label per image, and `dataset={self.dataset}` is {self.task.name}; "
                "train a classifier by timm-gcp train --train-only classifier."
            )


def _require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = nearest(str(value), known)
        raise GCPError(f"`{name}={value}` of a probe is unknown; there are {', '.join(known)}{near}")
