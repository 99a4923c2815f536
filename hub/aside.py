"""Text files that appear under their name only when they are whole."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes a text file aside and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
