"""Names by which a user means a model: registered names, model folders and Hub ids."""

import os

__all__ = ["SOURCES", "brings_weights"]

SOURCES = ("local-dir:", "hf-hub:", "hf_hub:")
"""timm's prefixes of model folders and of Hub ids."""


def brings_weights(name: str) -> bool:
    """Whether a name means a model folder (with or without ``local-dir:``) or a Hub id, which always have weights."""
    return name.startswith(SOURCES) or os.path.isdir(name)
