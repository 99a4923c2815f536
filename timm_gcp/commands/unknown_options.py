"""Error messages for options that a command does not have."""

import difflib
from collections.abc import Collection, Sequence

__all__ = ["advice_on", "unknown_arguments"]

_NAMES = {
    **dict.fromkeys(("learning-rate", "base-lr", "init-lr"), "lr"),
    **dict.fromkeys(("wd", "l2"), "weight-decay"),
    **dict.fromkeys(("batch", "bs", "train-batch-size"), "batch-size"),
    **dict.fromkeys(("eval-batch-size", "val-batch-size"), "validation-batch-size"),
    **dict.fromkeys(("num-epochs", "n-epochs", "max-epochs"), "epochs"),
    **dict.fromkeys(("num-workers", "n-workers", "dataloader-num-workers"), "workers"),
    **dict.fromkeys(("arch", "architecture", "backbone", "model-name"), "model"),
    **dict.fromkeys(("image-size", "imgsz", "resolution", "crop-size"), "img-size"),
    **dict.fromkeys(("optimizer", "optim"), "opt"),
    **dict.fromkeys(("scheduler", "lr-scheduler", "lr-scheduler-type"), "sched"),
    **dict.fromkeys(("warmup", "lr-warmup-epochs"), "warmup-epochs"),
    **dict.fromkeys(("label-smoothing", "smooth"), "smoothing"),
    **dict.fromkeys(("dropout", "drop-rate"), "drop"),
    **dict.fromkeys(("auto-augment", "autoaugment", "augmentation", "randaugment"), "aa"),
    **dict.fromkeys(("random-erase", "random-erasing"), "reprob"),
    **dict.fromkeys(("ckpt", "ckpt-path", "weights", "checkpoint-path"), "checkpoint"),
    **dict.fromkeys(("resume-from", "resume-from-checkpoint"), "resume"),
    **dict.fromkeys(("name", "run-name", "exp-name"), "experiment"),
    **dict.fromkeys(("output-dir", "out-dir", "save-dir"), "output"),
    **dict.fromkeys(("output", "outfile", "output-file"), "out"),
    **dict.fromkeys(("gpu", "gpus", "cuda"), "device"),
    **dict.fromkeys(("fp16", "mixed-precision", "half"), "amp"),
    **dict.fromkeys(("ema",), "model-ema"),
    **dict.fromkeys(("gradient-clip", "max-grad-norm", "clip-norm"), "clip-grad"),
    **dict.fromkeys(("accum-steps", "gradient-accumulation-steps", "accumulate"), "grad-accum-steps"),
    **dict.fromkeys(("dataset-dir", "data-path", "root"), "data-dir"),
    **dict.fromkeys(("save-top-k",), "checkpoint-hist"),
    **dict.fromkeys(("topk", "top-k"), "top"),
    **dict.fromkeys(("classes",), "num-classes"),
}
"""Names that other trainers have for an option; those that a command lacks are left out."""

_OF_TIMM = (
    *("aug-repeats", "aug-splits", "bn-eps", "bn-momentum", "dataset-trust-remote-code", "device-modules"),
    *("distill-loss-weight", "drop-block", "drop-connect", "epoch-repeats", "fast-norm", "fuser", "gp"),
    *("head-init-bias", "head-init-scale", "input-img-mode", "input-key", "jsd-loss", "log-wandb", "model-dtype"),
    *("model-ema-force-cpu", "no-ddp-bb", "resplit", "save-images", "split-bn", "start-epoch", "synchronize-step"),
    *("target-key", "task-loss-weight", "torchcompile-mode", "torchscript", "train-batch-sizes"),
    *("train-batches-per-epoch", "train-img-sizes", "train-num-samples", "train-steps-per-epoch"),
    *("use-multi-epochs-loader", "val-interval", "val-num-samples", "variable-batch-loss-scale", "worker-seeding"),
)
_FAMILIES_OF_TIMM = ("kd-", "naflex-", "train-size-", "wandb-")
"""Options of timm's train.py (1.0.29) that ``timm-gcp train`` lacks, and how families of them begin."""


def unknown_arguments(extra: Sequence[str], options: Collection[str], command: str) -> str:
    """A message about arguments that a parser could not place, with the near names of its options.

    Args:
        extra: the arguments.
        options: the parser's option strings.
        command: the parser's ``prog``.
    """
    advice = []
    for argument in extra:
        if argument.startswith("--"):
            name = argument.lstrip("-").partition("=")[0].replace("_", "-").lower()
            advice += advice_on(name, options, command)
    return "; ".join([f"unrecognized arguments: {' '.join(extra)}", *dict.fromkeys(advice)])


def advice_on(name: str, options: Collection[str], command: str) -> list[str]:
    """What a user may have meant by the name of an option that there is not; empty where nothing is near.

    Args:
        name: lower case, without the leading hyphens, with hyphens between its words.
        options: the parser's option strings.
        command: the parser's ``prog``.
    """
    names = {option.lstrip("-"): option for option in options if option.startswith("--")}
    meant = name if name in names else _NAMES.get(name)
    if meant in names:
        return [f"did you mean {names[meant]}?"]
    if (name in _OF_TIMM or name.startswith(_FAMILIES_OF_TIMM)) and command.endswith(" train"):
        return [f"timm's own train.py has --{name}: timm-gcp wrap train.py -- …"]
    known = {**{alias: names[option] for alias, option in _NAMES.items() if option in names}, **names}
    near = dict.fromkeys(known[match] for match in difflib.get_close_matches(name, known, n=3, cutoff=0.6))
    return [f"did you mean {' or '.join(near)}?"] if near else []
