"""``timm-gcp validate``: evaluates a registered model, a checkpoint, a model folder or a Hub model."""

import argparse
import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from rich.console import Console
from rich.table import Table
from timm.data import create_loader, resolve_data_config
from torch import nn

import timm_gcp  # noqa: F401  registers the models

from ..data import check_images, create_dataset
from ..errors import GCPError
from ..methods import METHODS, get_method, nearest
from ..models.graft import set_last_stride
from ..pooling import find_pools
from .arguments import parse_validate_args
from .checkpoint import load_training_checkpoint, load_weights, read_weights, save_atomically, weights_of
from .engine import evaluate

__all__ = [
    "create_model",
    "evaluation_loader",
    "main",
    "make_autocast",
    "model_from_checkpoint",
    "preprocessing",
    "set_method",
]

_SOURCES = ("local-dir:", "hf-hub:", "hf_hub:")


def source_of(name: str) -> str:
    """The name as timm takes it: an existing model folder gets its ``local-dir:``.

    Raises:
        GCPError: no such model, method or folder; near matches are named.
    """
    if not name.startswith(_SOURCES) and os.path.isdir(name):
        name = f"local-dir:{name}"
    source, _, place = name.partition(":")
    if source == "local-dir":
        if not (Path(place) / "config.json").is_file():
            raise GCPError(f"{place} is not a model folder: it has no config.json.")
    elif not name.startswith(_SOURCES):
        _check_registered(name)
    return name


def _check_registered(name: str) -> None:
    plain = name.partition(".")[0]
    if timm.is_model(plain):
        return
    if "/" in name or os.sep in name:
        raise GCPError(f"There is no model folder {name}; a model on the Hub is named hf-hub:{name}.")
    backbone, _, method = plain.rpartition("_")
    if method not in METHODS and any(timm.is_model(f"{backbone}_{other}") for other in METHODS):
        get_method(method)
    raise GCPError(f"Unknown model '{name}'{nearest(plain, timm.list_models())}")


def _architecture(name: str) -> str:
    """The registered name behind a name, folder or Hub id."""
    source, _, place = name.partition(":")
    if source == "local-dir":
        with open(Path(place) / "config.json", encoding="utf-8") as file:
            return str(json.load(file).get("architecture", ""))
    if name.startswith(_SOURCES):
        return str(timm.models.load_model_config_from_hf(place)[1])
    return name.partition(".")[0]


def create_model(name: str, *, pretrained: bool = False, last_stride: int | None = None, **arguments: Any) -> nn.Module:
    """``timm.create_model`` with clear errors, for all that a user may name.

    Args:
        name: registered name, model folder (with or without ``local-dir:``) or ``hf-hub:`` id.
        pretrained: load the weights that belong to the name.
        last_stride: stride of a ResNet's last stage, also of one with average pooling; None leaves it.
        **arguments: as ``timm.create_model``; None counts as not given.

    Raises:
        GCPError: no such model, weights that cannot be had, or arguments that do not fit.
    """
    name = source_of(name)
    try:
        if last_stride is not None:
            backbone, _, method = _architecture(name).rpartition("_")
            if method in METHODS and timm.is_model(backbone):
                arguments["last_stride"] = last_stride
        model = timm.create_model(name, pretrained=pretrained, **arguments)
        if last_stride is not None and "last_stride" not in arguments:
            set_last_stride(model, last_stride)
    except GCPError:
        raise
    except Exception as error:  # timm, torch and the Hub's client raise all kinds
        raise GCPError(f"{name} cannot be built: {reason(error)}.") from error
    return model


def reason(error: BaseException) -> str:
    """An error's first line, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def set_method(model: nn.Module, method: str) -> None:
    """Sets the method of all covariance pools.

    Raises:
        GCPError: an unknown method, or a model without such a pool.
    """
    pools = find_pools(model)
    if not pools:
        raise GCPError(f"--method {method} needs a model with covariance pooling; {type(model).__name__} has none.")
    for pool in pools:
        pool.method = method


def model_from_checkpoint(
    path: str | os.PathLike[str], name: str = "", use_ema: bool | None = None, **arguments: Any
) -> nn.Module:
    """Builds the model of a training checkpoint as it was trained and ranked: weights, method and preprocessing.

    Args:
        path: a checkpoint of a run, ours or that of timm's ``train.py``, or a bare state dict (which needs ``name``).
        name: another model than the checkpoint's own.
        use_ema: averaged weights; None takes those by which the run was ranked.
        **arguments: of ``create_model``; they win over the checkpoint's.

    Returns:
        The model; its ``pretrained_cfg`` tells the preprocessing.

    Raises:
        GCPError: the file is damaged or no checkpoint, or it does not fit the model.
    """
    arguments = {key: value for key, value in arguments.items() if value is not None}
    if str(path).endswith(".safetensors"):
        record: dict[str, Any] = {}
        weights = read_weights(path)
    else:
        try:
            checkpoint = load_training_checkpoint(path)
        except GCPError:
            if not name:
                raise
            checkpoint = {}
        record = checkpoint.get("gcp") or _record_of_timm(checkpoint.get("args"))
        if use_ema is None:
            use_ema = bool(record.get("ema"))
        weights = weights_of(checkpoint, path, use_ema) if checkpoint else read_weights(path, bool(use_ema))
    if not name and not record:
        raise GCPError(f"{path} does not tell its model; give --model NAME.")
    known = {key: record.get(key) for key in ("num_classes", "last_stride")}
    merged = {**known, **record.get("model_args", {}), **arguments}
    model: Any = create_model(name or record["architecture"], pretrained=False, **merged)
    load_weights(model, weights, path)
    own: dict[str, Any] = dict(model.pretrained_cfg)
    if record.get("data_config"):
        own.update(record["data_config"], test_input_size=None, test_crop_pct=None)
    if record.get("class_names"):
        own["label_names"] = list(record["class_names"])
    model.pretrained_cfg = model.default_cfg = own
    # Another model that the user names brings its own method.
    if record.get("method") and find_pools(model) and name.partition(".")[0] in ("", record["architecture"]):
        set_method(model, record["method"])
    return model


def _record_of_timm(args: Any) -> dict[str, Any]:
    """What the arguments in a checkpoint of timm's ``train.py`` tell."""
    if not isinstance(args, argparse.Namespace) or not getattr(args, "model", None):
        return {}
    values = vars(args)
    channels = values.get("in_chans") or (values.get("input_size") or [None])[0]
    data = {key: values.get(key) for key in ("mean", "std", "crop_pct", "interpolation") if values.get(key)}
    size = values.get("input_size") or (
        [channels or 3, values["img_size"], values["img_size"]] if values.get("img_size") else None
    )
    return {
        "architecture": args.model,
        "num_classes": values.get("num_classes"),
        "model_args": {**(values.get("model_kwargs") or {}), **({"in_chans": channels} if channels else {})},
        "data_config": {**data, **({"input_size": tuple(size)} if size else {})},
    }


def make_autocast(device: torch.device, amp: bool, dtype: str) -> Callable[[], Any]:
    """The context of a forward pass: autocast under ``--amp``, else nothing."""
    if not amp:
        return contextlib.nullcontext
    return partial(torch.autocast, device_type=device.type, dtype=getattr(torch, dtype))


def preprocessing(args: argparse.Namespace, model: nn.Module, use_test_size: bool = False) -> dict[str, Any]:
    """timm's ``resolve_data_config``, with one mean and deviation a channel.

    Args:
        args: arguments, which win over the model's own settings.
        model: its ``pretrained_cfg`` counts.
        use_test_size: size and crop that the model's authors recommend for evaluation.
    """
    config = resolve_data_config(vars(args), model=model, use_test_size=use_test_size)
    channels = config["input_size"][0]
    for key in ("mean", "std"):
        if len(config[key]) != channels:
            config[key] = (sum(config[key]) / len(config[key]),) * channels
    return config


def evaluation_loader(
    args: argparse.Namespace,
    dataset: Any,
    data_config: Mapping[str, Any],
    device: torch.device,
    batch_size: int,
    distributed: bool = False,
) -> Any:
    """timm's loader with the preprocessing of evaluation."""
    return create_loader(
        dataset,
        input_size=data_config["input_size"],
        batch_size=batch_size,
        is_training=False,
        use_prefetcher=not args.no_prefetcher,
        interpolation=data_config["interpolation"],
        mean=data_config["mean"],
        std=data_config["std"],
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        distributed=distributed,
        crop_pct=data_config["crop_pct"],
        crop_mode=data_config["crop_mode"],
        pin_memory=args.pin_mem,
        device=device,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp validate``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status 0.

    Raises:
        GCPError: bad input, before anything is evaluated.
    """
    args = parse_validate_args(argv)
    if args.results_file.endswith(".csv"):
        _check_columns(args.results_file)
    device = torch.device(args.device)
    channels = args.in_chans or (args.input_size[0] if args.input_size else None)
    wanted = dict(
        num_classes=args.num_classes, in_chans=channels, last_stride=args.last_stride, **(args.model_kwargs or {})
    )
    model: Any
    if args.checkpoint:
        model = model_from_checkpoint(args.checkpoint, args.model, args.use_ema, **wanted)
    else:
        model = create_model(args.model, pretrained=True, **wanted)
    if args.method:
        set_method(model, args.method)
    model = model.to(device, memory_format=torch.channels_last if args.channels_last else torch.preserve_format)
    data_config = preprocessing(args, model, use_test_size=True)

    dataset = create_dataset(
        args.dataset,
        args.data_dir,
        args.split,
        class_map=args.class_map,
        download=args.dataset_download,
        input_img_mode="RGB" if data_config["input_size"][0] == 3 else "L",
        skip_bad_images=args.skip_bad_images,
    )
    check_classes(model, dataset)
    if not args.no_check_images:
        check_images(dataset, progress=sys.stderr.isatty())
    metrics = evaluate(
        model,
        evaluation_loader(args, dataset, data_config, device, args.batch_size),
        device=device,
        autocast=make_autocast(device, args.amp, args.amp_dtype),
        channels_last=args.channels_last,
        tta=args.tta,
        description="evaluating",
    )
    pools = find_pools(model)
    row = {
        "model": (model.pretrained_cfg or {}).get("architecture") or args.model,
        "weights": args.checkpoint or args.model,
        "method": pools[0].method if pools else "",
        "dataset": args.dataset or "folder",
        "data_dir": args.data_dir or "",
        "split": args.split,
        "top1": round(metrics["top1"], 4),
        "top5": round(metrics["top5"], 4),
        "loss": round(metrics["loss"], 6),
        "count": int(metrics["count"]),
        "images_per_second": round(metrics["images_per_second"], 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "img_size": data_config["input_size"][-1],
        "crop_pct": round(data_config["crop_pct"], 4),
        "interpolation": data_config["interpolation"],
        "tta": args.tta,
    }
    assert list(row) == _COLUMNS
    _show(row)
    if args.results_file:
        _write(args.results_file, row)
    return 0


_COLUMNS = [
    *("model", "weights", "method", "dataset", "data_dir", "split", "top1", "top5", "loss", "count"),
    *("images_per_second", "parameters", "img_size", "crop_pct", "interpolation", "tta"),
]


def check_classes(model: nn.Module, dataset: Any) -> None:
    """Makes sure that the labels of a data set mean what the model's logits mean.

    Raises:
        GCPError: more classes than the model has, or classes of other names.
    """
    classes, names = getattr(dataset, "num_classes", None), getattr(dataset, "class_names", None)
    trained = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    if classes is not None and classes > model.num_classes:
        raise GCPError(
            f"The data set has {classes} classes and the model {model.num_classes}; give a model trained on these "
            "classes, or a --class-map."
        )
    if names and isinstance(trained, (list, tuple)) and list(names) != list(trained):
        pairs = enumerate(zip([*names, *[None] * len(trained)], trained, strict=False))
        label, (here, there) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        here_is = "nothing" if here is None else f"'{here}'"
        raise GCPError(
            f"Class {label} is {here_is} in the data set and '{there}' in the model; give the data that the model was "
            "trained on, or a --class-map with its order."
        )


def _show(row: Mapping[str, Any]) -> None:
    table = Table(title=f"{row['model']} on {row['dataset']}, {row['split']}")
    for name in ("method", "top-1", "top-5", "loss", "images", "images/s"):
        table.add_column(name, justify="left" if name == "method" else "right")
    table.add_row(
        row["method"] or "–",
        f"{row['top1']:.2f}",
        f"{row['top5']:.2f}",
        f"{row['loss']:.4f}",
        str(row["count"]),
        f"{row['images_per_second']:.1f}",
    )
    Console().print(table)


def _check_columns(path: str) -> None:
    file = Path(path)
    if file.is_file() and file.stat().st_size:
        with open(file, newline="", encoding="utf-8", errors="replace") as content:
            if next(csv.reader(content), None) != _COLUMNS:
                raise GCPError(f"{path} is not a results file of this command; choose another --results-file.")


def _write(path: str, row: Mapping[str, Any]) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    if path.endswith(".json"):
        text = json.dumps(row, indent=2) + "\n"
    else:
        old = file.read_text(encoding="utf-8") if file.is_file() else ""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=_COLUMNS, lineterminator="\n")
        if not old:
            writer.writeheader()
        writer.writerow(row)
        text = old + ("\n" if old and not old.endswith("\n") else "") + buffer.getvalue()
    save_atomically(file, lambda content: content.write(text.encode()))


if __name__ == "__main__":
    from timm_gcp.cli import main as cli

    sys.exit(cli(["validate", *sys.argv[1:]]))
