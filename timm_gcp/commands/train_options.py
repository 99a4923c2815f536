"""The parser of ``timm-gcp train``; defaults are timm's unless the help says otherwise."""

import argparse

from ..data.options import TrainingDataOptions
from ..tasks import MULTI_LABEL, SINGLE_LABEL
from ..training.freezing import PARTS
from ..training.tracking import TRACKERS
from .glossary import GLOSSARY
from .optimisation_options import add_augmentation, add_averaging, add_imbalance, add_learning_rate, add_optimiser
from .option_types import (
    COUNT,
    COUNT_OR_ZERO,
    POSITIVE,
    SEED,
    duration,
    experiment_name,
    file_path,
    learning_rate,
    model_name,
)
from .options import (
    add_data_folder,
    add_data_set,
    add_debug,
    add_device,
    add_holdout,
    add_hybrid_arguments,
    add_image_size,
    add_input,
    add_loading,
)
from .parser import Pairs, Parser, Switch
from .recipes import recipe_names

__all__ = ["EXAMPLE", "train_parser"]

EXAMPLE = """timm-gcp train photos --recipe finetune --model resnet50_svdpade.init \\
      --output runs --experiment photos"""

_DESCRIPTION = f"""
Train a timm model on images, with the hybrid protocol where it ends in
covariance pooling.

example: images in photos/train/CLASS/ and photos/validation/CLASS/
  {EXAMPLE}
"""


def train_parser() -> Parser:
    """The parser: the options that people need first, then the rest by group."""
    parser = Parser(prog="timm-gcp train", usage="%(prog)s DIR [options]", description=_DESCRIPTION, epilog=GLOSSARY)
    _add_most_used(parser.add_argument_group("Most used"))
    _add_data(parser.add_argument_group("Data"))
    _add_model(parser.add_argument_group("Model"))
    _add_hybrid(parser.add_argument_group("Covariance pooling"))
    add_optimiser(parser.add_argument_group("Optimiser"))
    add_learning_rate(parser.add_argument_group("Learning rate"))
    add_augmentation(parser.add_argument_group("Augmentation and regularisation"))
    add_imbalance(parser.add_argument_group("Imbalanced classes"))
    add_averaging(parser.add_argument_group("Batch norm, averaging"))
    _add_loading(parser.add_argument_group("Device and loading"))
    _add_run(parser.add_argument_group("Run"))
    return parser


def _add_most_used(group: argparse._ArgumentGroup) -> None:
    add_data_folder(group)
    group.add_argument(
        "--model",
        type=model_name,
        default="resnet50_svdpade",
        metavar="NAME",
        help="registered name (timm-gcp list), model folder (local-dir:PATH) or hf-hub:ID",
    )
    group.add_argument(
        "--pretrained", action=Switch, help="start from pretrained weights; model folders always start from theirs"
    )
    group.add_argument(
        "--recipe",
        default="",
        metavar="NAME",
        help=f"ready-made settings, below those of --config and the command line: {', '.join(recipe_names())}",
    )
    group.add_argument("--epochs", type=COUNT, default=300, metavar="N", help="passes over the training images")
    group.add_argument("-b", "--batch-size", type=COUNT, default=128, metavar="N", help="images per batch and process")
    group.add_argument(
        "--lr",
        type=learning_rate,
        metavar="LR|auto",
        help="peak of the learning rate; auto: chosen by a range test before training (default: by --lr-base and the "
        "batch size)",
    )
    add_image_size(group)
    add_device(group)
    group.add_argument(
        "--output", type=file_path, default="", metavar="DIR", help="folder of runs (default: output/train)"
    )
    group.add_argument(
        "--experiment",
        type=experiment_name,
        default="",
        metavar="NAME",
        help="name of the run, a folder in --output (default: date, model and image size)",
    )
    group.add_argument(
        "--resume",
        type=file_path,
        default="",
        metavar="FILE",
        help="continue a run from its checkpoint; auto: from the newest whole one of the run folder, if there is one",
    )
    group.add_argument(
        "-c",
        "--config",
        type=file_path,
        default="",
        metavar="FILE",
        help="YAML file of options by name; those of the command line win",
    )


def _add_data(group: argparse._ArgumentGroup) -> None:
    add_data_set(group)
    group.add_argument(
        "--train-split", default=TrainingDataOptions.train_split, metavar="NAME", help="split that is trained on"
    )
    group.add_argument(
        "--val-split",
        default=TrainingDataOptions.val_split,
        metavar="NAME",
        help="split that is evaluated after every epoch; '' for none",
    )
    add_holdout(group, "where there is no --val-split, hold this part of every class out of the training images")


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--pretrained-path", type=file_path, metavar="FILE", help="a checkpoint used as the pretrained weights"
    )
    group.add_argument(
        "--initial-checkpoint",
        type=file_path,
        default="",
        metavar="FILE",
        help="load all weights of a checkpoint, with the classifier",
    )
    group.add_argument(
        "--init-head",
        default="random",
        choices=("random", "probe"),
        help="probe: start from principal directions and a classifier that are fitted to the frozen features of the "
        "training images, in one pass before training",
    )
    group.add_argument(
        "--train-only",
        choices=PARTS,
        help="freeze all but this part: the first of two stages of fine-tuning (head: covariance pool and classifier)",
    )
    add_input(group, "data set")
    group.add_argument(
        "--grad-checkpointing", action="store_true", help="recompute activations in the backward pass, to save memory"
    )
    group.add_argument(
        "--torchcompile",
        nargs="?",
        const="inductor",
        metavar="BACKEND",
        help="compile the model by torch.compile, by inductor where no BACKEND is given",
    )


def _add_hybrid(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--method-args",
        nargs="*",
        default={},
        action=Pairs,
        metavar="K=V",
        help="arguments of the model's method, such as degree=20 (timm-gcp list names them)",
    )
    add_hybrid_arguments(group)
    group.add_argument(
        "--switch-conditioning", action="store_true", help="switch when the conditioning of the covariances settles"
    )
    group.add_argument(
        "--classifier-lr-mult",
        type=POSITIVE,
        default=1.0,
        metavar="X",
        help="factor of the learning rate for the classifier",
    )
    group.add_argument(
        "--monitor-every",
        type=COUNT_OR_ZERO,
        default=10,
        metavar="N",
        help="measure conditioning every N batches; 0: never",
    )


def _add_loading(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-vb",
        "--validation-batch-size",
        type=COUNT,
        metavar="N",
        help="images per batch of evaluation (default: --batch-size)",
    )
    group.add_argument(
        "--grad-accum-steps", type=COUNT, default=1, metavar="N", help="batches whose gradients make one update"
    )
    add_loading(group)


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--show-recipe", action="store_true", help="print the recipe with its source, and exit")
    group.add_argument("--seed", type=SEED, default=42, metavar="S", help="seed of weights, order and augmentation")
    group.add_argument("--log-interval", type=COUNT, default=50, metavar="N", help="updates between two log lines")
    group.add_argument("--checkpoint-hist", type=COUNT, default=10, metavar="N", help="number of checkpoints kept")
    group.add_argument(
        "--recovery-interval",
        type=COUNT_OR_ZERO,
        default=0,
        metavar="N",
        help="save a checkpoint every N updates too, within an epoch; 0: at its end only",
    )
    group.add_argument("--no-resume-opt", action="store_true", help="resume without the state of the optimiser")
    group.add_argument(
        "--on-nonfinite",
        default="stop",
        choices=("stop", "skip"),
        help="where loss or gradient is not finite: save the batch and stop, or skip the update",
    )
    group.add_argument(
        "--tta",
        default="",
        choices=("", "mirror"),
        help="mirror: evaluate the best model with logits averaged over image and mirror image",
    )
    group.add_argument(
        "--eval-metric",
        choices=(*SINGLE_LABEL.metrics, *MULTI_LABEL.metrics, "loss"),
        help="measure that picks the best epoch (default: top1, or map for multi-label data)",
    )
    group.add_argument(
        "--patience",
        type=COUNT,
        metavar="N",
        help="end after N epochs without a better one; epochs before the switch of the method do not count "
        "(default: train all epochs)",
    )
    group.add_argument(
        "--time-limit",
        type=duration,
        metavar="TIME",
        help="end after the epoch in which training exceeds this time, such as 90m, 2h or 1h30m; seconds without a "
        "unit; a resumed run counts the time before as well (default: none)",
    )
    group.add_argument(
        "--log",
        "--log-to",  # torchrun takes --log for a short form of its own options
        dest="log",
        default="",
        choices=("", *TRACKERS),
        help="give the numbers of every epoch to TensorBoard, Weights & Biases or MLflow as well, each an extra; under "
        "torchrun write --log-to",
    )
    group.add_argument("--no-report", action="store_true", help="write no report at the end of the run")
    add_debug(group)
