"""Writes a model as an ONNX file, and keeps the file only if it gives the logits of the model in onnxruntime."""

import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GCPError
from ..files import check_output, make_parents, written_aside
from ..models.deepcopy import copy_model
from ..text import first_line
from .pool import with_eigenfree_pools

__all__ = ["check_ready", "export_onnx"]

_OLDEST_OPSET = 18
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def check_ready(path: str | os.PathLike[str]) -> None:
    """Checks, before any work is done, that a file can be exported to a path.

    Raises:
        GCPError: a package is not installed, or the path cannot be written.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise GCPError(f"The export needs packages that are not installed: pip install {' '.join(missing)}.")
    check_output(path, binary=True)


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    images: Tensor,
    *,
    batch_size: int = 4,
    tolerance: float = 1e-3,
    opset: int = 18,
    metadata: Mapping[str, str] | None = None,
) -> float:
    """Exports a classifier for any number of images of one size; input ``images``, output ``logits``.

    The covariance pools of the file are those of ``onnx.pool``, since ONNX has no eigensolver. The check compares the
    logits of the file in onnxruntime with those of the model in torch, with its eigensolver. The file appears under
    its name only after it has passed the check, and replaces an existing one.

    Args:
        model: any classifier, with covariance pooling or without, on any device.
        path: the file to write; missing folders are made.
        images: the images for the check, ``[N, channels, height, width]``, float32, preprocessed.
        batch_size: images per batch in the check, at least 1; the first image is also checked alone. The model is
            traced with another batch size, so that the check also covers sizes that were not traced.
        tolerance: largest allowed difference of a logit, as a share of the largest logit.
        opset: version of the ONNX operators, at least 18.
        metadata: entries of the file's metadata.

    Returns:
        The largest difference, as a share of the largest logit.

    Raises:
        GCPError: a package is missing, the model cannot be exported, or the file does not pass.
    """
    check_ready(path)
    reference = copy_model(model).cpu().eval()
    batches = [*torch.split(images.cpu(), batch_size), images[:1].cpu()]
    with torch.no_grad():
        expected = torch.cat([reference(batch) for batch in batches])
        twin = with_eigenfree_pools(reference)
        twin(batches[-1])  # before the trace: refuses a method that needs an eigensolver, and draws its constants
    sample = images[torch.arange(batch_size + 1) % len(images)].cpu()
    proto = _converted(twin, sample, opset)
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)

    make_parents(path)
    with written_aside(path) as scratch:
        scratch.write_bytes(proto.SerializeToString())
        return _checked(_logits(scratch, batches), expected, tolerance)


def _converted(model: nn.Module, sample: Tensor, opset: int) -> Any:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not _OLDEST_OPSET <= opset <= newest:
        raise GCPError(
            f"There is no export at opset {opset} with the installed onnx; {_OLDEST_OPSET} to {newest} exist."
        )
    try:
        program = torch.onnx.export(
            model,
            (sample,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=opset,
            verbose=False,
        )
        assert program is not None
        proto = program.model_proto
        written = next(entry.version for entry in proto.opset_import if entry.domain == "")
        if written != opset:  # a failed conversion returns the model unchanged and logs a line
            raise RuntimeError(f"it stays at opset {written}")
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # the exporter and the checker may raise anything
        cause = error.__cause__ or error
        raise GCPError(
            f"This {type(model).__name__} cannot be exported at opset {opset} ({first_line(cause)}); try another "
            "--opset, or another version of torch."
        ) from error
    return proto


def _logits(path: Path, batches: Iterable[Tensor]) -> Tensor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; its warnings are about speed
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        outputs = [session.run(["logits"], {"images": batch.numpy()})[0] for batch in batches]
        return torch.cat([torch.from_numpy(output) for output in outputs])
    except Exception as error:  # onnxruntime has an exception class for every status
        raise GCPError(
            f"onnxruntime cannot run the exported file ({first_line(error)}), so it was not kept; try another --opset."
        ) from error


def _checked(logits: Tensor, expected: Tensor, tolerance: float) -> float:
    """The largest difference as a share of the largest logit.

    Raises:
        GCPError: it is above the tolerance, or an image falls into another class.
    """
    if logits.shape != expected.shape:
        raise GCPError(
            f"The exported file gives logits of shape {list(logits.shape)} where the model gives "
            f"{list(expected.shape)}, so it was not kept; another version of torch may export it."
        )
    largest = float(expected.abs().max())
    difference = float((logits - expected).abs().max()) / (largest or 1.0)
    if not difference <= tolerance:
        raise GCPError(
            f"The exported file differs from the model by {difference:.1e} of the largest logit, more than the "
            f"tolerance of {tolerance:.1e}, so it was not kept; a larger --tolerance keeps it."
        )
    moved = int((logits.argmax(-1) != expected.argmax(-1)).sum())
    if moved:
        raise GCPError(
            f"The exported file puts {moved} of {len(expected)} images into another class than the model, so it was "
            "not kept; give --images that the model can tell apart."
        )
    return difference
