"""Reduced feature maps on disk, written in one pass over the images and resumable at any moment."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from ..data.loaders import evaluation_loader
from ..data.options import LoadingOptions
from ..errors import GCPError
from ..files import save_text, sha256_of
from ..output import BAR
from .backbone import Backbone, Features

__all__ = ["Cache", "digest_of_images", "digest_of_weights", "map_batches", "scale_of", "write_cache"]

_STATE = "state.json"
_HIGHEST = 64.0
"""What the longest feature vector of the subset becomes in float16, which holds a thousand times as much."""


@dataclass(frozen=True)
class Cache:
    """Features of the images of a data set, on disk.

    Attributes:
        folder: of the files.
        images: number of images.
        views: views of an image; they lie one after another.
        scale: factor between the stored maps and the features.
    """

    folder: Path
    images: int
    views: int
    scale: float

    @property
    def rows(self) -> int:
        """Images times views."""
        return self.images * self.views

    def maps(self, start: int, stop: int, components: int | None = None) -> Tensor:
        """Reduced maps of some rows, ``[rows, R, M]`` in float32, each with its mean removed.

        Args:
            start: first row.
            stop: the row behind the last one.
            components: leading directions to take; None takes all.
        """
        stored = np.load(self.folder / "maps.npy", mmap_mode="r")
        return torch.from_numpy(stored[start:stop, :components].astype(np.float32)) / self.scale

    def first(self, name: str) -> Tensor:
        """``'mean'`` or ``'token'`` of all rows, ``[rows, C]`` in float32."""
        return torch.from_numpy(np.load(self.folder / f"{name}.npy"))

    def labels(self) -> Tensor:
        """Labels of the images, ``[images]``."""
        return torch.from_numpy(np.load(self.folder / "labels.npy"))


class _Part(Dataset[Any]):
    """Some images of a data set; timm's loader sets the transform."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    @property
    def transform(self) -> Any:
        """The transform of the data set; can be set."""
        return self.dataset.transform

    @transform.setter
    def transform(self, transform: Any) -> None:
        self.dataset.transform = transform

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)


def digest_of_weights(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def digest_of_images(dataset: Any) -> str:
    """SHA-256 of the names, labels and contents of the image files of a data set, in its order.

    Raises:
        GCPError: the data set is no list of files.
    """
    samples = getattr(getattr(dataset, "reader", None), "samples", None)
    if not isinstance(samples, list):
        raise GCPError(
            "A probe reads image folders, list files and the data sets that are read by name from their official "
            "folders; this data set is none of them."
        )
    digest = hashlib.sha256()
    for index, (file, label) in enumerate(samples):
        digest.update(f"{dataset.filename(index)}\n{label}\n".encode(errors="surrogateescape"))
        if Path(file).is_file():
            digest.update(sha256_of(file).encode())
    return digest.hexdigest()


def map_batches(
    backbone: Backbone,
    dataset: Any,
    indices: Sequence[int],
    data_config: Mapping[str, Any],
    options: LoadingOptions,
    batch_size: int,
    mirror: bool = False,
) -> Iterator[tuple[list[Features], Tensor]]:
    """Features of some images in batches: those of the images, then those of their mirror images if asked for.

    Args:
        backbone: the frozen backbone.
        dataset: in timm's form.
        indices: of the images, in the order wanted.
        data_config: preprocessing of evaluation.
        options: loader processes.
        batch_size: images per batch.
        mirror: adds the mirror images.

    Yields:
        The features of each view, and the labels ``[B]``.
    """
    part = _Part(dataset, indices)
    with evaluation_loader(options, part, data_config, backbone.device, batch_size) as loader:
        for images, labels in loader:
            views = [images, images.flip(-1)] if mirror else [images]
            yield [backbone.features(view) for view in views], labels.cpu()


def write_cache(
    parent: Path,
    key: Mapping[str, Any],
    backbone: Backbone,
    dataset: Any,
    directions: Tensor,
    scale: float,
    data_config: Mapping[str, Any],
    options: Any,
) -> Cache:
    """Writes the features of a data set, or what is left of them, in a folder that is named by what they depend on.

    Args:
        parent: folder of caches.
        key: what the features depend on: weights, images, preprocessing, directions.
        backbone: the frozen backbone.
        dataset: in timm's form.
        directions: the reduction W, ``[R, C]``.
        scale: factor of the stored maps.
        data_config: preprocessing of evaluation.
        options: of the probe: views, batch size, loader processes.

    Raises:
        GCPError: features that are not finite, or a disk without room.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    cache = Cache(parent / name, len(dataset), options.views, scale)
    done = _done(cache, key)
    if done == cache.images:
        return cache
    batches = map_batches(
        backbone,
        dataset,
        range(done, cache.images),
        data_config,
        options,
        options.batch_size,
        mirror=options.views == 2,
    )
    bar = tqdm(total=cache.images, initial=done, desc="features", unit="img", disable=None, bar_format=BAR)
    writer: _Writer | None = None
    with bar:
        for features, labels in batches:
            if writer is None:
                writer = _Writer(cache, key, features[0], directions, done)
            writer.add(features, labels, dataset)
            bar.update(len(labels))
    return cache


def _done(cache: Cache, key: Mapping[str, Any]) -> int:
    """Images that are in the cache already."""
    try:
        state = json.loads((cache.folder / _STATE).read_text(encoding="utf-8"))
        return int(state["done"]) if state["key"] == json.loads(json.dumps(key)) else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


class _Writer:
    """Adds batches to the files of a cache; after each one the state says how many images are whole."""

    def __init__(self, cache: Cache, key: Mapping[str, Any], like: Features, directions: Tensor, done: int) -> None:
        self.cache, self.key, self.directions, self.done = cache, key, directions.to(like.maps.device), done
        channels, positions = like.maps.shape[1:]
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "maps": ((cache.rows, len(directions), positions), np.float16),
            "mean": ((cache.rows, channels), np.float32),
            "labels": ((cache.images,), np.int64),
        }
        if like.token is not None:
            shapes["token"] = ((cache.rows, channels), np.float32)
        cache.folder.mkdir(parents=True, exist_ok=True)
        if not done:
            self._check_room(sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values()))
        self.files = {
            name: np.lib.format.open_memmap(
                str(cache.folder / f"{name}.npy"), mode="r+" if done else "w+", dtype=kind, shape=shape
            )
            for name, (shape, kind) in shapes.items()
        }

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.cache.folder).free
        print(f"Features of {self.cache.images} images take {needed / 1e9:.2f} GB in {self.cache.folder}.", flush=True)
        if needed > free:
            raise GCPError(
                f"The features need {needed / 1e9:.2f} GB and {self.cache.folder} has {free / 1e9:.2f} GB left: give "
                "another `output`, or fewer `components`."
            )

    def add(self, features: list[Features], labels: Tensor, dataset: Any) -> None:
        """Adds the next images."""
        count, views = len(labels), self.cache.views
        rows = slice(self.done * views, (self.done + count) * views)
        for view, each in enumerate(features):
            maps = self.directions @ (each.maps - each.maps.mean(2, keepdim=True))
            stored = (maps * self.cache.scale).half()
            finite = stored.isfinite().flatten(1).all(1)
            if not finite.all():
                worst = dataset.filename(self.done + int((~finite).nonzero()[0]))
                raise GCPError(f"The features of {worst} are not finite, or too large for float16; check the weights.")
            at = slice(rows.start + view, rows.stop, views)
            self.files["maps"][at] = stored.cpu().numpy()
            self.files["mean"][at] = each.maps.mean(2).cpu().numpy()
            if each.token is not None:
                self.files["token"][at] = each.token.cpu().numpy()
        self.files["labels"][self.done : self.done + count] = labels.numpy()
        for file in self.files.values():
            file.flush()
        self.done += count
        save_text(self.cache.folder / _STATE, json.dumps({"key": self.key, "done": self.done}))


def scale_of(largest: float) -> float:
    """The power of two by which reduced maps are multiplied before they are stored in float16.

    Args:
        largest: largest length of a centred feature vector in a subset of the images; no component is longer.
    """
    return float(2.0 ** np.floor(np.log2(_HIGHEST / largest))) if largest > 0 else 1.0
