"""Records how a model was trained: data, weights that it started from, command, date and versions."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn

from ..data.multi_label import MULTI_LABEL_SETS
from ..data.options import DatasetOptions, TrainingDataOptions
from ..errors import GCPError
from ..files import sha256_of
from ..models.folder import training_record
from ..models.named import source_of
from ..text import without_places
from ..weights.file import load_training_checkpoint
from .options import ModelOptions
from .run import Run

__all__ = [
    "ALL",
    "NOT_RECORDED",
    "RANDOM",
    "about",
    "backbone_data",
    "data_of",
    "data_record",
    "data_text",
    "is_of_data",
    "name_of_data",
    "origin_of_weights",
    "origin_text",
    "start_of",
    "start_text",
    "started_from",
    "trained_on",
]

ALL = "all"
"""Part of the model that was trained, in a record, unless ``--train-only`` or a probe names another."""
RANDOM = "random weights"
NOT_RECORDED = "not recorded"
_RECORDED = ("data", "trained", "started_from")
"""What the record of a training says of the weights, for those that start from them."""
_FILES = ("model.safetensors", "pytorch_model.bin")


def start_of(run: Run) -> Any:
    """What a run started from: for a resumed one what its checkpoint says, else what its options name."""
    if run.start.checkpoint is None:
        return started_from(run.options, run.model)
    return run.start.record.get("started_from", NOT_RECORDED)


def started_from(options: ModelOptions, model: nn.Module) -> str | dict[str, Any]:
    """The weights that a run starts from.

    Args:
        options: of the run.
        model: the model with these weights, as timm built it.

    Returns:
        `RANDOM`, or name, tag, licence, sha256, source, data and beginning of the weights, where known.
    """
    file = options.initial_checkpoint or options.pretrained_path or ""
    return origin_of_weights(options.model, file, options.pretrained, model)


def origin_of_weights(name: str, file: str, pretrained: bool, model: nn.Module) -> str | dict[str, Any]:
    """Where the weights of a model come from.

    Args:
        name: registered name, model folder or ``hf-hub:`` id.
        file: the file that they were loaded from; '' for those that belong to the name.
        pretrained: they were loaded, where the name is a registered one.
        model: the model with these weights, as timm built it.

    Returns:
        As `started_from`.
    """
    if file:
        return _of_file(Path(file))
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    named = source_of(name)
    source, _, place = named.partition(":")
    if source == "local-dir":
        return _of_folder(Path(place), cfg)
    if not place and not pretrained:
        return RANDOM
    tag = cfg.get("tag") or None
    shown = place or ".".join(filter(None, (str(cfg.get("architecture")), tag)))
    known = {"name": shown, "tag": tag, "license": cfg.get("license"), "sha256": _checksum(cfg)}
    known["source"] = cfg.get("hf_hub_id") or cfg.get("origin_url")
    folder = _folder_of(named)
    record = training_record(folder) if folder else {}
    return _without_none({**known, **{key: record.get(key) for key in _RECORDED}})


def _of_file(file: Path) -> dict[str, Any]:
    record = _record_in(file)
    known = {key: record.get(key) for key in ("architecture", *_RECORDED)}
    return _without_none({"name": file.name, "sha256": sha256_of(file), **known})


def _record_in(file: Path) -> Mapping[str, Any]:
    """What a checkpoint says of its model and run; empty for weights alone."""
    if file.suffix == ".safetensors":
        return {}
    try:
        record = load_training_checkpoint(file).get("gcp")
    except GCPError:
        return {}
    return record if isinstance(record, Mapping) else {}


def trained_on(name: str, file: str) -> Mapping[str, Any]:
    """The `data_record` of weights; empty where they have none.

    Args:
        name: registered name, model folder or ``hf-hub:`` id.
        file: the checkpoint that they are loaded from; '' for those that belong to the name.
    """
    if file:
        data = _record_in(Path(file)).get("data")
    else:
        folder = _folder_of(source_of(name))
        data = training_record(folder).get("data") if folder else None
    return data if isinstance(data, Mapping) else {}


def _folder_of(source: str) -> str | None:
    """The model folder of ``local-dir:`` or, where it was downloaded, of an ``hf-hub:`` id; None for other weights."""
    kind, _, place = source.partition(":")
    if kind == "local-dir":
        return place
    if kind != "hf-hub":
        return None
    repository, _, revision = place.partition("@")
    config = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    return os.path.dirname(config) if isinstance(config, str) else None


def backbone_data(start: Any) -> Mapping[str, Any]:
    """The `data_record` that the weights below the head were trained on; empty where none is known.

    A probe, and a run with ``--train-only``, leave the backbone as it was, so the record of its own start counts. A
    record that does not say which part was trained is of a run that trained all of it.

    Args:
        start: as from `origin_of_weights`.
    """
    while isinstance(start, Mapping) and start.get("trained", ALL) != ALL:
        start = start.get("started_from")
    data = start.get("data") if isinstance(start, Mapping) else None
    return data if isinstance(data, Mapping) else {}


def _of_folder(folder: Path, cfg: Mapping[str, Any]) -> dict[str, Any]:
    training = training_record(folder)
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    known = {
        "name": folder.resolve().name,
        "architecture": cfg.get("architecture"),
        "tag": cfg.get("tag") or None,
        "license": cfg.get("license"),
        "sha256": sha256_of(file) if file else None,
        **{key: training.get(key) for key in _RECORDED},
    }
    return _without_none(known)


def _checksum(cfg: Mapping[str, Any]) -> str | None:
    """The sha256 of the file in which timm found the weights of a cfg; None if it is not on this machine."""
    files: list[Any] = [cfg.get("file")]
    if cfg.get("hf_hub_id"):
        repository, _, revision = str(cfg["hf_hub_id"]).partition("@")
        names = [cfg["hf_hub_filename"]] if cfg.get("hf_hub_filename") else _FILES
        files += [try_to_load_from_cache(repository, name, revision=revision or None) for name in names]
    if isinstance(cfg.get("url"), str):
        files.append(Path(torch.hub.get_dir()) / "checkpoints" / cfg["url"].rpartition("/")[2])
    found = next((Path(f) for f in files if isinstance(f, (str, Path)) and Path(f).is_file()), None)
    return sha256_of(found) if found else None


def data_record(options: TrainingDataOptions, train: Any, evaluation: Any, classes: int) -> dict[str, Any]:
    """Name of the data set, number of classes, images of each split, and what was held out of the training images.

    Args:
        options: of the data, with the names of the splits filled in.
        train: images that are trained on.
        evaluation: images that are evaluated, or None.
        classes: number of classes.
    """
    sets = [(options.train_split, train), (options.val_split, evaluation)]
    record: dict[str, Any] = {
        **name_of_data(options),
        "classes": classes,
        "images": {split: len(data) for split, data in sets if data is not None and hasattr(data, "__len__")},
    }
    if options.held_out:
        record["held_out"] = {"fraction": options.val_fraction, "seed": options.val_seed, "split": options.val_split}
    return record


def name_of_data(options: DatasetOptions) -> dict[str, str]:
    """Name and kind of a data set in a `data_record`."""
    folder = Path(options.data_dir).resolve().name if options.data_dir else None
    named = folder if options.dataset in ("", "list", *MULTI_LABEL_SETS) and folder else options.dataset
    return {"name": named, "kind": options.dataset or "image folders"}


def is_of_data(data: Mapping[str, Any], options: DatasetOptions) -> bool:
    """Whether a `data_record` has the name and kind of a data set; not for an empty one.

    Args:
        data: of weights (`trained_on`, `backbone_data`).
        options: that name the data set.
    """
    return all(data.get(key) == value for key, value in name_of_data(options).items())


def data_of(run: Run) -> dict[str, Any]:
    """The `data_record` of a run."""
    return data_record(run.options, run.data.train, run.data.evaluation, run.data.num_classes)


def about(run: Run, result: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run in the configuration of its model folder (`timm_gcp.models.folder.save_folder`)."""
    data, last = data_of(run), result["segments"][-1]
    shown = ("first_epoch", "last_epoch", "started", "versions")
    training = {
        "data": data,
        "trained": run.options.train_only or ALL,
        "started_from": run.started_from,
        "epochs": result["epochs"],
        "best_epoch": result["epoch"],
        "date": str(last.get("started") or "")[:10],
        "command": without_places(last.get("command") or ""),
        "versions": last.get("versions"),
        "segments": [
            {**{key: each.get(key) for key in shown}, "command": without_places(each.get("command") or "")}
            for each in result["segments"]
        ],
    }
    return {"description": f"Trained with timm-gcp on {data_text(data)}.", "training": training}


def origin_text(training: Mapping[str, Any]) -> str:
    """The section of a card that says how a model was trained; Markdown."""
    lines = [
        f"Trained with `timm-gcp train` on {data_text(training['data'])}; {training['date']}.",
        f"Started from {start_text(training['started_from'])}.",
        "No licence is recorded for the weights in this folder.",
    ]
    return "\n".join(lines) + f"\n\n```bash\n{training['command']}\n```"


def data_text(data: Mapping[str, Any]) -> str:
    """A `data_record` as a part of a sentence."""
    counts = ", ".join(
        f"{count} images" + (f" in '{split}'" if split else "") for split, count in data["images"].items()
    )
    if held := data.get("held_out"):
        counts += f", held out by --val-fraction {held['fraction']:g} --val-seed {held['seed']}"
    return f"{data['name']} ({data['classes']} classes{', ' if counts else ''}{counts})"


def start_text(start: Any) -> str:
    """What `started_from` gave, as a part of a sentence; Markdown."""
    if not isinstance(start, Mapping):
        return str(start) if start != NOT_RECORDED else "weights that are not recorded"
    text = f"`{start.get('name')}`"
    if start.get("source"):
        text += f" ({start['source']})"
    text += f", licence {start['license']}" if start.get("license") else ", licence not recorded"
    text += f", sha256 `{start['sha256']}`" if start.get("sha256") else ""
    if isinstance(start.get("data"), Mapping):
        text += f", trained on {start['data'].get('name')}"
    earlier = start.get("started_from")
    return f"{text}, which started from {start_text(earlier)}" if earlier else text


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
