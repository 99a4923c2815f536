"""The files of a repository on the Hub, made from a row of the manifest and a file of weights, and checked."""

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import CommitOperationAdd
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from timm_gcp import GCPError
from timm_gcp.models.folder import save_folder
from timm_gcp.sharing.card import CURVES
from timm_gcp.sharing.recipe import read_recipe
from timm_gcp.text import one_line
from timm_gcp.weights.manifest import Checkpoint
from timm_gcp.weights.resolve import resolve

from .logits import load_folder, logits_of, same_logits
from .model_card import render_card

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

_DATA_KEYS = ("input_size", "interpolation", "crop_pct", "mean", "std")


@dataclass(frozen=True)
class Staged:
    """The files of a repository, ready to be committed.

    Attributes:
        row: the row of the manifest, with checksum and size of the weights.
        files: weights, configuration, card, and training curves if there are any.
        card: the text of the card.
        model: the model that the row describes, with the weights, for comparison with the downloaded one.
    """

    row: Checkpoint
    files: tuple[CommitOperationAdd, ...]
    card: str
    model: nn.Module


def stage(row: Checkpoint, repo: str, *, folder: Path | None, curves: Path | None) -> Staged:
    """Makes the files of a repository and checks that they belong together.

    Args:
        row: the row of the manifest.
        repo: ``org/name``.
        folder: model folder with the weights; None takes the weights that the row itself resolves to.
        curves: PNG file of the training curves; None for none.

    Raises:
        GCPError: the weights cannot be found or do not fit the row, or the folder differs from the row.
    """
    if not timm.is_model(row.architecture):
        raise GCPError(f"No model '{row.architecture}' is registered; correct the row's name or register its backbone.")
    if curves is not None and not (curves.is_file() and curves.suffix == ".png"):
        raise GCPError(f"{curves} is not a PNG file; give the curves.png of the run.")
    weights = resolve(row) if folder is None else _of_folder(row, folder)
    large = CommitOperationAdd(WEIGHTS, str(weights))
    sha256, size = large.upload_info.sha256.hex(), large.upload_info.size
    if row.package is not None and row.sha256 != sha256:
        raise GCPError(
            f"These weights are not those of '{row.name}' in the package (sha256 {sha256[:12]}… instead of "
            f"{str(row.sha256)[:12]}…); publish the packaged ones, or run `python -m hub package` first."
        )
    row = dataclasses.replace(row, sha256=sha256, size=size)
    model = _model(row, weights)
    if folder is not None and not same_logits(
        logits_of(model, row.input_size), logits_of(load_folder(folder), row.input_size)
    ):
        raise GCPError(
            f"{folder} and the row '{row.name}' give different logits with the same weights; put the folder's "
            f"arguments ({_config(folder).get('model_args', {})}) into the row."
        )
    card = render_card(
        row,
        repo=repo,
        parameters=sum(p.numel() for p in model.parameters()),
        recipe=read_recipe(folder) if folder is not None else None,
        curves=curves is not None,
    )
    files = [
        large,
        CommitOperationAdd(CONFIG, _configuration(row, model)),
        CommitOperationAdd("README.md", card.encode()),
    ]
    if curves is not None:
        files.append(CommitOperationAdd(CURVES, str(curves)))
    return Staged(row, tuple(files), card, model)


def _of_folder(row: Checkpoint, folder: Path) -> Path:
    """The weights of a model folder, whose configuration must agree with the row."""
    if not (folder / WEIGHTS).is_file():
        raise GCPError(f"{folder} has no {WEIGHTS}; give a model folder as `timm-gcp train` writes it.")
    config = _config(folder)
    data = config.get("pretrained_cfg", {})
    # The keys are fields of the row. Preprocessing that the folder does not give is not compared; classes always are.
    given = {key: config.get(key) for key in ("architecture", "num_classes", "label_names")}
    given.update({key: data[key] for key in _DATA_KEYS if data.get(key) is not None})
    expected = {key: _plain(getattr(row, key)) for key in given}
    wrong = [f"{key} {given[key]} instead of {expected[key]}" for key in given if given[key] != expected[key]]
    if wrong:
        raise GCPError(f"{folder} does not belong to the row '{row.name}' ({'; '.join(wrong)}); correct the row.")
    return folder / WEIGHTS


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GCPError(f"{folder} has no readable {CONFIG} ({error}); give a model folder.") from error
    return config


def _model(row: Checkpoint, weights: Path) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(row.architecture, num_classes=row.num_classes, **row.model_args)
        model.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError, TypeError) as error:
        raise GCPError(
            f"{weights} does not fit {row.architecture} with {row.num_classes} classes and {dict(row.model_args)} "
            f"({one_line(error)[:200]}); correct the row's model_args."
        ) from error
    return model.eval()


def _configuration(row: Checkpoint, model: nn.Module) -> bytes:
    """The ``config.json`` of a row, in timm's format."""
    described = {"tag": row.tag, "license": row.licence, "origin_url": row.origin_url, "description": row.description}
    # The default tag of the architecture may be another row, with other class names.
    plain: Any = model
    plain.pretrained_cfg = {**model.pretrained_cfg, "label_names": None}  # type: ignore[dict-item]
    with tempfile.TemporaryDirectory() as scratch:
        written = save_folder(
            plain,
            Path(scratch) / "model",
            class_names=row.label_names,
            data_config={key: _plain(getattr(row, key)) for key in _DATA_KEYS},
            about=described,
        )
        config = _config(written)
    # Exactly the row's arguments: verify compares them.
    config.pop("model_args", None)
    if row.model_args:
        config["model_args"] = _plain(row.model_args)
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _plain(value: object) -> Any:
    """A value as it is after a round trip through JSON."""
    return json.loads(json.dumps(dict(value) if isinstance(value, Mapping) else value))
