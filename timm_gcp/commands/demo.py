"""``timm-gcp demo``: fits a probe and trains two tiny models on synthetic textures, compares, saves and loads them."""

import argparse
import contextlib
import json
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table
from timm.data import create_transform, resolve_model_data_config

from ..data import create_dataset
from ..data.textures import write_textures
from ..errors import GCPError
from ..files import check_output_folder
from ..models.named import create_model, model_from_checkpoint
from ..plots import new_figure, save_figure
from ..training.curves import draw_comparison
from ..training.evaluate import EvaluationOptions, evaluate_model
from ..training.run_folder import LOCK
from .option_types import SEED, Number, path_object
from .options import add_debug
from .parser import Parser
from .probe import main as probe
from .train import main as train

__all__ = ["main"]

BACKBONE = "test_resnet"
HEADS = {"average": BACKBONE, "svdpade": f"{BACKBONE}_svdpade"}
SWITCH = 0.75  # share of the epochs that runs under Newton–Schulz
# The same for both heads: stride, order, augmentation, rate.
RECIPE = shlex.split(
    "--last-stride 1 --img-size 64 -b 32 --opt sgd --lr 0.1 --weight-decay 1e-4 --clip-grad 5 --sched cosine "
    "--sched-on-updates --warmup-epochs 1 --min-lr 1e-5 --scale 0.7 1.0 --ratio 1 1 --hflip 0 --color-jitter 0 "
    "--smoothing 0 --checkpoint-hist 1 --no-prefetcher --no-check-images -j 0 --device cpu --channels-last"
)
SHOWN = 8
FROZEN = "test_resnet_svdpade.grocery"
"""Packaged weights, of photographs of groceries: the backbone that is probed."""
PROBE = shlex.split("--compare --img-size 96 -j 0 --device cpu --no-check-images")

_DESCRIPTION = (
    "Fit a probe, train two tiny models on synthetic textures, compare them, and save, load and evaluate the result. "
    "Nothing is downloaded. About a minute on two CPU cores."
)
_EPOCHS = Number(2, whole=True, hint=": the method switches between two epochs")
_IMAGES = Number(4, whole=True, hint=": the images of 8 classes have to fill a batch of 32")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp demo``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status 0.

    Raises:
        GCPError: the output folder is in use, or the reloaded model does not give what the trained one gave.
    """
    parser = Parser(prog="timm-gcp demo", description=_DESCRIPTION)
    parser.add_argument(
        "--output",
        type=path_object,
        default=Path("timm-gcp-demo"),
        metavar="DIR",
        help="folder to write (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", type=_EPOCHS, default=8, metavar="N", help="epochs of each of the two runs (default: %(default)s)"
    )
    parser.add_argument(
        "--images", type=_IMAGES, default=60, metavar="N", help="training images per class (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=SEED, default=0, metavar="N", help="seed of weights and data order (default: %(default)s)"
    )
    add_debug(parser)
    args = parser.parse_args(argv)
    check_output_folder(args.output, "--output")
    with _claimed(args.output):
        _run(args)
    return 0


@contextlib.contextmanager
def _claimed(output: Path) -> Iterator[None]:
    """The output folder, locked against another demo, with nothing in it that this one would write."""
    lock = FileLock(output / LOCK)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise GCPError(f"Another demo writes to {output}: wait for its end, or give another --output.") from error
    except NotImplementedError:  # a file system without locks
        pass
    except OSError as error:
        raise GCPError(f"--output {output} cannot be written ({error.strerror or error}); choose another.") from error
    try:
        for part in ("textures", "probe", *HEADS):
            if (output / part).exists():
                raise GCPError(f"{output / part} exists already: give another --output, or remove {output} first.")
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            (output / LOCK).unlink(missing_ok=True)


def _run(args: argparse.Namespace) -> None:
    began = time.monotonic()
    console = Console()
    data = args.output / "textures"
    write_textures(data, images_per_class=args.images, validation_per_class=max(args.images // 2, 1))
    console.rule("probe: frozen features of a network that was trained on photographs of groceries")
    probe(["--data-dir", str(data), "--model", FROZEN, *PROBE, "--output", str(args.output / "probe")])
    for head, model in HEADS.items():
        console.rule(f"{head}: {model}")
        own = ["--data-dir", str(data), "--model", model, "--epochs", str(args.epochs), "--seed", str(args.seed)]
        switch = [] if head == "average" else ["--switch-epoch", str(max(1, int(SWITCH * args.epochs)))]
        train([*own, *RECIPE, *switch, "--output", str(args.output), "--experiment", head])
    results = {head: json.loads((args.output / head / "result.json").read_text(encoding="utf-8")) for head in HEADS}

    console.rule("the saved folder, loaded through timm and evaluated again")
    again = _evaluate_folder(args.output, data)
    trained = results["svdpade"]["top1"]
    if abs(again - trained) > 1e-6:
        raise GCPError(
            f"The reloaded model gives {again:.2f} % where the trained one gave {trained:.2f} %; report this."
        )
    draw_comparison(
        {head: [args.output / head / "summary.csv"] for head in HEADS}, args.output / "curves.png", metric="eval_top1"
    )
    draw_predictions(args.output, data, args.output / "predictions.png")

    console.print(_table(results))
    console.print(
        "The textures are made for this demo: their classes differ in second-order structure only. On frozen features "
        "a covariance finds it better than a mean. A network that is trained learns to measure it either way, so the "
        "second table shows that everything works, not which head is better.\n"
        f"Pictures: {args.output / 'probe' / 'heads.png'}, {args.output / 'curves.png'}, "
        f"{args.output / 'predictions.png'}\n"
        f"Model: import timm, timm_gcp; "
        f"timm.create_model('local-dir:{args.output / 'svdpade' / 'model'}', pretrained=True)\n"
        f"Loaded again, it gives the same {again:.2f} % top-1. {time.monotonic() - began:.0f} s in all.",
        soft_wrap=True,
        highlight=False,
    )


def _evaluate_folder(output: Path, data: Path) -> float:
    """Top-1 accuracy of the model folder on the validation split, per cent."""
    model = create_model(f"local-dir:{output / 'svdpade' / 'model'}", pretrained=True)
    options = EvaluationOptions(data_dir=str(data), device="cpu", batch_size=32, workers=0)
    return evaluate_model(model, options).top1


def _table(results: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="Validation, best epoch")
    for column in ("head", "method", "parameters", "top-1 %", "loss", "seconds"):
        table.add_column(column, justify="left" if column in ("head", "method") else "right")
    for head, result in results.items():
        method = result["method"] or "average pooling"
        if result["switched_at"]:
            method = f"isqrt, then {method} after {result['switched_at']['epoch']} epochs"
        parameters = f"{result['parameters'] / 1e6:.2f} M"
        top1, loss = f"{result['top1']:.2f}", f"{result['loss']:.4f}"
        table.add_row(head, method, parameters, top1, loss, f"{result['wall_seconds']:.0f}")
    return table


@torch.inference_mode()
def draw_predictions(output: Path, data: Path, out: Path) -> None:
    """Draws validation images, each with its class and what both models say.

    Args:
        output: the demo's folder.
        data: the textures.
        out: the PNG to write.
    """
    dataset = create_dataset("", data, "validation")
    names = list(dataset.class_names)
    models = {head: model_from_checkpoint(output / head / "model_best.pth.tar").eval() for head in HEADS}
    transform = create_transform(**resolve_model_data_config(models["svdpade"]), is_training=False)
    chosen = torch.linspace(0, len(dataset) - 1, SHOWN).long().tolist()
    figure = new_figure(figsize=(12, 7.6))
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.08, top=0.88, hspace=0.4, wspace=0.08)
    for axes, index in zip(figure.subplots(2, SHOWN // 2).flat, chosen, strict=True):
        image, label = dataset[index]
        axes.imshow(image)
        axes.set_axis_off()
        axes.set_title(names[label], fontsize=11)
        for line, (head, model) in enumerate(models.items()):
            probability, said = model(transform(image)[None]).softmax(1)[0].max(0)
            axes.text(
                *(0.5, -0.05 - 0.09 * line, f"{head}: {names[said]} {100 * probability:.0f} %"),
                transform=axes.transAxes,
                ha="center",
                va="top",
                fontsize=10,
                color="tab:green" if said == label else "tab:red",
            )
    figure.suptitle("Validation images, their class, and what both models say", fontsize=13)
    save_figure(figure, out, dpi=110)
