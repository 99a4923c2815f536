"""How a model folder was trained, from the ``result.json`` of its run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import GCPError
from ..text import without_places

__all__ = ["read_recipe"]


def read_recipe(folder: Path) -> Mapping[str, Any] | None:
    """The record of the run that wrote a model folder; None if the folder is not inside a run folder.

    Args:
        folder: model folder.

    Returns:
        The content of ``result.json``; absolute paths in ``command`` are shortened to their last part.

    Raises:
        GCPError: the ``result.json`` was not written by ``timm-gcp train`` or ``probe``.
    """
    path = folder.absolute().parent / "result.json"
    if not path.exists():
        return None
    try:
        result: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {**result, "command": without_places(result["command"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GCPError(
            f"{path} was not written by timm-gcp train or probe ({error}); restore it, or move the model folder "
            "elsewhere."
        ) from error
