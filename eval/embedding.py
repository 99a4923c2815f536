"""Measures the vectors of ``timm-gcp embed``: labels of nearest neighbours, and how alike a photograph and a copy are.

The nearest neighbour of every training photograph is found with vectors of several kinds, and with the mean of the map
in place of the covariance. Of 99 validation photographs 33 are saved again in several ways, and all are embedded
together.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor

from timm_gcp.commands.embed import parse_embed_args
from timm_gcp.commands.option_types import path_object
from timm_gcp.commands.options import model_choice, options_of
from timm_gcp.data.open_dataset import open_dataset
from timm_gcp.embedding.compact import compact_vectors
from timm_gcp.embedding.embed import embed
from timm_gcp.embedding.neighbours import nearest
from timm_gcp.embedding.options import EmbeddingOptions
from timm_gcp.models.named import load_model
from timm_gcp.text import markdown_table

from .record import RESULTS, provenance, read_table, write_table

KINDS = (("sketch", 1024), ("sketch", 256), ("pca", 256))
"""Ways to a short vector, and its length."""

NEIGHBOUR, COPY = "nearest neighbour of the same label", "cosine of a copy"
OTHER = "none: the most similar other photograph"
ORIGINAL = "original"
QUALITY = 95
"""Of the JPEG files whose compression is not what is measured."""


def main(argv: list[str]) -> None:
    """Runs the command ``embedding``."""
    parser = argparse.ArgumentParser(
        prog="python -m eval embedding",
        description=__doc__.split("\n")[0],
        epilog="Further options are those of timm-gcp embed: DIR, --dataset, --model, --checkpoint, --cache, …",
    )
    parser.add_argument("--results", type=path_object, default=RESULTS / "embedding.csv", help="file (%(default)s)")
    args, given = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure(given, Path(folder)))
    write_table(args.results, [{**row, **provenance()} for row in rows])
    print(args.results)


def measure(given: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of the table.

    Args:
        given: arguments of ``timm-gcp embed``.
        folder: an empty one, for copies of photographs.
    """
    args = parse_embed_args([*given, "--out", str(folder / "vectors.npz")])
    options, model = options_of(EmbeddingOptions, args), load_model(model_choice(args, method=None))
    cache = Path(args.cache or folder / "cache")
    train = embed(model, replace(options, splits=("train",)), cache)
    assert train.labels is not None
    vectors = {f"{kind} of {size}": compact_vectors(train.features, options.method, kind, size) for kind, size in KINDS}
    mean = train.features.first("mean")
    vectors["mean of the map"] = torch.nn.functional.normalize(mean - mean.mean(0), dim=1)
    for setting, each in vectors.items():
        same = train.labels[nearest(each, 1).index[:, 0]] == train.labels
        value = f"{100 * same.double().mean():.1f}"
        yield {"measure": NEIGHBOUR, "setting": setting, "images": len(same), "median": value}

    copies = folder / "copies"
    _save_copies(open_dataset(options, "val", channels=3), copies)
    found = embed(model, replace(options, data_dir=str(copies), dataset=""), cache)
    for setting, cosines in _cosines(found.files, found.vectors).items():
        low, middle, high = torch.quantile(cosines, torch.tensor([0.0, 0.5, 1.0])).tolist()
        yield {
            "measure": COPY,
            "setting": setting,
            "images": len(cosines),
            "lowest": f"{low:.2f}",
            "median": f"{middle:.2f}",
            "highest": f"{high:.2f}",
        }


def _half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


def _without_border(image: Image.Image) -> Image.Image:
    x, y = image.width // 20, image.height // 20
    return image.crop((x, y, image.width - x, image.height - y))


CHANGES: Mapping[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "JPEG quality 60": (lambda image: image, 60),
    "half the size": (_half, QUALITY),
    "mirrored": (ImageOps.mirror, QUALITY),
    "5 % cut off at each side": (_without_border, QUALITY),
}
"""Name → how the photograph is changed, and the quality of the JPEG file."""


def _save_copies(photographs: Any, folder: Path) -> None:
    """Saves every third photograph, and of these every third in each of the ways of `CHANGES`."""
    folder.mkdir()
    chosen = range(0, len(photographs), 3)
    for number, index in enumerate(chosen):
        path = Path(photographs.filename(index, absolute=True))
        (folder / f"{index}-{ORIGINAL}.jpg").write_bytes(path.read_bytes())
        if number % 3 == 0:
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
            for name, (change, quality) in CHANGES.items():
                change(upright).save(folder / f"{index}-{name}.jpg", quality=quality)


def _cosines(files: Sequence[str], vectors: Tensor) -> dict[str, Tensor]:
    """Cosines of the copies with their originals by the way they were changed, and of originals with each other."""
    named = [Path(file).stem.split("-", 1) for file in files]
    original = {index: vectors[row] for row, (index, name) in enumerate(named) if name == ORIGINAL}
    found = {
        change: torch.stack(
            [original[index] @ vectors[row] for row, (index, name) in enumerate(named) if name == change]
        )
        for change in CHANGES
    }
    found[OTHER] = nearest(torch.stack(list(original.values())), 1).similarity[:, 0]
    return found


def section(results: Path) -> str:
    """The tables as Markdown.

    Args:
        results: folder with ``embedding.csv``.
    """
    rows = read_table(results / "embedding.csv")
    neighbours, copies = (rows[rows["measure"] == measure] for measure in (NEIGHBOUR, COPY))
    first = markdown_table(
        ("vectors", "photographs", "same label, %"), neighbours[["setting", "images", "median"]].astype(str).to_numpy()
    )
    cosines = copies[["lowest", "median", "highest"]].map("{:.2f}".format)
    second = markdown_table(
        ("change", "photographs", "lowest cosine", "median", "highest"),
        pd.concat([copies[["setting", "images"]].astype(str), cosines], axis=1).to_numpy(),
    )
    return f"{first}\n\n{second}"
