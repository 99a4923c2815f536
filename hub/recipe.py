"""How a model folder was trained: the ``result.json`` of the run that it lies in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm_gcp import GCPError
from timm_gcp.text import without_places


def read_recipe(folder: Path) -> Mapping[str, Any] | None:
    """What the run beside a model folder records; None for a folder that lies in no run.

    Raises:
        GCPError: a ``result.json`` that is none of ``timm-gcp train``.
    """
    path = folder.absolute().parent / "result.json"
    if not path.exists():
        return None
    try:
        result: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {**result, "command": without_places(result["command"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GCPError(
            f"{path} is no result of `timm-gcp train` ({error}); move the model folder away from it or restore it."
        ) from error
