"""``python -m hub package``: adds a small trained model to the package, with its accuracy, class names and recipe.

Weights are stored in float16, statistics of batch norm in float32. The model is evaluated with the stored weights; then
weights and row are written. Weights in the package work offline, and are limited to 10 MB.
"""

import argparse
import datetime
import json
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object
from timm_gcp.commands.validate import parse_validate_args, validate
from timm_gcp.files import sha256_of, written_aside
from timm_gcp.sharing.recipe import read_recipe
from timm_gcp.weights.manifest import MANIFEST, Checkpoint, read_manifest, write_manifest

LIMIT = 10 * 10**6
"""Largest size of a packaged file, in bytes."""

RGB = ("in_chans", 3)
"""The default model argument, which is left out of the row."""

BOOKKEEPING = {"--output": 2, "--experiment": 2, "--checkpoint-hist": 2, "--no-check-images": 1}
"""Options of ``timm-gcp train`` that do not change the weights → number of words to remove from a command."""


def main(argv: Sequence[str]) -> int:
    """Runs the command ``package``; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m hub package", description=__doc__.split("\n")[0])
    parser.add_argument("name", help="name of the row: <registered model>.<tag>")
    parser.add_argument("folder", type=path_object, help="model folder of a run of timm-gcp train")
    parser.add_argument("--description", required=True, help="one sentence for the model card")
    parser.add_argument("--licence", default="Apache-2.0", help="SPDX identifier (%(default)s)")
    parser.add_argument("--origin-url", help="web page about the data")
    parser.add_argument("--data", required=True, help="description of the data it is evaluated on")
    parser.add_argument("--where", required=True, help="description of the machine it is evaluated on")
    parser.add_argument("--evaluate", required=True, metavar="ARGS", help="data arguments of timm-gcp validate, quoted")
    parser.add_argument("--data-name", help="placeholder for the data folder in the commands of the row")
    parser.add_argument("--manifest", type=path_object, default=MANIFEST, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        stored = Path(temporary) / "model"
        weights = store_in_half(args.folder, stored)
        size = weights.stat().st_size
        if size > LIMIT:
            raise GCPError(f"The weights of {args.folder} take {size / 1e6:.1f} MB; a packaged file has at most 10.")
        row = make_row(args, stored, evaluate(stored, args.evaluate))
        row.check()
        package = args.manifest.parent / "zoo" / str(row.package)
        package.parent.mkdir(exist_ok=True)
        with written_aside(package) as scratch:
            shutil.copyfile(weights, scratch)
    rows = {name: other for name, other in read_manifest(args.manifest).items() if name != row.name}
    packaged = {name: other for name, other in rows.items() if other.package}
    others = {name: other for name, other in rows.items() if not other.package}
    write_manifest({**packaged, row.name: row, **others}, args.manifest)
    print(f"{row.name}: top-1 {row.metrics[0]['top1']:.2f}, {row.size} bytes, {package}")
    return 0


def store_in_half(folder: Path, stored: Path) -> Path:
    """Copies a model folder, its weights in float16; the statistics of batch norm stay as they are.

    Args:
        folder: model folder.
        stored: the copy.

    Returns:
        The file of the weights.

    Raises:
        GCPError: it is no model folder.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise GCPError(f"{folder} is not a model folder: it has no {weights.name}; give RUN/model.")
    shutil.copytree(folder, stored)
    tensors = load_file(weights)
    statistics = ("running_mean", "running_var")  # a variance can be beyond the range of float16
    halved = {
        name: tensor if name.endswith(statistics) or not tensor.is_floating_point() else tensor.half()
        for name, tensor in tensors.items()
    }
    save_file(halved, stored / weights.name, metadata={"format": "pt"})
    return stored / weights.name


def evaluate(folder: Path, given: str) -> dict[str, Any]:
    """Evaluates a model folder as ``timm-gcp validate`` does.

    Args:
        folder: model folder.
        given: arguments of that command, as one string.

    Returns:
        The row of a results file.

    Raises:
        GCPError: the evaluation failed.
    """
    try:
        return validate(parse_validate_args(["--model", f"local-dir:{folder}", *shlex.split(given)])).row
    except GCPError as error:
        raise GCPError(f"{folder} could not be evaluated: {error}") from error


def public(command: str, data: str | None) -> str:
    """A command without the options in `BOOKKEEPING` and with a placeholder for the data folder."""
    words = shlex.split(command)
    for option, number in BOOKKEEPING.items():
        if option in words:
            at = words.index(option)
            del words[at : at + number]
    if "--data-dir" in words:
        words[words.index("--data-dir") + 1] = data or "DATA"
    return shlex.join(words)


def make_row(args: argparse.Namespace, stored: Path, result: dict[str, Any]) -> Checkpoint:
    """The row of a model folder.

    Args:
        args: the command's options.
        stored: the folder with the weights that are packaged.
        result: their accuracy.
    """
    config = json.loads((stored / "config.json").read_text(encoding="utf-8"))
    cfg = config["pretrained_cfg"]
    weights = stored / "model.safetensors"
    trained = read_recipe(args.folder)
    labels = config.get("label_names")
    return Checkpoint(
        name=args.name,
        description=args.description,
        licence=args.licence,
        model_args={key: value for key, value in config.get("model_args", {}).items() if (key, value) != RGB},
        package=f"{args.name}.safetensors",
        sha256=sha256_of(weights),
        size=weights.stat().st_size,
        verified=f"{args.data}, {datetime.date.today().isoformat()}, {args.where}",
        input_size=tuple(cfg["input_size"]),
        interpolation=cfg["interpolation"],
        crop_pct=cfg["crop_pct"],
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        num_classes=config["num_classes"],
        label_names=tuple(labels) if labels else None,
        metrics=(
            {
                "data": args.data,
                "top1": round(result["top1"], 2),
                "top5": round(result["top5"], 2),
                "by": "timm_gcp",
                "command": public(f"timm-gcp validate --model {args.name} {args.evaluate}", args.data_name),
            },
        ),
        recipe=public(trained["command"], args.data_name) if trained else None,
        origin_url=args.origin_url,
    )
