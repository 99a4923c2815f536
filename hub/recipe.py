"""How a model folder was trained: the ``result.json`` of the run that it lies in."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm_gcp import GCPError


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
        return {**result, "command": _without_places(result["command"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GCPError(
            f"{path} is no result of `timm-gcp train` ({error}); move the model folder away from it or restore it."
        ) from error


def _without_places(command: str) -> str:
    """A command whose absolute paths are their last part: the folders of one machine tell a reader nothing."""
    words = []
    for word in shlex.split(command):
        name, equals, value = word.rpartition("=")
        words.append(f"{name}{equals}{Path(value).name}" if Path(value).is_absolute() else word)
    return shlex.join(words)
