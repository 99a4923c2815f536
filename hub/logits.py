"""Models built from the Hub or from a model folder, and compared by their logits."""

from pathlib import Path

import timm
import torch
from torch import nn

from timm_gcp import GCPError
from timm_gcp.text import first_line

TOLERANCE = 1e-5
"""Largest difference between two models' logits that counts as equal, relative to the largest logit."""


def load_revision(repo: str, revision: str, cache: Path) -> nn.Module:
    """The model as ``timm.create_model('hf-hub:…', pretrained=True)`` builds it from downloaded files.

    Args:
        repo: ``org/name``.
        revision: commit id.
        cache: cache folder with the downloaded files.

    Raises:
        GCPError: timm cannot build or load it.
    """
    return _build(f"hf-hub:{repo}@{revision}", cache_dir=str(cache))


def load_folder(folder: Path) -> nn.Module:
    """The model of a model folder.

    Raises:
        GCPError: timm cannot build or load it.
    """
    return _build(f"local-dir:{folder}")


def _build(name: str, **arguments: str) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # timm, torch and safetensors raise many types
        raise GCPError(
            f"timm cannot load {name} ({first_line(error)}); its config.json does not fit its weights."
        ) from error
    return model.eval()


def logits_of(model: nn.Module, input_size: tuple[int, int, int]) -> torch.Tensor:
    """Logits ``[2, classes]`` of a fixed batch of noise.

    Args:
        model: in evaluation mode.
        input_size: channels, height, width.
    """
    batch = torch.randn(2, *input_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits: torch.Tensor = model(batch)
    return logits


def same_logits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether logits agree within `TOLERANCE`; never if some are not finite."""
    if one.shape != other.shape or not (one.isfinite().all() and other.isfinite().all()):
        return False
    return bool((one - other).abs().max() <= TOLERANCE * one.abs().max())
