"""Checkpoints of a run: written so that a kill at any moment loses nothing, and read without trusting them."""

import argparse
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import clean_state_dict, load_state_dict
from timm.utils import CheckpointSaver, get_state_dict
from torch import Tensor, nn

from ..errors import GCPError

__all__ = ["RunSaver", "load_file", "load_training_checkpoint", "load_weights", "read_weights", "save_atomically"]

EXTENSION = ".pth.tar"


def _sync_folder(folder: str | os.PathLike[str]) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_atomically(path: str | os.PathLike[str], write: Callable[[Any], None]) -> None:
    """Writes a file under a temporary name beside it, brings it to the disk, then puts it in place.

    Args:
        path: the file.
        write: writes the content to the binary file it is given.
    """
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(scratch, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, target)
        _sync_folder(target.parent)
    finally:
        scratch.unlink(missing_ok=True)


class RunSaver(CheckpointSaver):
    """timm's saver for a run in two phases, without a moment in which ``last`` is missing.

    Files in the run folder: ``last``, ``model_best`` and the ``checkpoint-<epoch>`` of the history. Epochs saved
    without a metric (those of the warm phase) never count as the best; they fill the places of the history that ranked
    ones leave, newest first.

    Args:
        model: the model, wrapped or not.
        optimizer: its optimiser.
        args: arguments of the run.
        folder: the run folder.
        extra: what else a checkpoint holds, asked for at every save; plain values and tensors only.
        decreasing: a lower metric is better.
        max_history: numbered checkpoints to keep.
        model_ema: average of the weights, or None.
        amp_scaler: gradient scaler, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        args: argparse.Namespace,
        folder: str | os.PathLike[str],
        extra: Callable[[], Mapping[str, Any]],
        *,
        decreasing: bool = False,
        max_history: int = 10,
        model_ema: nn.Module | None = None,
        amp_scaler: Any = None,
    ) -> None:
        super().__init__(
            model,
            optimizer,
            args=args,
            model_ema=model_ema,
            amp_scaler=amp_scaler,
            checkpoint_dir=str(folder),
            recovery_dir=str(folder),
            decreasing=decreasing,
            max_history=max_history,
        )
        self.extra = extra
        self.unranked: list[str] = []

    def path(self, name: str) -> str:
        """Path of ``last``, ``model_best`` or ``checkpoint-<epoch>``."""
        return os.path.join(self.checkpoint_dir, name + EXTENSION)

    def _save(self, save_path: str, epoch: int, metric: float | None = None) -> None:
        state: dict[str, Any] = {
            "epoch": epoch,
            "arch": self.args.model,
            "args": self.args,
            "state_dict": get_state_dict(self.model, self.unwrap_fn),
            "optimizer": self.optimizer.state_dict(),
            "version": 2,
        }
        if self.amp_scaler is not None:
            state[self.amp_scaler.state_dict_key] = self.amp_scaler.state_dict()
        if self.model_ema is not None:
            state["state_dict_ema"] = get_state_dict(self.model_ema, self.unwrap_fn)
        if metric is not None:
            state["metric"] = metric
        better = metric is not None and (self.best_metric is None or self.cmp(metric, self.best_metric))
        state["best"] = {"epoch": epoch, "metric": metric} if better else {
            "epoch": self.best_epoch, "metric": self.best_metric,
        }  # fmt: skip
        state["history"] = {
            "ranked": [(os.path.basename(file), value) for file, value in self.checkpoint_files],
            "unranked": [os.path.basename(file) for file in self.unranked],
        }
        state.update(self.extra())
        save_atomically(save_path, lambda file: torch.save(state, file))

    def _replace(self, src: str, dst: str) -> None:
        os.replace(src, dst)
        _sync_folder(self.checkpoint_dir)

    def _duplicate(self, src: str, dst: str) -> None:
        scratch = os.path.join(self.checkpoint_dir, f".link{self.extension}")
        if os.path.exists(scratch):
            os.unlink(scratch)
        try:
            os.link(src, scratch)
        except OSError:
            shutil.copy2(src, scratch)
        os.replace(scratch, dst)
        # A rename between two links of one file does nothing and leaves both.
        if os.path.exists(scratch):
            os.unlink(scratch)
        _sync_folder(self.checkpoint_dir)

    def save_checkpoint(self, epoch: int, metric: float | None = None) -> tuple[float | None, int | None]:
        """Saves ``last`` and the numbered checkpoint of an epoch; with a metric, ``model_best`` if it is the best.

        Args:
            epoch: the epoch that has been trained.
            metric: None for an epoch that must not be ranked.

        Returns:
            Metric and epoch of the best so far, or twice None.
        """
        if metric is None:
            self._save(self.path("last"), epoch)
            numbered = self.path(f"{self.save_prefix}-{epoch}")
            self._duplicate(self.path("last"), numbered)
            self.unranked.insert(0, numbered)
            best = self.best_metric, self.best_epoch
        else:
            best = super().save_checkpoint(epoch, metric)
        places = max(self.max_history - len(self.checkpoint_files), 0)
        for file in self.unranked[places:]:
            Path(file).unlink(missing_ok=True)
        self.unranked = self.unranked[:places]
        return best

    def resume(self, checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
        """Takes up the ranking of a run where a checkpoint left it, in the same folder or a new one.

        Args:
            checkpoint: the loaded checkpoint.
            path: its file; ``model_best`` of its folder comes along if it is the best up to this checkpoint.
        """
        source = Path(path).parent
        best = checkpoint.get("best") or {}
        best_file = source / f"model_best{EXTENSION}"
        if best.get("epoch") is not None:
            if best["epoch"] == checkpoint["epoch"]:
                self._bring(Path(path), "model_best")
            elif best_file.is_file() and load_training_checkpoint(best_file)["epoch"] == best["epoch"]:
                self._bring(best_file, "model_best")
            elif (numbered := source / f"{self.save_prefix}-{best['epoch']}{EXTENSION}").is_file():
                self._bring(numbered, "model_best")
            else:
                best = {}
        self.best_epoch, self.best_metric = best.get("epoch"), best.get("metric")
        history = checkpoint.get("history") or {}
        here = source.resolve() == Path(self.checkpoint_dir).resolve()
        own = f"{self.save_prefix}-{checkpoint['epoch']}{EXTENSION}"
        ranked, unranked = list(history.get("ranked", ())), list(history.get("unranked", ()))
        if checkpoint.get("metric") is None:
            unranked.insert(0, own)
        else:
            ranked.append((own, checkpoint["metric"]))
        if here:
            ranked.sort(key=lambda entry: entry[1], reverse=not self.decreasing)
            at = self.checkpoint_dir
            files = [(os.path.join(at, name), value) for name, value in ranked]
            self.checkpoint_files = [entry for entry in files if os.path.exists(entry[0])]
            self.unranked = [file for name in unranked if os.path.exists(file := os.path.join(at, name))]

    def _bring(self, source: Path, name: str) -> None:
        target = Path(self.path(name))
        if not (target.exists() and source.samefile(target)):
            save_atomically(target, lambda file: _copy(source, file))


def _copy(source: Path, file: Any) -> None:
    with open(source, "rb") as content:
        shutil.copyfileobj(content, file)


def load_training_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint of a training run, ours or that of timm's ``train.py``, to the CPU.

    Nothing in the file is executed: ``weights_only=True``, with ``argparse.Namespace`` allowed.

    Raises:
        GCPError: no such file, a damaged one, one that holds pickled objects, or no training checkpoint.
    """
    checkpoint = load_file(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise GCPError(f"{path} is not a checkpoint of a training run: it holds no 'state_dict'.")
    if not isinstance(checkpoint.get("epoch"), int):
        raise GCPError(f"{path} is not a checkpoint of a training run: it holds no 'epoch'.")
    return checkpoint


def load_file(path: str | os.PathLike[str]) -> Any:
    """What ``torch.save`` wrote, on the CPU; nothing in the file is executed, and nothing unpacked beyond its size.

    Raises:
        GCPError: no such file, a damaged one, or one that holds pickled objects.
    """
    file = Path(path)
    if file.is_dir():
        raise GCPError(f"{path} is a folder; give a checkpoint file in it, such as {file / ('last' + EXTENSION)}.")
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
        GCPError: as ``load_training_checkpoint``, or a file without weights.
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
        f"{title} {_some(keys)}"
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


def _some(keys: list[str], shown: int = 3) -> str:
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + more
