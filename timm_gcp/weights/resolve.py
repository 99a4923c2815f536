"""Finds or downloads the weights file of a row of the manifest."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import save_file

from ..errors import GCPError
from ..files import sha256_of, written_aside
from ..text import first_line
from .download import download
from .google_drive import page_address
from .manifest import Checkpoint, Upstream
from .upstream import read_published

__all__ = ["arguments_of", "cache_folder", "resolve"]

_FILE = "model.safetensors"
_ARGUMENTS = "model_args"


def resolve(row: Checkpoint) -> Path:
    """Finds the file with a checkpoint's weights in our layout; downloads and converts it if necessary.

    The places are tried in this order: the folder that ``TIMM_GCP_ZOO`` names (``<name>/model.safetensors`` or
    ``<name>.safetensors``), the package, the Hugging Face Hub at the row's revision, the authors' release. A downloaded
    file is checked against the row's sha256 and kept in the cache of huggingface_hub or, converted, in
    ``cache_folder``.

    Args:
        row: of the manifest.

    Returns:
        A safetensors file.

    Raises:
        GCPError: the file cannot be had; the message says what was tried and what to do.
    """
    local = _in_zoo_folder(row)
    if local is not None:
        return local
    if row.package is not None:
        return _in_package(row, row.package)
    if row.hub is not None:
        return _on_hub(row, row.hub)
    if row.upstream is not None:
        return _from_upstream(row, row.upstream)
    raise GCPError(f"{row.name} is not published yet; put its weights at TIMM_GCP_ZOO/{row.name}.safetensors.")


def cache_folder() -> Path:
    """The folder of converted checkpoints: ``timm_gcp`` in huggingface_hub's home (``HF_HOME``)."""
    return Path(constants.HF_HOME) / "timm_gcp"


def arguments_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the arguments of ``timm.create_model`` that were found in a checkpoint when it was converted.

    Args:
        path: a file that ``resolve`` returned.
    """
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get(_ARGUMENTS, "{}"))


def _in_zoo_folder(row: Checkpoint) -> Path | None:
    folder = os.environ.get("TIMM_GCP_ZOO")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise GCPError(f"TIMM_GCP_ZOO names {folder}, which is no folder; correct it or unset it.")
    for path in (Path(folder) / row.name / _FILE, Path(folder) / f"{row.name}.safetensors"):
        if path.is_file():
            return path
    return None


def _in_package(row: Checkpoint, name: str) -> Path:
    path = Path(str(resources.files(__package__) / "zoo" / name))
    if not path.is_file():
        raise GCPError(f"The package lacks its weights of {row.name}; install it again.")
    _check(path, row, "the package's file; install the package again")
    return path


def _on_hub(row: Checkpoint, hub: str) -> Path:
    repository, _, revision = hub.partition("@")
    by_hand = f"download {_FILE} of {repository} by hand and put it at TIMM_GCP_ZOO/{row.name}.safetensors"
    try:
        path = Path(hf_hub_download(repository, _FILE, revision=revision, etag_timeout=8))
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "there is no connection to the Hub"
        raise GCPError(f"{row.name} is not in the cache and {why}; connect once, or {by_hand}.") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise GCPError(f"The Hub did not give {row.name} ({first_line(error)}); try again, or {by_hand}.") from error
    try:
        _check(path, row, f"what the Hub gave for {hub}; try again")
    except GCPError:
        # Remove it from the cache: the next call would trust it.
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise
    return path


def _check(path: Path, row: Checkpoint, what: str) -> None:
    if row.sha256 is not None and sha256_of(path) != row.sha256:
        raise GCPError(f"The weights of {row.name} have another sha256 than the manifest says: {what}.")


def _from_upstream(row: Checkpoint, upstream: Upstream) -> Path:
    source = upstream.source
    # The hash tells this file from that of an earlier version of the row.
    target = cache_folder() / f"{row.name}-{hashlib.sha256(source.encode()).hexdigest()[:8]}.safetensors"
    with _one_process(target):
        if not target.is_file():
            raw = target.with_suffix(".upstream")
            scheme, _, name = source.partition(":")
            place = page_address(name) if scheme == "drive" else source
            download(
                source,
                raw,
                sha256=upstream.sha256,
                size=upstream.size,
                what=f"The checkpoint of {row.name}",
                remedy=f"download it by hand from {place}, convert it with timm-gcp convert FILE --model "
                f"{row.architecture} --out DIR, and load local-dir:DIR",
            )
            try:
                _convert(raw, row, target)
            finally:
                raw.unlink(missing_ok=True)
    return target


def _convert(raw: Path, row: Checkpoint, target: Path) -> None:
    published = read_published(raw)
    backbone = row.architecture.rpartition("_")[0]
    if (published.backbone, published.num_classes) != (backbone, row.num_classes):
        raise GCPError(
            f"What is published for {row.name} is a {published.backbone} of {published.num_classes} classes, so the "
            f"manifest is wrong; convert it with timm-gcp convert FILE --model {published.backbone}_isqrt --out DIR."
        )
    weights = {key: value.contiguous() for key, value in published.state_dict().items()}
    with written_aside(target) as aside:
        save_file(weights, aside, metadata={"format": "pt", _ARGUMENTS: json.dumps(dict(published.model_args))})


@contextlib.contextmanager
def _one_process(target: Path) -> Iterator[None]:
    """Lets one process at a time write a file; the others wait and then find it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            yield
    except OSError as error:
        why = error.strerror or error
        raise GCPError(f"{target.parent} cannot be written ({why}); set HF_HOME to another folder.") from error
