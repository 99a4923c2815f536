"""Suggestions for a training, each with the rule that it follows and what the rule rests on."""

from collections.abc import Sequence
from dataclasses import dataclass

from .class_balance import FEW, IMBALANCED, Balance
from .findings import Finding
from .image_sizes import Sizes

__all__ = ["Suggestion", "suggest"]

STANDARD, DOUBLE, LEAST = 224, 448, 64
STEP = 32
"""Backbones divide the sides of an image by 32."""
BATCH = 16
"""Of the recipe finetune."""
ENOUGH = 20
"""The most images of a class for which the project has measured a probe with fewer than all."""


@dataclass(frozen=True)
class Suggestion:
    """A choice for the training.

    Attributes:
        option: what to give to ``timm-gcp train``, or another command; '' for none.
        rule: the rule that gives it.
        basis: what the rule rests on.
    """

    option: str
    rule: str
    basis: str


def suggest(
    balance: Balance | None,
    sizes: Sizes | None,
    findings: Sequence[Finding],
    evaluated: bool,
    multi_label: bool = False,
) -> list[Suggestion]:
    """Suggestions for a training on a data set.

    Args:
        balance: of the split that is trained on; None where it is not known.
        sizes: of its images; None where they are not known.
        findings: of the diagnosis.
        evaluated: whether there is a split to evaluate on.
        multi_label: an image has any number of labels, which a probe and balanced sampling do not take.
    """
    chosen = [_image_size(sizes)] if sizes else []
    if balance and balance.images:
        chosen.append(_batch_size(balance))
        chosen += [_several_labels()] if multi_label else _recipe(balance)
        chosen.append(_head(multi_label))
        if balance.ratio >= IMBALANCED:
            chosen.append(_imbalance(balance, multi_label))
    if not evaluated:
        rule = "there is no split to evaluate on, so a fifth of every class is held out"
        chosen.append(Suggestion("--val-fraction 0.2", rule, "recipe finetune, docs/datasets.md"))
    if sizes:
        chosen.append(_checks(findings))
    return chosen


def image_size(sizes: Sizes) -> int:
    """The image size in pixels: 224, or less where nine in ten images have a shorter side below that."""
    most = sizes.shorter[3]
    return STANDARD if most >= STANDARD else max(LEAST, most // STEP * STEP)


def _image_size(sizes: Sizes) -> Suggestion:
    least, size = sizes.shorter[1], image_size(sizes)
    if size < STANDARD:
        rule = f"nine in ten images have a shorter side of {sizes.shorter[3]} px or less, and enlarging adds no detail"
    elif least >= DOUBLE:
        rule = (
            f"{STANDARD} is the size that the weights of most backbones are made for; the images suffice for {DOUBLE} "
            "(nine in ten have more), which shows finer differences at four times the time and memory"
        )
    else:
        rule = f"{STANDARD} is the size that the weights of most backbones are made for"
    return Suggestion(f"--img-size {size}", rule, "quantiles of the shorter side; recipe finetune")


def batch_size(images: int) -> int:
    """The batch size: 16, or the largest power of two that makes eight updates of an epoch, at least 2."""
    size = BATCH
    while size > 2 and images < 8 * size:
        size //= 2
    return size


def _batch_size(balance: Balance) -> Suggestion:
    size = batch_size(balance.images)
    rule = "many updates from few images"
    if size < BATCH:
        rule += f": {balance.images} images make {balance.images // size} updates of an epoch"
    return Suggestion(f"-b {size}", f"{rule}; the learning rate of the recipe follows", "recipe finetune")


def _recipe(balance: Balance) -> list[Suggestion]:
    basis = (
        "eval/results/probe_images.csv: with 5, 10 and 20 images per class a probe reaches 64, 71 and 75 % on Grocery "
        "and 35, 48 and 60 % on Cars, in minutes; eval/results/finetune.csv: fine-tuned with 5 and 10 images per "
        "class, 68 and 78 % on Grocery and 31 and 54 % on Cars at most"
    )
    compared = Suggestion("--recipe finetune", "fine-tune too and compare: either may be better", basis)
    if balance.median < FEW:
        rule = (
            f"the median class has {balance.median:g} images: under {FEW} the project has measured nothing; a probe "
            "has the fewest parameters to fit"
        )
        return [Suggestion("timm-gcp probe", rule, basis), compared]
    if balance.median <= ENOUGH:
        rule = f"the median class has {balance.median:g} images: up to {ENOUGH} start with a probe on a frozen backbone"
        return [Suggestion("timm-gcp probe", rule, basis), compared]
    rule = f"the median class has {balance.median:g} images: enough to fine-tune; a probe first tells what to expect"
    return [Suggestion("--recipe finetune", rule, f"recipe finetune, for tens to thousands of images; {basis}")]


def _head(multi_label: bool) -> Suggestion:
    rule = (
        "on frozen features, covariance beside the mean gained on both data sets; fine-tuned, covariance gained on "
        "Grocery and not on Cars, so train BACKBONE with average pooling too and compare; isqrt is one method "
        "throughout and the fastest on a GPU"
    )
    basis = (
        "eval/results/probe_images.csv: gains of 1.1, 1.2 and 2.3 points on Grocery, 9.0, 12.5 and 15.1 on Cars, with "
        "5, 10 and 20 images; eval/results/finetune.csv: 4.0, 5.5 and 3.5 on Grocery with 5, 10 and all images, "
        "losses of 2.9, 2.4 and 1.6 on Cars with 5, 10 and all"
    )
    if not multi_label:
        basis += "; timm-gcp probe --compare measures it on these images, frozen"
    return Suggestion("--model BACKBONE_isqrt.init", rule, basis)


def _several_labels() -> Suggestion:
    rule = (
        "images have any number of labels: the mean of the loss over many classes has small gradients, whose scale "
        "adamw does not see; the rate of the recipe is one for sgd"
    )
    return Suggestion(
        "--recipe finetune --opt adamw --lr 0.001", rule, "docs/multi-label.md; the rate was not measured"
    )


def _imbalance(balance: Balance, multi_label: bool) -> Suggestion:
    rule = f"the largest class has {balance.ratio:.1f} times the images of the smallest ({IMBALANCED:g} or more)"
    if multi_label:
        return Suggestion("--class-weights balanced", rule, "docs/multi-label.md; not measured by the project")
    basis = (
        "docs/imbalance.md: on Grocery, with a ratio of 4.4, one seed did not tell the corrections apart; "
        "--class-weights balanced and --logit-adjustment are the others, one of the three is enough"
    )
    return Suggestion("--balanced-sampling", rule, basis)


def _checks(findings: Sequence[Finding]) -> Suggestion:
    if any(finding.kind == "unreadable" for finding in findings):
        rule = "some images cannot be read; better is to replace them"
        return Suggestion("--skip-bad-images", rule, "this diagnosis")
    rule = "every image has been decoded here, so the check before the training can be left out until files change"
    return Suggestion("--no-check-images", rule, "this diagnosis")
