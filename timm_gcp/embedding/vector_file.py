"""The file of an embedding: NPZ, or Parquet where pyarrow is installed."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GCPError
from ..files import check_ending, check_output, make_parents, save_atomically
from .embed import Embedding

__all__ = ["check_vector_file", "save_vectors"]

_ENDINGS = (".npz", ".parquet")


def check_vector_file(path: str, option: str = "") -> None:
    """Checks, before any work is done, that an embedding can be written to a path.

    Args:
        path: of the file.
        option: the option that gave it, for the message.

    Raises:
        GCPError: another ending, a package that is missing, or a place that cannot be written to.
    """
    check_ending(path, _ENDINGS, "vectors", option)
    if Path(path).suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise GCPError(
            f"{option} {path} needs the package pyarrow, which is not installed: pip install pyarrow, or give a name "
            "that ends in .npz.".lstrip()
        )
    check_output(path, option)


def save_vectors(embedding: Embedding, path: str | Path) -> None:
    """Writes vectors, files and labels, aside and renamed; missing folders are made.

    - ``.npz``: ``vectors``, ``files``, ``settings`` (JSON), ``labels`` and ``class_names`` where there are classes,
      ``splits`` where the images are of several.
    - ``.parquet``: columns ``file``, ``split`` (null unless the images are of several), ``label`` (the class's name,
      null without classes) and ``vector`` (float32); the settings are in the metadata of the schema.

    Args:
        embedding: what is written.
        path: of the file, which ends in .npz or .parquet.

    Raises:
        GCPError: as `check_vector_file`.
    """
    check_vector_file(str(path))
    make_parents(path)
    settings = json.dumps(embedding.settings)
    if Path(path).suffix.lower() == ".npz":
        content: dict[str, Any] = {
            "vectors": embedding.vectors.numpy(),
            "files": np.array(embedding.files),
            "settings": np.array(settings),
        }
        if embedding.splits is not None:
            content["splits"] = np.array(embedding.splits)
        if embedding.labels is not None:
            names = [embedding.name_of(label) for label in range(int(embedding.labels.max()) + 1)]
            content.update(labels=embedding.labels.numpy(), class_names=np.array(embedding.class_names or names))
        save_atomically(path, lambda out: np.savez(out, **content))
        return
    _save_parquet(embedding, path, settings)


def _save_parquet(embedding: Embedding, path: str | Path, settings: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    count, width = embedding.vectors.shape
    flat = pa.array(embedding.vectors.numpy().reshape(-1))
    labels: list[str | None] = [None] * count
    splits: Sequence[str | None] = embedding.splits or [None] * count
    if embedding.labels is not None:
        labels = [embedding.name_of(label) for label in embedding.labels.tolist()]
    table = pa.table(
        {
            "file": pa.array(embedding.files, pa.string()),
            "split": pa.array(splits, pa.string()),
            "label": pa.array(labels, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, width),
        }
    ).replace_schema_metadata({"timm_gcp": settings})
    save_atomically(path, lambda out: pyarrow.parquet.write_table(table, out))
