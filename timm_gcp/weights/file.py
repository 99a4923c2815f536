"""Reads files with weights safely, and loads weights into a model that they fit."""

import argparse
import logging
import os
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from ..errors import GCPError
from ..text import printable, some_of

__all__ = [
    "EXTENSION",
    "check_sums",
    "has_average",
    "load_file",
    "load_training_checkpoint",
    "load_weights",
    "read_weights",
    "take_prefix",
    "weights_of",
    "without_prefix",
]

EXTENSION = ".pth.tar"
"""File name extension of training checkpoints, ours and timm's."""

_FILES = (EXTENSION, ".pth", ".pt", ".ckpt", ".bin", ".safetensors")
_WEIGHTS = ("state_dict", "model_state_dict", "model", "params", "weights", "net", "network", "module")
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema")
_DEEPEST = 3  # levels of nested keys that are searched
_WRAPPED = r"^((module|_orig_mod)\.)+"
_COUNTERS = ("n_averaged", "total_ops", "total_params")  # torch's AveragedModel, the profiler thop
_PREFIXES = ("model.", "net.", "network.", "backbone.")

_logger = logging.getLogger(__name__)


def load_file(path: str | os.PathLike[str]) -> Any:
    """Loads what ``torch.save`` wrote to the CPU. Nothing in the file is executed or decompressed.

    Args:
        path: the file.

    Raises:
        GCPError: no such file, a damaged one, or one that holds pickled objects.
    """
    file = Path(path)
    if file.is_dir():
        raise GCPError(f"{path} is {_folder(file)}")
    if not file.is_file():
        raise GCPError(f"There is no checkpoint {path}; check the path.")
    _refuse_compressed(file)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(file):
            raise GCPError(f"{path} holds pickled Python objects, which are not loaded; save it as tensors.") from error
        raise GCPError(f"{path} is damaged or not a PyTorch checkpoint; use another one.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise GCPError(f"{path} is damaged or not a PyTorch checkpoint; use another one.") from error


def _folder(folder: Path) -> str:
    """What a folder is that was given as a checkpoint, and what to give instead: the end of a message."""
    if (folder / "config.json").is_file():
        return "a model folder already, not a checkpoint; validate, predict and others take it by --model."
    if (folder / "model" / "config.json").is_file():
        return (
            f"a folder; the model folder {folder / 'model'} in it is what validate, predict and others take by --model."
        )
    files = sorted(file for file in folder.glob("*") if file.name.endswith(_FILES) and file.is_file())
    if files:
        return f"a folder; give a checkpoint file in it, such as {printable(files[-1])}."
    return "a folder, and no checkpoint is in it; give a checkpoint file."


def _refuse_compressed(file: Path) -> None:
    # torch.save does not compress its entries; compressed ones could unpack to any size.
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise GCPError(f"{file} is damaged or not a PyTorch checkpoint; use another one.") from error
    if not stored or size > file.stat().st_size:
        raise GCPError(f"{file} is a compressed archive, which PyTorch does not write; unpack it first.")


def check_sums(path: str | os.PathLike[str]) -> None:
    """Verifies the checksums in a checkpoint, which torch writes but does not verify.

    Args:
        path: the file.

    Raises:
        GCPError: the file is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip() is not None
    except (zipfile.BadZipFile, OSError) as error:
        raise GCPError(f"{path} is damaged; use another checkpoint.") from error
    if damaged:
        raise GCPError(f"{path} is damaged; use another checkpoint.")


def read_weights(path: str | os.PathLike[str], use_ema: bool = False) -> dict[str, Tensor]:
    """Reads the state dict of a checkpoint or weights file (also ``.safetensors``): see ``weights_of``.

    Args:
        path: the file.
        use_ema: take averaged weights if the file has them.

    Raises:
        GCPError: as ``load_file``, or the file has no weights.
    """
    if str(path).endswith(".safetensors") and Path(path).is_file():
        try:
            return _without_wrappers(load_state_dict(str(path)), path)
        except Exception as error:  # safetensors raises its own error class
            raise GCPError(f"{path} is damaged or not a safetensors file; use another one.") from error
    return weights_of(load_file(path), path, use_ema)


def has_average(checkpoint: Any) -> bool:
    """Whether a loaded checkpoint holds averaged weights under a key of their own."""
    return isinstance(checkpoint, dict) and any(isinstance(checkpoint.get(key), dict) for key in _AVERAGES)


def weights_of(checkpoint: Any, path: str | os.PathLike[str], use_ema: bool = False) -> dict[str, Tensor]:
    """Finds the state dict in a loaded checkpoint, under any of the usual keys.

    The prefixes of wrappers (``module.`` of DDP, ModelEmaV3 and torch's AveragedModel, ``_orig_mod.`` of torch.compile)
    are removed; what wrappers and profilers add (``n_averaged``, ``total_ops``, ``total_params``) is left out with a
    warning. Averaged weights are taken if there are no others.

    Args:
        checkpoint: what ``load_file`` returned.
        path: the file, for messages.
        use_ema: take averaged weights if the checkpoint has them.

    Raises:
        GCPError: there are no weights.
    """
    first, second = (_AVERAGES, _WEIGHTS) if use_ema else (_WEIGHTS, _AVERAGES)
    for depth in range(_DEEPEST):
        if not isinstance(checkpoint, dict):
            break
        keys = [key for key in (*first, *second) if isinstance(checkpoint.get(key), dict)]
        if not keys:
            break
        if depth == 0 and not use_ema and keys[0] in _AVERAGES:
            _logger.warning("%s: took the averaged weights '%s'; it holds no others.", path, keys[0])
        checkpoint = checkpoint[keys[0]]
    if not isinstance(checkpoint, dict) or not checkpoint or not all(isinstance(key, str) for key in checkpoint):
        raise GCPError(f"{path} holds no weights.")
    if not all(isinstance(value, Tensor) for value in checkpoint.values()):
        raise GCPError(f"{path} holds no weights: neither a state dict nor a checkpoint with one.")
    return _without_wrappers(checkpoint, path)


def _without_wrappers(state_dict: Mapping[str, Tensor], path: str | os.PathLike[str]) -> dict[str, Tensor]:
    weights, left = {}, []
    for key, value in state_dict.items():
        inner = re.sub(_WRAPPED, "", key)
        if inner.rpartition(".")[2] in _COUNTERS:
            left.append(key)
        else:
            weights[inner] = value
    if left and weights:
        _logger.warning("%s: left out %s, which count and are no weights.", path, some_of(left, 3))
    return weights or dict(state_dict)


def without_prefix(
    weights: Mapping[str, Tensor], model: nn.Module, source: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """Removes the prefix under which a wrapper (Lightning's ``model.``, ``net.``, ``backbone.``, …) keeps a model.

    Weights without such a prefix are returned unchanged. A warning says what was taken and what was left out.

    Args:
        weights: state dict.
        model: the model that the weights are for.
        source: what messages call the file.

    Raises:
        GCPError: the weights contain the model several times, under prefixes of which none is usual.
    """
    own = model.state_dict().keys()
    counts: Counter[str] = Counter()
    for key in weights:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in own:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    if 2 * most <= len(own) or "" in best:
        return dict(weights)
    return take_prefix(weights, best, source)


def take_prefix(
    weights: Mapping[str, Tensor], prefixes: Sequence[str], source: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """Takes the entries under a wrapper's prefix and removes it. A warning says what was taken and what was left out.

    Args:
        weights: state dict.
        prefixes: each of them holds a whole model; of several, a usual one is taken.
        source: what messages call the file.

    Raises:
        GCPError: there are several prefixes, of which none is usual.
    """
    usual = [prefix for prefix in _PREFIXES if prefix in prefixes]
    if len(prefixes) > 1 and not usual:
        raise GCPError(
            f"{source} holds the model several times ({some_of(prefixes, 3)}); save the weights that you want alone."
        )
    prefix = (usual or prefixes)[0]
    taken = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    left = [key for key in weights if not key.startswith(prefix)]
    beside = f", and left {some_of(left, 3)}" if left else ""
    _logger.warning("%s: took the %d entries under '%s'%s.", source, len(taken), prefix, beside)
    return taken


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], source: str | os.PathLike[str], optional: tuple[str, ...] = ()
) -> None:
    """Loads weights into a model; names and shapes must agree.

    Args:
        model: the model, without wrappers; one on the meta device shares the tensors.
        weights: state dict, also under a wrapper's prefix (see ``without_prefix``).
        source: what the message calls the file.
        optional: prefixes of keys that may be missing or unexpected.

    Raises:
        GCPError: keys or shapes differ; the message names the first of each kind and counts the rest.
    """
    weights = without_prefix(weights, model, source)
    own = model.state_dict()
    missing = [key for key in own if key not in weights and not key.startswith(optional)]
    ignored = (*optional, *getattr(model, "removed_layers", ()))
    unexpected = [key for key in weights if key not in own and not key.startswith(ignored)]
    shapes = [
        f"{key} ({_shape(weights[key])}, not {_shape(own[key])})"
        for key in own
        if key in weights and weights[key].shape != own[key].shape and not key.startswith(optional)
    ]
    parts = [
        f"{title} {some_of(keys, 3)}"
        for title, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if parts:
        name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture", type(model).__name__)
        raise GCPError(
            f"{source} is not a checkpoint of this {name} with {getattr(model, 'num_classes', '?')} classes "
            f"({'; '.join(parts)}); give the model, number of classes and arguments that it was trained with."
        )
    fitting = {key: value for key, value in weights.items() if key in own and value.shape == own[key].shape}
    model.load_state_dict(fitting, strict=False, assign=any(tensor.is_meta for tensor in own.values()))


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def load_training_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint of a training run, ours or that of timm's ``train.py``, to the CPU.

    Nothing in the file is executed: ``weights_only=True``, with ``argparse.Namespace`` allowed.

    Args:
        path: the file.

    Raises:
        GCPError: no such file, a damaged one, one that holds pickled objects, or not a training checkpoint.
    """
    checkpoint = load_file(path)
    check_sums(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise GCPError(f"{path} is not a checkpoint of a training run: it holds no 'state_dict'.")
    if not isinstance(checkpoint.get("epoch"), int):
        raise GCPError(f"{path} is not a checkpoint of a training run: it holds no 'epoch'.")
    return checkpoint
