"""Settings of the fine-tuning experiment: data sets, heads, stages, and the command of each training run."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BACKBONE = "tf_efficientnet_lite0"

SETS = {"cars": "list", "grocery": "grocery"}
"""Data set → its value of ``--dataset``."""

WIDTH = 256
"""Channels of the covariance, unless a head says otherwise."""


@dataclass(frozen=True)
class Head:
    """A pooling head.

    Attributes:
        suffix: of the model's name.
        arguments: of ``timm-gcp train``.
        rate_of: the head whose learning rate it takes, a key of `SEARCHED`.
    """

    suffix: str
    arguments: tuple[str, ...]
    rate_of: str

    @property
    def baseline(self) -> str:
        """The head with average pooling that starts in the same way: from a fresh classifier or from a probe's."""
        return "average, probe" if "--init-head" in self.arguments else "average"


def _pooled(
    method: str,
    *options: str,
    rate_of: str = "isqrt",
    more: tuple[str, ...] = ("--no-hybrid",),
    width: int = WIDTH,
) -> Head:
    kwargs = (f"reduce={width}", *options)
    return Head(f"_{method}", (*more, "--model-kwargs", *kwargs), rate_of)


_PROBE = ("--init-head", "probe")
_MEAN = "first_order=mean"
HEADS = {
    "average": Head("", (), "average"),
    "isqrt": _pooled("isqrt"),
    "average, probe": Head("", _PROBE, "average, probe"),
    "isqrt, probe": _pooled("isqrt", rate_of="isqrt, probe", more=("--no-hybrid", *_PROBE)),
    "svdpade": _pooled("svdpade", more=("--hybrid",)),
    "polar": _pooled("polar"),
    "svdpade, probe": _pooled("svdpade", rate_of="isqrt, probe", more=("--hybrid", *_PROBE)),
    "polar, probe": _pooled("polar", rate_of="isqrt, probe", more=("--no-hybrid", *_PROBE)),
    "isqrt, 160 channels": _pooled("isqrt", width=160),
    "isqrt, linear": _pooled("isqrt", "reduction=linear"),
    "isqrt, linear_norm": _pooled("isqrt", "reduction=linear_norm"),
    "isqrt, linear, mean": _pooled("isqrt", "reduction=linear", _MEAN),
    "isqrt, mean": _pooled("isqrt", _MEAN),
    "isqrt, mean, normalize_parts": _pooled("isqrt", _MEAN, "normalize_parts=True"),
    "isqrt, 4 groups": _pooled("isqrt", "groups=4"),
    "isqrt, sketch": _pooled("isqrt", "count_sketch=8192"),
    "cov": _pooled("cov"),
    "cov, DropCov": _pooled("cov", "channel_dropout=adaptive"),
    "isqrt, DropCov": _pooled("isqrt", "channel_dropout=adaptive"),
    "isqrt, probe, classifier rate ×1": _pooled(
        "isqrt", rate_of="isqrt, probe", more=("--no-hybrid", *_PROBE, "--classifier-lr-mult", "1")
    ),
    "maxexp": _pooled("maxexp"),
    "corr": _pooled("corr"),
    "gaussian": _pooled("gaussian"),
    "bdc": _pooled("bdc"),
    "svdpade, last decay": _pooled("svdpade", more=("--hybrid", "--switch-epoch", "11")),
}
"""Name → head. The recipe trains the classifier at ten times the rate of the backbone."""

SEARCHED = {"average": None, "isqrt": None, "average, probe": 5, "isqrt, probe": 5}
"""Heads whose learning rates are searched for → training images per class of the search; None for all.

A head from a probe matters most where there are few images, so its rate is searched there.
"""

RATES = (0.01, 0.03)
"""Learning rates of the search, for batches of 32. Each head then tries a third one (`further_rate`)."""


def further_rate(found: dict[float, float]) -> float:
    """The third learning rate that a head tries: beyond the better one of `RATES`.

    Args:
        found: learning rate → validation accuracy.
    """
    low, high = RATES
    return 0.003 if found[low] >= found[high] else 0.1


SEARCH_SET = "cars"
"""The data set whose validation part chooses the rates; the one of the grocery data has 296 photographs, too few."""

SEARCH_COUNT = 1228
"""Photographs of its validation part."""

MAIN = ("average", "isqrt", "average, probe", "isqrt, probe", "svdpade", "polar", "svdpade, last decay")
"""Heads that are trained on all images of both data sets."""

REPEATED = ("average", "isqrt")
"""Heads with further seeds."""

FEW = ("average", "isqrt", "average, probe", "isqrt, probe", "svdpade", "svdpade, last decay")
"""Heads that are also trained on a part of the training images."""

SWITCH = {
    "isqrt": "never: Newton–Schulz throughout",
    "svdpade": "at a tenth of the peak rate, within epoch 10",
    "svdpade, last decay": "before the last epoch",
}
"""Heads that validation compares → the moment at which they switch to SVD-Padé."""

SWITCH_IMAGES = 5
"""Training images per class of that comparison."""

PACKAGED = "isqrt, 160 channels"
"""The head of the packaged model: small enough for a package of 10 MB."""

OPTIONS = (
    "maxexp",
    "cov",
    "cov, DropCov",
    "isqrt, linear",
    "isqrt, linear_norm",
    "isqrt, mean",
    "isqrt, mean, normalize_parts",
    "corr",
    "gaussian",
    "bdc",
    "isqrt, 4 groups",
    "isqrt, sketch",
    "svdpade, probe",
    "polar, probe",
    "isqrt, linear, mean",
    "isqrt, DropCov",
    "isqrt, probe, classifier rate ×1",
)
SEEDS = (0, 1, 2)
IMAGES = (5, 10)
"""Images per class of the runs on a part of the training images."""

COMPARED_SET, COMPARED_IMAGES = "grocery", 10
"""Where all heads are compared: data set and training images per class, of short runs in which covariance gains."""

EPOCHS = 12
PIXELS = 224
"""Height and width of the images."""

RECIPE = shlex.split(
    f"--recipe finetune --color-jitter 0 --batch-size 32 --img-size {PIXELS} "
    "--monitor-every 50 --checkpoint-hist 1 --no-check-images --no-report --val-fraction 0"
)

TABLE = "finetune.csv"
"""Name of the file with a row for every run."""

KEY = ("set", "part", "head", "images", "lr", "seed", "epochs")
"""Columns of ``finetune.csv`` that identify a run (`Run.key`)."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        set: a key of `SETS`.
        part: the part it is evaluated on, once, with the weights of the last epoch: 'val' or 'test'.
        head: a key of `HEADS`.
        rate: learning rate.
        seed: random seed.
        images: training images per class, at most; None for all.
        epochs: number of epochs.
    """

    set: str
    part: str
    head: str
    rate: float
    seed: int = 0
    images: int | None = None
    epochs: int = EPOCHS

    @property
    def name(self) -> str:
        """Name of the run's folder, which does not depend on the part that is evaluated."""
        head = self.head.replace(", ", "-").replace(" ", "-")
        return f"{self.set}-{self.images or 'all'}-{head}-lr{self.rate:g}-seed{self.seed}-epochs{self.epochs}"

    @property
    def key(self) -> tuple[str, ...]:
        """The run's cells in the columns `KEY`."""
        images = "" if self.images is None else str(self.images)
        return (self.set, self.part, self.head, images, f"{self.rate:g}", str(self.seed), str(self.epochs))

    @property
    def split(self) -> str:
        """The list that is trained on."""
        return "train" if self.images is None else f"train-{self.images}"

    def command(self, data: Path, weights: Path, output: Path, *more: str) -> list[str]:
        """The arguments of ``timm-gcp`` that train it."""
        head = HEADS[self.head]
        return [
            *("train", "--data-dir", str(data), "--dataset", SETS[self.set]),
            *("--train-split", self.split, "--val-split", ""),
            *("--model", f"{BACKBONE}{head.suffix}", "--pretrained-path", str(weights), *head.arguments),
            *(*RECIPE, "--lr", f"{self.rate:g}", "--epochs", str(self.epochs), "--seed", str(self.seed)),
            *("--output", str(output), "--experiment", self.name, *more),
        ]


def chosen_rate(found: dict[float, float]) -> float:
    """The lowest learning rate whose validation accuracy is within one standard error of the best.

    The rule is that of Breiman et al. (*Classification and Regression Trees*, 1984). Of rates that validation cannot
    tell apart, the lower one trains more stably.

    Args:
        found: learning rate → validation accuracy, per cent.
    """
    best = max(found.values())
    error = math.sqrt(best * (100 - best) / SEARCH_COUNT)
    return min(rate for rate, top1 in found.items() if top1 >= best - error)


def stages(found: dict[str, dict[float, float]]) -> dict[int, list[Run]]:
    """The runs of the stages that can be planned with the results that there are, the most informative first.

    Args:
        found: results of the search: head → learning rate → validation accuracy.
    """

    def search(head: str, rate: float) -> Run:
        return Run(SEARCH_SET, "val", head, rate, images=SEARCHED[head])

    planned = {1: [search(head, rate) for rate in RATES for head in SEARCHED]}
    if not all(set(RATES) <= set(found.get(head, ())) for head in SEARCHED):
        return planned
    planned[2] = [search(head, further_rate(found[head])) for head in SEARCHED]
    if any(run.rate not in found[run.head] for run in planned[2]):
        return planned
    rates = {head: chosen_rate(own) for head, own in found.items()}

    def runs(
        name: str, heads: Sequence[str], seeds: Sequence[int] = (0,), images: int | None = None, part: str = "test"
    ) -> list[Run]:
        return [Run(name, part, head, rates[HEADS[head].rate_of], seed, images) for seed in seeds for head in heads]

    planned[3], planned[4] = runs("cars", MAIN), runs("grocery", (*MAIN, PACKAGED))
    planned[5], planned[6] = (runs(name, REPEATED, SEEDS[1:]) for name in ("cars", "grocery"))
    planned[7] = [run for name in SETS for images in IMAGES for run in runs(name, FEW, images=images)]
    planned[8] = [run for name in SETS for images in IMAGES for run in runs(name, REPEATED, SEEDS[1:], images)]
    planned[9] = runs(SEARCH_SET, tuple(SWITCH), images=SWITCH_IMAGES, part="val")
    planned[10] = runs(COMPARED_SET, ("polar", *OPTIONS), images=COMPARED_IMAGES)
    planned[11], planned[12] = runs("cars", OPTIONS), runs("grocery", OPTIONS)
    return planned
