"""``python -m hub package``: adds a small trained model to the package, with its accuracy, class names and recipe.

The model folder is evaluated first; then weights and row are written. Weights in the package work offline, and are
limited to 4 MiB.
"""

import argparse
import datetime
import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object
from timm_gcp.commands.validate import parse_validate_args, validate
from timm_gcp.files import sha256_of, written_aside
from timm_gcp.sharing.recipe import read_recipe
from timm_gcp.weights.manifest import MANIFEST, Checkpoint, read_manifest, write_manifest

LIMIT = 4 * 2**20
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
    weights = args.folder / "model.safetensors"
    if not weights.is_file():
        raise GCPError(f"{args.folder} is not a model folder: it has no {weights.name}; give RUN/model.")
    if weights.stat().st_size > LIMIT:
        raise GCPError(f"{weights} has {weights.stat().st_size / 2**20:.1f} MiB; a packaged file has at most 4.")
    result = evaluate(args.folder, args.evaluate)
    row = make_row(args, result)
    row.check()
    package = args.manifest.parent / "zoo" / str(row.package)
    package.parent.mkdir(exist_ok=True)
    with written_aside(package) as scratch:
        shutil.copyfile(weights, scratch)
    rows = {name: other for name, other in read_manifest(args.manifest).items() if name != row.name}
    packaged = {name: other for name, other in rows.items() if other.package}
    others = {name: other for name, other in rows.items() if not other.package}
    write_manifest({**packaged, row.name: row, **others}, args.manifest)
    print(f"{row.name}: top-1 {result['top1']:.2f}, {row.size} bytes, {package}")
    return 0


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


def make_row(args: argparse.Namespace, result: dict[str, Any]) -> Checkpoint:
    """The row of a model folder.

    Args:
        args: the command's options.
        result: the measured accuracy.
    """
    config = json.loads((args.folder / "config.json").read_text(encoding="utf-8"))
    cfg = config["pretrained_cfg"]
    weights = args.folder / "model.safetensors"
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
