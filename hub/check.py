"""What a revision on the Hub really gives: downloaded afresh, compared by checksum, loaded by timm."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download
from torch import nn

from timm_gcp import GCPError

from .remote import attempt

TOLERANCE = 1e-5
"""Largest difference of two models' logits that counts as none, as a share of the largest logit."""


def download(repo: str, revision: str, names: Iterable[str], cache: Path) -> dict[str, Path]:
    """Downloads files of one revision into a cache that holds nothing of it yet.

    Raises:
        GCPError: a file is not there, or the Hub cannot be reached.
    """
    files = {}
    for name in names:
        fetch = partial(hf_hub_download, repo, name, revision=revision, cache_dir=cache)
        files[name] = Path(str(attempt(fetch, f"downloading {name} of {repo}@{revision[:12]}")))
    return files


def load(repo: str, revision: str, cache: Path) -> nn.Module:
    """The model as ``timm.create_model('hf-hub:…', pretrained=True)`` builds it from downloaded files.

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
    except Exception as error:  # timm, torch and safetensors raise all kinds
        reason = (str(error) or type(error).__name__).strip().split("\n")[0].rstrip(".")
        raise GCPError(f"timm cannot load {name} ({reason}); its config.json does not fit its weights.") from error
    return model.eval()


def logits_of(model: nn.Module, input_size: tuple[int, int, int]) -> torch.Tensor:
    """Logits of a fixed batch of noise."""
    batch = torch.randn(2, *input_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits: torch.Tensor = model(batch)
    return logits


def same_logits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two models' logits agree; logits that are not finite agree with none."""
    if one.shape != other.shape or not (one.isfinite().all() and other.isfinite().all()):
        return False
    return bool((one - other).abs().max() <= TOLERANCE * one.abs().max())
