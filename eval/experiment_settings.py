"""Settings of the experiment: backbones, pooling heads, stages, and the command of each training run."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from timm_gcp.pool_options import REDUCTIONS

BACKBONE = "test_resnet"
"""The backbone on which every head is trained."""


@dataclass(frozen=True)
class Backbone:
    """How a backbone is trained.

    Attributes:
        settings: its own arguments of ``timm-gcp train``.
        rates: the first learning rates of the search.
        limits: the smallest and the largest learning rate of the search.
    """

    settings: str
    rates: tuple[float, ...]
    limits: tuple[float, float]


_SGD = "--opt sgd --momentum 0.9 --weight-decay 1e-4 --warmup-lr 1e-3"
_ADAMW = "--opt adamw --weight-decay 0.05 --warmup-lr 1e-5"
BACKBONES = {
    BACKBONE: Backbone(f"--last-stride 1 {_SGD}", (0.1, 0.2), (0.0125, 1.6)),
    "test_vit": Backbone(_ADAMW, (1e-3, 2e-3), (1.25e-4, 1.6e-2)),
    "test_convnext": Backbone(_ADAMW, (1e-3, 2e-3), (1.25e-4, 1.6e-2)),
}


def _standalone(method: str, *more: str) -> tuple[str, list[str]]:
    return f"_{method}", ["--no-hybrid", *more]


def _hybrid(method: str, *more: str) -> tuple[str, list[str]]:
    return f"_{method}", ["--hybrid", *more]


_FLOAT32 = ("--model-kwargs", "spectral_dtype=float32")
REDUCED = {
    f"isqrt-{kind}": _standalone("isqrt", "--model-kwargs", "reduce=32", f"reduction={kind}") for kind in REDUCTIONS
}
"""Heads that differ in the reduction before the covariance alone: from the 64 or 96 channels of a backbone to 32."""

HEADS: dict[str, tuple[str, list[str]]] = {
    "average": ("", ["--model-kwargs", "global_pool=avg"]),  # a ViT's own head reads the class token
    "isqrt": _standalone("isqrt"),
    "rsqrt": _standalone("rsqrt", "--method-args", "share=0.1"),
    "polar": _standalone("polar"),
    "svd": _standalone("svd"),
    "svdtrunc": _standalone("svdtrunc"),
    "svdtaylor": _standalone("svdtaylor"),
    "svdpade": _standalone("svdpade"),
    "svdnewton": _standalone("svdnewton"),
    "svdpade-float32": _standalone("svdpade", *_FLOAT32),
    "isqrt-float64": _standalone("isqrt", "--model-kwargs", "spectral_dtype=float64"),
    "svd-hybrid": _hybrid("svd"),
    "svdtrunc-hybrid": _hybrid("svdtrunc"),
    "svdtaylor-hybrid": _hybrid("svdtaylor"),
    "svdpade-hybrid": _hybrid("svdpade"),
    "polar-hybrid": _hybrid("polar"),
    **REDUCED,
}
"""Head → the suffix of the model's name and the head's arguments of ``timm-gcp train``."""

BASE_HYBRID = "svdpade-hybrid"
"""The hybrid that is trained from the first epoch; the others start from its checkpoint before the switch."""

SEARCHED = ("average", "isqrt")
"""Heads whose learning rate is searched for."""

CANDIDATES = ("isqrt", "rsqrt", "polar")
"""Heads that are also trained on the folds at the rate of `isqrt`; the best is compared with average pooling."""

STAGES = {
    2: ("average", "isqrt", "rsqrt", "polar", "svdpade-hybrid"),
    3: ("svdtaylor-hybrid", "svdtrunc-hybrid", "svd-hybrid", "polar-hybrid"),
    4: ("svdpade", "svdtaylor", "svdtrunc"),
    5: ("svdpade-float32", "svdnewton"),
    6: ("svd", "isqrt-float64"),
    7: ("average", "isqrt", BASE_HYBRID),
}
"""Stage → heads of its final runs, the most informative first; stage 1 is the search."""

SAME_SHOPS = 7
"""The stage that evaluates on photographs of the shops it trains on."""

FRESH_FOLD = 0
"""The fold of that stage, on which the search evaluated nothing."""

OTHERS = {8: "test_vit", 9: "test_convnext"}
"""Stage → backbone of another family: a search of the rates, then final runs of the heads searched for.

`isqrt` is the head that stage 1 had chosen for the comparison with average pooling.
"""

REDUCING = {10: "test_vit", 11: BACKBONE, 12: "test_convnext"}
"""Stage → backbone on which the heads `REDUCED` are compared: a search of the rate of each, then final runs."""

SEARCH_FOLDS = (1,)
"""Folds of the search: one half of every class holds out enough photographs (1337) to tell rates apart."""

EPOCHS = 30
SEEDS = (0, 1, 2)
RECIPE = shlex.split(
    "--dataset grocery --img-size 112 --crop-pct 0.95 -b 32 -vb 128 --clip-grad 5 "
    "--sched cosine --sched-on-updates --min-lr 1e-5 "
    "--device cpu --channels-last -j 0 --no-prefetcher --no-check-images --no-report"
)

KEY = ("backbone", "head", "lr", "seed", "epochs", "fold")
"""Columns of ``experiment.csv`` that identify a run (`Run.key`)."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        head: a key of `HEADS`.
        rate: learning rate.
        seed: random seed.
        epochs: number of epochs.
        fold: the fold that is held out; None for a final run, on the whole training part.
        backbone: a key of `BACKBONES`.
    """

    head: str
    rate: float
    seed: int
    epochs: int
    fold: int | None = None
    backbone: str = BACKBONE

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        where = "final" if self.fold is None else f"fold{self.fold}"
        return f"{where}-{self.backbone}-{self.head}-lr{self.rate:g}-seed{self.seed}-epochs{self.epochs}"

    @property
    def key(self) -> tuple[str, ...]:
        """The run's cells in the columns `KEY`."""
        fold = "" if self.fold is None else str(self.fold)
        return (self.backbone, self.head, f"{self.rate:g}", str(self.seed), str(self.epochs), fold)

    @property
    def held_out(self) -> str:
        """The split on which the trained model is evaluated, once."""
        return "test" if self.fold is None else f"fold{self.fold}-val"

    def command(self, data: Path, output: Path) -> list[str]:
        """The arguments of ``timm-gcp`` that train it."""
        part = "train" if self.fold is None else f"fold{self.fold}-train"
        suffix, arguments = HEADS[self.head]
        return [
            *("train", "--data-dir", str(data), "--train-split", part, "--val-split", "val"),
            *("--model", f"{self.backbone}{suffix}", *arguments),
            *(*RECIPE, *shlex.split(BACKBONES[self.backbone].settings)),
            *("--lr", f"{self.rate:g}", "--epochs", str(self.epochs)),
            *("--warmup-epochs", str(self.epochs // 4), "--seed", str(self.seed)),
            *("--checkpoint-hist", str(self.epochs if self.head == BASE_HYBRID else 1)),
            *("--output", str(output), "--experiment", self.name),
        ]
