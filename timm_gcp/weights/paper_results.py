"""The accuracies that the paper behind this project reports. None of them was measured by this project.

Source of every number: the authors' poster, ``ICCV21_SVD_poster.pdf`` in their repository, of Song, Sebe and Wang, 'Why
Approximate Matrix Square Root Outperforms Accurate SVD in Global Covariance Pooling?', ICCV 2021, arXiv:2105.02498.
Model cards, the report of the measurements and the documentation take their tables from here.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..text import markdown_table

__all__ = [
    "FINE_GRAINED",
    "FINE_GRAINED_CAPTION",
    "IMAGENET",
    "IMAGENET_CAPTION",
    "SOURCE",
    "FineGrained",
    "ImageNetErrors",
    "fine_grained_table",
    "imagenet_table",
]

SOURCE = "https://github.com/KingJamesSong/DifferentiableSVD/blob/main/ICCV21_SVD_poster.pdf"

IMAGENET_CAPTION = "Errors on the validation images of ImageNet-1k in the paper, top-1 / top-5 in per cent"
FINE_GRAINED_CAPTION = (
    "Top-1 accuracy after fine-tuning in the paper, after the last epoch / in the best one, in per cent (the poster "
    "does not name the network)"
)

# Suffix of a registered name → what the paper calls it; '' is average pooling.
_TITLES = {
    "": "average pooling",
    "isqrt": "iSQRT-COV",
    "svdpade": "SVD-Padé",
    "svdtaylor": "SVD-Taylor",
    "svdnewton": "SVD-Newton",
    "svdtrunc": "SVD-Trunc",
    "svdtopn": "SVD-TopN",
    "svd": "MPN-COV (plain SVD)",
}


@dataclass(frozen=True)
class ImageNetErrors:
    """Errors on the validation images of ImageNet-1k, in per cent.

    Attributes:
        network: timm's name of the backbone.
        method: suffix of the method, '' for average pooling.
        top1: top-1 error, the method trained from the first epoch.
        top5: its top-5 error.
        hybrid_top1: top-1 error under the hybrid protocol; None for average pooling and iSQRT-COV, which do not switch.
        hybrid_top5: its top-5 error.
    """

    network: str
    method: str
    top1: float
    top5: float
    hybrid_top1: float | None = None
    hybrid_top5: float | None = None


@dataclass(frozen=True)
class FineGrained:
    """Top-1 accuracy of a fine-tuned network, in per cent, after the last epoch and in the best one.

    Attributes:
        method: suffix of the method.
        birds: CUB-200-2011, final and best; None where the training did not converge.
        dogs: Stanford Dogs.
        cars: Stanford Cars.
    """

    method: str
    birds: tuple[float, float] | None = None
    dogs: tuple[float, float] | None = None
    cars: tuple[float, float] | None = None


IMAGENET = (
    ImageNetErrors("resnet50", "", 23.85, 7.13),
    ImageNetErrors("resnet50", "isqrt", 22.81, 6.60),
    ImageNetErrors("resnet50", "svdpade", 22.67, 6.51, 22.60, 6.44),
    ImageNetErrors("resnet50", "svdtaylor", 22.91, 6.67, 22.77, 6.53),
    ImageNetErrors("resnet50", "svdnewton", 22.86, 6.65, 22.72, 6.55),
    ImageNetErrors("resnet50", "svdtrunc", 22.85, 6.70, 22.74, 6.52),
    ImageNetErrors("resnet50", "svdtopn", 22.91, 6.68, 22.76, 6.51),
    ImageNetErrors("resnet50", "svd", 22.93, 6.75, 22.79, 6.50),
    ImageNetErrors("resnet101", "", 22.63, 6.44),
    ImageNetErrors("resnet101", "isqrt", 21.60, 5.88),
    ImageNetErrors("resnet101", "svdpade", 21.48, 5.80, 21.40, 5.69),
    ImageNetErrors("resnet101", "svd", 21.79, 5.99, 21.58, 5.80),
)

FINE_GRAINED = (
    FineGrained("isqrt", (85.95, 86.45), (82.34, 83.45), (90.93, 91.56)),
    FineGrained("svdpade", (87.05, 87.29), (83.40, 84.34), (92.55, 92.99)),
    FineGrained("svdtaylor", (86.95, 87.20), (83.23, 84.22), (92.46, 92.71)),
    FineGrained("svdnewton", (86.97, 87.22), (83.08, 83.94), (92.35, 92.51)),
    FineGrained("svdtrunc", (87.16, 87.25), (82.95, 84.03), (92.43, 93.04)),
    FineGrained("svdtopn"),
    FineGrained("svd", (86.89, 87.19), (83.34, 84.24), (92.45, 92.84)),
)


def imagenet_table(rows: Iterable[ImageNetErrors] = IMAGENET) -> str:
    """The errors on ImageNet as a Markdown table, top-1 / top-5.

    Args:
        rows: all by default.
    """
    return markdown_table(
        ("network", "pooling", "error of the paper, one method throughout", "error of the paper, hybrid"),
        (
            (f"`{row.network}`", _title(row.method), _pair(row.top1, row.top5), _pair(row.hybrid_top1, row.hybrid_top5))
            for row in rows
        ),
    )


def fine_grained_table(rows: Iterable[FineGrained] = FINE_GRAINED) -> str:
    """The accuracies after fine-tuning as a Markdown table, after the last epoch / in the best one.

    Args:
        rows: all by default.
    """
    return markdown_table(
        ("pooling", "Birds, accuracy of the paper", "Dogs, accuracy of the paper", "Cars, accuracy of the paper"),
        (
            (_title(row.method), *("did not converge" if each is None else _pair(*each) for each in sets))
            for row in rows
            for sets in [(row.birds, row.dogs, row.cars)]
        ),
    )


def _title(method: str) -> str:
    return f"{_TITLES[method]} (`{method}`)" if method else _TITLES[method]


def _pair(first: float | None, second: float | None) -> str:
    return "" if first is None or second is None else f"{first:.2f} / {second:.2f}"
