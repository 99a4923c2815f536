"""Options of ``timm-gcp train`` with timm's names: optimiser, learning rate, augmentation, averaging."""

import argparse

from .option_types import (
    BELOW_ONE,
    COUNT,
    COUNT_OR_ZERO,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    file_path,
    policy,
    train_resampling,
)
from .parser import Pairs, Switch

__all__ = [
    "EMA_DECAY",
    "SCHEDULERS",
    "add_augmentation",
    "add_averaging",
    "add_imbalance",
    "add_learning_rate",
    "add_optimiser",
]

SCHEDULERS = ("cosine", "tanh", "step", "multistep", "poly", "plateau", "constant", "wsd", "rsqrt", "none")
EMA_DECAY = 0.9998
"""The default of ``--model-ema-decay``."""


def add_optimiser(group: argparse._ArgumentGroup) -> None:
    """Adds the options of the optimiser."""
    add = group.add_argument
    add("--opt", default="sgd", metavar="NAME", help="optimiser of timm's, such as sgd, adamw, lamb")
    add(
        "--opt-eps",
        type=NOT_NEGATIVE,
        metavar="EPS",
        help="term added to the denominator of the update (default: the optimiser's)",
    )
    add(
        "--opt-betas",
        type=BELOW_ONE,
        nargs="+",
        metavar="BETA",
        help="decay rates of the moments (default: the optimiser's)",
    )
    add("--momentum", type=BELOW_ONE, default=0.9, metavar="M", help="momentum")
    add("--weight-decay", type=NOT_NEGATIVE, default=2e-5, metavar="W", help="weight decay")
    add("--clip-grad", type=POSITIVE, metavar="NORM", help="clip gradients at this norm or value (--clip-mode)")
    add(
        "--clip-mode",
        default="norm",
        choices=("norm", "value", "agc"),
        help="clip the norm of all gradients, each value, or each layer by the norm of its weights (agc)",
    )
    add(
        "--orthogonal-gradient",
        action="store_true",
        help="update the reduction before the covariance pool by the orthogonal matrix nearest to its gradient",
    )
    add(
        "--optimal-lr",
        action="store_true",
        help="update that reduction at a rate that keeps it near orthogonal, where it is under the scheduled one",
    )
    add(
        "--layer-decay", type=POSITIVE, metavar="D", help="factor of the learning rate from each layer to the one below"
    )
    add(
        "--layer-decay-min-scale",
        type=NOT_NEGATIVE,
        default=0.0,
        metavar="S",
        help="least factor that --layer-decay gives",
    )
    add(
        "--layer-decay-no-opt-scale",
        type=NOT_NEGATIVE,
        metavar="S",
        help="do not train layers whose factor by --layer-decay is below S",
    )
    add("--opt-kwargs", nargs="*", default={}, action=Pairs, metavar="K=V", help="further arguments of the optimiser")


def add_learning_rate(group: argparse._ArgumentGroup) -> None:
    """Adds the options of the schedule of the learning rate, but ``--lr`` and ``--epochs``."""
    add = group.add_argument
    add("--sched", default="cosine", metavar="NAME", help=f"schedule: {', '.join(SCHEDULERS)}")
    add(
        "--sched-on-updates",
        action=Switch,
        default=None,
        help="change the rate every update, not every epoch (default: on for runs of under 6 epochs)",
    )
    add(
        "--lr-base",
        type=POSITIVE,
        default=0.1,
        metavar="LR",
        help="without --lr, the learning rate is this times global batch / --lr-base-size",
    )
    add("--lr-base-size", type=COUNT, default=256, metavar="N", help="batch size for which --lr-base is meant")
    add(
        "--lr-base-scale",
        default="",
        choices=("", "linear", "sqrt"),
        help="the ratio of the batch sizes itself or its square root "
        "(default: sqrt for optimisers whose name contains ada or lamb, such as adamw; else linear)",
    )
    add(
        "--lr-noise",
        type=NOT_NEGATIVE,
        nargs="+",
        metavar="P",
        help="add noise to the rate from the first to the second of these fractions of the run",
    )
    add("--lr-noise-pct", type=SHARE, default=0.67, metavar="P", help="limit of the noise, as a share of the rate")
    add("--lr-noise-std", type=NOT_NEGATIVE, default=1.0, metavar="S", help="standard deviation of the noise")
    add("--lr-cycle-mul", type=POSITIVE, default=1.0, metavar="X", help="length of a cycle over that of the one before")
    add("--lr-cycle-decay", type=SHARE, default=0.5, metavar="X", help="peak of a cycle over that of the one before")
    add("--lr-cycle-limit", type=COUNT, default=1, metavar="N", help="number of cycles of cosine, tanh and poly")
    add("--lr-k-decay", type=POSITIVE, default=1.0, metavar="K", help="exponent of the time in cosine and poly")
    add("--lr-decay-fn", metavar="NAME", help="shape of the decay of wsd and rsqrt (default: timm's)")
    add(
        "--lr-stable-timescale",
        type=POSITIVE,
        metavar="N",
        help="time scale of rsqrt, epochs (default: timm's)",
    )
    add(
        "--warmup-epochs",
        type=NOT_NEGATIVE,
        metavar="N",
        help="epochs in which the rate rises to --lr (default: 5, or a fifth of the run where that is less)",
    )
    add("--warmup-lr", type=NOT_NEGATIVE, default=1e-5, metavar="LR", help="rate at the start of the warm-up")
    add(
        "--warmup-prefix",
        action="store_true",
        help="the schedule starts after the warm-up, not with it; the warm-up has whole epochs",
    )
    add("--min-lr", type=NOT_NEGATIVE, default=0.0, metavar="LR", help="lowest rate of the schedule")
    add("--cooldown-epochs", type=COUNT_OR_ZERO, default=0, metavar="N", help="epochs at --min-lr after the schedule")
    add(
        "--decay-milestones",
        type=COUNT,
        nargs="+",
        default=[90, 180, 270],
        metavar="N",
        help="multistep: epochs at which the rate falls by --decay-rate",
    )
    add(
        "--decay-epochs",
        type=POSITIVE,
        metavar="N",
        help="step: epochs between two falls of the rate; wsd, rsqrt: epochs of the decay at the end, or under 1 a "
        "share of the schedule (default: 90, or 0.2 for wsd and rsqrt)",
    )
    add("--decay-rate", "--dr", type=SHARE, default=0.1, metavar="R", help="factor of the rate at each fall")
    add(
        "--patience-epochs",
        type=COUNT_OR_ZERO,
        default=10,
        metavar="N",
        help="plateau: epochs without a better result before the rate falls",
    )


def add_augmentation(group: argparse._ArgumentGroup) -> None:
    """Adds the options of augmentation, labels and loss, and dropout."""
    add = group.add_argument
    add("--no-aug", action="store_true", help="no training augmentation")
    add(
        "--train-crop-mode",
        metavar="MODE",
        help="rrc: random resized crop; rkrc, rkrr: with the ratio kept; eval: as evaluation crops (default: rrc)",
    )
    add(
        "--scale",
        type=POSITIVE,
        nargs="+",
        default=[0.08, 1.0],
        metavar="P",
        help="least and largest area of a random crop, as a share of the image",
    )
    add(
        "--ratio",
        type=POSITIVE,
        nargs="+",
        default=[3 / 4, 4 / 3],
        metavar="R",
        help="least and largest width over height of a random crop",
    )
    add("--hflip", type=SHARE, default=0.5, metavar="P", help="probability of a horizontal flip")
    add("--vflip", type=SHARE, default=0.0, metavar="P", help="probability of a vertical flip")
    add("--color-jitter", type=NOT_NEGATIVE, default=0.4, metavar="X", help="strength of the colour jitter")
    add("--color-jitter-prob", type=SHARE, metavar="P", help="probability of the colour jitter (default: always)")
    add("--grayscale-prob", type=SHARE, metavar="P", help="probability of turning grey (default: never)")
    add("--gaussian-blur-prob", type=SHARE, metavar="P", help="probability of a Gaussian blur (default: never)")
    add("--aa", type=policy, metavar="POLICY", help="AutoAugment or RandAugment policy, such as rand-m9-mstd0.5")
    add("--reprob", type=SHARE, default=0.0, metavar="P", help="probability of random erasing")
    add(
        "--remode",
        default="pixel",
        choices=("const", "rand", "pixel"),
        help="fill erased areas with 0, one random colour, or a random value per pixel",
    )
    add("--recount", type=COUNT, default=1, metavar="N", help="largest number of erased areas per image")
    add("--mixup", type=NOT_NEGATIVE, default=0.0, metavar="ALPHA", help="mixup with this alpha; 0: none")
    add("--cutmix", type=NOT_NEGATIVE, default=0.0, metavar="ALPHA", help="CutMix with this alpha; 0: none")
    add(
        "--cutmix-minmax",
        type=POSITIVE,
        nargs="+",
        metavar="P",
        help="CutMix with sides between these two shares of the image, in place of an alpha",
    )
    add("--mixup-prob", type=SHARE, default=1.0, metavar="P", help="probability of mixup or CutMix, where one is on")
    add("--mixup-switch-prob", type=SHARE, default=0.5, metavar="P", help="probability of CutMix, where both are on")
    add(
        "--mixup-mode",
        default="batch",
        choices=("batch", "pair", "elem"),
        help="draw one mixture per batch, per pair of images, or per image",
    )
    add(
        "--mixup-off-epoch",
        type=COUNT_OR_ZERO,
        default=0,
        metavar="N",
        help="no mixup or CutMix from epoch N on; 0: never off",
    )
    add("--smoothing", type=BELOW_ONE, metavar="P", help="label smoothing (default: 0.1, or 0 for multi-label data)")
    add("--bce-loss", action="store_true", help="binary cross-entropy per class, in place of cross-entropy")
    add("--bce-sum", action="store_true", help="binary cross-entropy: sum over the classes, not their mean")
    add(
        "--bce-target-thresh",
        type=SHARE,
        metavar="P",
        help="binary cross-entropy: targets above P become 1, the others 0",
    )
    add("--bce-pos-weight", type=POSITIVE, metavar="W", help="binary cross-entropy: weight of the positive targets")
    add(
        "--train-interpolation",
        type=train_resampling,
        default="random",
        metavar="NAME",
        help="resampling filter in training; random: bilinear or bicubic",
    )
    add("--drop", type=BELOW_ONE, default=0.0, metavar="P", help="dropout before the classifier")
    add("--drop-path", type=BELOW_ONE, metavar="P", help="stochastic depth: largest share of dropped paths")


def add_imbalance(group: argparse._ArgumentGroup) -> None:
    """Adds the corrections for classes with few images."""
    add = group.add_argument
    add(
        "--class-weights",
        type=file_path,
        default="",
        metavar="balanced|FILE",
        help="weights of the classes in the loss: balanced, inverse to the number of their training images; or a CSV "
        "file with the columns class and weight",
    )
    add("--balanced-sampling", action=Switch, help="draw every class equally often; an epoch keeps its length")
    add(
        "--logit-adjustment",
        type=POSITIVE,
        nargs="?",
        const=1.0,
        metavar="TAU",
        help="add TAU (1 where it is left out) times the logarithm of the share of each class to the logits, in the "
        "training loss only",
    )


def add_averaging(group: argparse._ArgumentGroup) -> None:
    """Adds the options of batch norm among processes, and of the average of the weights."""
    add = group.add_argument
    add("--sync-bn", action="store_true", help="batch norm over the batches of all processes")
    add(
        "--dist-bn",
        default="reduce",
        choices=("reduce", "broadcast", ""),
        help="after an epoch, batch norm's statistics are averaged over the processes, or taken from the first; '': "
        "left as they are",
    )
    add("--model-ema", action="store_true", help="keep and evaluate an average of the weights (EMA)")
    add(
        "--model-ema-decay", type=SHARE, default=EMA_DECAY, metavar="D", help="share of the average kept at each update"
    )
    add("--model-ema-warmup", action="store_true", help="start the average with a smaller decay")
