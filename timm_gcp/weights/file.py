"""Files with weights: read without trusting them, loaded only where they fit."""

import argparse
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import clean_state_dict, load_state_dict
from torch import Tensor, nn

from ..errors import GCPError
from ..text import some_of

__all__ = ["load_file", "load_weights", "read_weights", "weights_of"]


def load_file(path: str | os.PathLike[str]) -> Any:
    """What ``torch.save`` wrote, on the CPU; nothing in the file is executed, and nothing unpacked beyond its size.

    Raises:
        GCPError: no such file, a damaged one, or one that holds pickled objects.
    """
    file = Path(path)
    if file.is_dir():
        raise GCPError(f"{path} is a folder; give a checkpoint file in it, such as {file / 'last.pth.tar'}.")
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


def _refuse_compressed(file: Path) -> None:
    # torch.save stores its entries as they are; compressed ones could unpack to any size.
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


def read_weights(path: str | os.PathLike[str], use_ema: bool = False) -> dict[str, Tensor]:
    """The state dict of a checkpoint or weights file (``.safetensors`` too), without wrapper prefixes.

    Args:
        path: the file.
        use_ema: averaged weights where the file has them.

    Raises:
        GCPError: as ``load_file``, or a file without weights.
    """
    if str(path).endswith(".safetensors") and Path(path).is_file():
        try:
            return load_state_dict(str(path))
        except Exception as error:  # safetensors raises its own error class
            raise GCPError(f"{path} is damaged or not a safetensors file; use another one.") from error
    return weights_of(load_file(path), path, use_ema)


def weights_of(checkpoint: Any, path: str | os.PathLike[str], use_ema: bool = False) -> dict[str, Tensor]:
    """The state dict inside a loaded checkpoint; see ``read_weights``."""
    if isinstance(checkpoint, dict):
        for key in (*(("state_dict_ema", "model_ema") if use_ema else ()), "state_dict", "model"):
            if isinstance(checkpoint.get(key), dict):
                checkpoint = checkpoint[key]
                break
    if not isinstance(checkpoint, dict) or not checkpoint or not all(isinstance(key, str) for key in checkpoint):
        raise GCPError(f"{path} holds no weights.")
    weights = clean_state_dict(checkpoint)
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise GCPError(f"{path} holds no weights: neither a state dict nor a checkpoint with one.")
    return weights


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], source: str | os.PathLike[str], optional: tuple[str, ...] = ()
) -> None:
    """Loads weights that have to fit.

    Args:
        model: where to, not wrapped; one on the meta device takes the tensors themselves.
        weights: state dict.
        source: what the message calls it.
        optional: prefixes of keys that may be missing or left over.

    Raises:
        GCPError: keys or shapes differ; the message names the first of each kind and counts the rest.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in weights and not key.startswith(optional)]
    unexpected = [key for key in weights if key not in own and not key.startswith(optional)]
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
