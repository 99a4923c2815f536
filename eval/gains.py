"""The first table of the report: what covariance pooling gains over average pooling, on test images."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pandas as pd

from timm_gcp.text import markdown_table

from . import experiment_report, probe_images
from .finetune_runs import compare
from .finetune_settings import IMAGES, PIXELS, TABLE
from .intervals import Interval, difference_over_images, paired
from .probe_images import NAMES
from .record import read_table

TITLES = ("backbone", "what is trained", "data", "average", "covariance", "gain", "interval over")

Row = tuple[str, str, str, str, str, str, str]


def table(results: Path) -> str:
    """The table as Markdown, of the comparisons that the folder has; empty where it has none.

    Args:
        results: folder of the CSV files.
    """
    rows = [*_frozen(results), *_fine_tuned(results), *_from_scratch(results)]
    return markdown_table(TITLES, rows) if rows else ""


def _row(what: tuple[str, str, str], scores: tuple[float, float], gain: Interval, over: str) -> Row:
    return (*what, f"{scores[0]:.1f}", f"{scores[1]:.1f}", f"{gain}, {gain.verdict()}", over)


def _number(images: int | None) -> str:
    return f"{images} images per class" if images else "all images"


def _frozen(results: Path) -> Iterator[Row]:
    """A classifier on frozen features: the mean, and the mean with the covariance."""
    if not (results / "probe_images.csv").exists():
        return
    rows = read_table(results / "probe_images.csv")
    sizes = _test_sizes(results)
    for name, pixels, images in product(NAMES, sorted(set(rows["pixels"])), (5, 20, None)):
        own = rows[
            (rows["data"] == name) & (rows["pixels"] == pixels) & (rows["images"].astype(str) == str(images or "all"))
        ]
        mean, both = (own[own["head"] == head.value].set_index("draw")["top1"] for head in probe_images.HEADS)
        if both.empty or mean.empty:
            continue
        scores = float(mean.mean()), float(both.mean())
        what = ("EfficientNet-Lite0, frozen", f"classifier, {_number(images)}, {pixels} px", NAMES[name])
        if images is not None:
            gain = paired(both, mean)
            assert gain is not None
            yield _row(what, scores, gain, f"{gain.number} draws")
        elif name in sizes:
            gain = difference_over_images(scores[1], scores[0], sizes[name])
            yield _row(what, scores, gain, f"{gain.number} test images")


def _test_sizes(results: Path) -> dict[str, int]:
    """Data set → number of its test images."""
    rows = read_table(results / TABLE, ("set", "part", "count"))
    test = rows[rows["part"] == "test"]
    return {str(name): int(count) for name, count in test.groupby("set")["count"].first().items()}


def _fine_tuned(results: Path) -> Iterator[Row]:
    """All weights, from those of ImageNet."""
    if not (results / TABLE).exists():
        return
    rows = read_table(results / TABLE)
    starts = {"isqrt": "all weights", "isqrt, probe": "all weights, from a probe"}
    for name, images, (head, trained) in product(NAMES, (*IMAGES, None), starts.items()):
        found = compare(rows, name, head, images)
        if found is None:
            continue
        what = ("EfficientNet-Lite0, pretrained", f"{trained}, {_number(images)}, {PIXELS} px", NAMES[name])
        over = f"{found.gain.number} test images" + (f", {found.seeds} seeds" if found.seeds > 1 else "")
        yield _row(what, (found.baseline, found.head), found.gain, over)


def _from_scratch(results: Path) -> Iterator[Row]:
    """Tiny backbones from random weights."""
    if not (results / "experiment.csv").exists():
        return
    found = experiment_report.Results(results)
    grocery = NAMES["grocery"]
    compared = {
        ("test_resnet, random", grocery): found.scores,
        ("test_resnet, random", f"{grocery}, shops of the training images"): found.same_shops,
        **{(f"{name}, random", grocery): experiment_report.by_head(runs) for name, runs in found.others.items()},
    }
    for (backbone, data), scores in compared.items():
        if "average" in scores and "isqrt" in scores:
            gain = _paired(scores["isqrt"], scores["average"])
            if gain is not None:
                means = float(scores["average"].mean()), float(scores["isqrt"].mean())
                yield _row((backbone, "all weights", data), means, gain, f"{gain.number} seeds")


def _paired(a: "pd.Series[float]", b: "pd.Series[float]") -> Interval | None:
    gain = paired(a, b)
    return gain if gain is not None and gain.number > 1 else None
