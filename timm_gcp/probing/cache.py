"""Features on disk: the principal directions, and the feature maps along them, written in one resumable pass."""

import errno
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from ..errors import GCPError
from ..files import save_atomically, save_text, sha256_of
from ..output import BAR
from .backbone import Backbone
from .directions import Directions, principal_directions, spaced, spectrum, within_image_covariance
from .features import Features

__all__ = ["Cache", "digest_of_images", "find_directions", "store_features", "write_cache"]

_STATE = "state.json"
_ARRAYS = ("maps", "mean", "labels")
"""The arrays of every cache; one of a network with class tokens has ``token`` too."""


@dataclass(frozen=True)
class Cache:
    """Features of the images of a data set, on disk; a `FeatureSet`.

    Attributes:
        folder: of the files.
        images: number of images.
        views: views of an image; they lie one after another.
        components: number of directions, R.
        scale: factor between the stored maps and the features.
    """

    folder: Path
    images: int
    views: int
    components: int
    scale: float

    @property
    def rows(self) -> int:
        """Images times views."""
        return self.images * self.views

    @property
    def has_token(self) -> bool:
        """Whether there is a class token."""
        return (self.folder / "token.npy").is_file()

    def maps(self, start: int, stop: int) -> Tensor:
        """Maps of some rows along the directions, ``[rows, R, M]`` in float32, each with its mean removed.

        Args:
            start: first row.
            stop: the row behind the last one.
        """
        return torch.from_numpy(self._maps[start:stop].astype(np.float32)) / self.scale

    @functools.cached_property
    def _maps(self) -> Any:
        return np.load(self.folder / "maps.npy", mmap_mode="r")

    def first(self, name: str) -> Tensor:
        """``'mean'`` or ``'token'`` of all rows, ``[rows, C]`` in float32."""
        return torch.from_numpy(np.load(self.folder / f"{name}.npy"))

    def labels(self) -> Tensor:
        """Labels of the images, ``[images]``."""
        return torch.from_numpy(np.load(self.folder / "labels.npy"))


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


def _name_of(key: Mapping[str, Any]) -> str:
    """The name of a file or folder by what its content depends on."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def store_features(
    backbone: Backbone,
    train: Any,
    evaluation: Any,
    folder: Path,
    components: int | None = None,
    views: int = 1,
    rotate: bool = True,
) -> tuple[Directions, Cache, Cache | None]:
    """Finds the principal directions and stores the features of the training and of the evaluation images.

    Args:
        backbone: the frozen backbone.
        train: training images, in timm's form.
        evaluation: images to evaluate, or None.
        folder: of the caches.
        components: number of directions; None takes the default.
        views: of the training images; 2 adds the mirror images.
        rotate: False takes the channels themselves as directions.

    Raises:
        GCPError: as `find_directions` and `write_cache`.
    """
    images = digest_of_images(train)
    directions = find_directions(backbone, train, images, folder, components)
    if not rotate:
        directions = replace(directions, matrix=torch.eye(len(directions)))
    trained = write_cache(backbone, train, images, directions, folder, views)
    if evaluation is None:
        return directions, trained, None
    return directions, trained, write_cache(backbone, evaluation, digest_of_images(evaluation), directions, folder)


def find_directions(backbone: Backbone, dataset: Any, images: str, folder: Path, components: int | None) -> Directions:
    """The principal directions of the training images; found once and kept in the folder.

    Args:
        backbone: the frozen backbone.
        dataset: the training images.
        images: their digest.
        folder: of the caches.
        components: number of directions; None takes the default.

    Raises:
        GCPError: features that are not finite or do not vary, or more directions than channels.
    """
    file = folder / f"directions-{_name_of({**backbone.key, 'images': images})}.npz"
    if not file.is_file():
        indices = spaced(len(dataset))
        total = math.ceil(len(indices) / backbone.options.batch_size)
        lengths: list[float] = []

        def maps() -> Any:
            batches = backbone.batches(dataset, indices)
            for (features,), _ in tqdm(batches, "directions", total, unit="batch", disable=None, bar_format=BAR):
                x = features.maps.cpu()
                lengths.append(float((x - x.mean(2, keepdim=True)).square().sum(1).max().sqrt()))
                yield x

        values, vectors = spectrum(within_image_covariance(maps()))
        folder.mkdir(parents=True, exist_ok=True)
        # The eigenvectors, not the covariance: their last digits depend on the number of threads.
        content = {"values": values.numpy(), "vectors": vectors.numpy(), "longest": np.float64(max(lengths))}
        save_atomically(file, lambda out: np.savez(out, **content))
    with np.load(file) as stored:
        values, vectors = (torch.from_numpy(stored[name]) for name in ("values", "vectors"))
        return principal_directions(values, vectors, components, float(stored["longest"]))


def write_cache(
    backbone: Backbone, dataset: Any, images: str, directions: Directions, folder: Path, views: int = 1
) -> Cache:
    """Writes the features of a data set, or what is left of them, in a folder that is named by what they depend on.

    A process that finds another one writing the same features waits for it.

    Args:
        backbone: the frozen backbone.
        dataset: in timm's form.
        images: its digest.
        directions: the reduction.
        folder: of the caches.
        views: 2 adds the mirror images.

    Raises:
        GCPError: features that are not finite, or a disk without room.
    """
    reduction = hashlib.sha256(directions.matrix.numpy().tobytes()).hexdigest()
    key = {**backbone.key, "images": images, "views": views, "directions": reduction, "scale": directions.scale}
    cache = Cache(folder / _name_of(key), len(dataset), views, len(directions), directions.scale)
    if _done(cache) == cache.images:
        return cache
    folder.mkdir(parents=True, exist_ok=True)
    # A process that opened the files anew would cut them off under the map of the other, which kills that one.
    lock = _lock_of(cache)
    try:
        _write(cache, backbone, dataset, directions)
    finally:
        lock.release()
    return cache


def _lock_of(cache: Cache) -> FileLock:
    """The lock of a cache, taken; says so if another process has it."""
    lock = FileLock(cache.folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Waiting for another process that writes these features to {cache.folder}.", flush=True)
        lock.acquire()
    return lock


def _write(cache: Cache, backbone: Backbone, dataset: Any, directions: Directions) -> None:
    """Writes the features that the cache still lacks."""
    done = _done(cache)
    if done == cache.images:
        return
    writer: _Writer | None = None
    bar = tqdm(total=cache.images, initial=done, desc="features", unit="img", disable=None, bar_format=BAR)
    with bar:
        for features, labels in backbone.batches(dataset, range(done, cache.images), mirror=cache.views == 2):
            if writer is None:
                writer = _Writer(cache, features[0], directions, done)
            writer.add(features, labels, dataset)
            bar.update(len(labels))


def _done(cache: Cache) -> int:
    """Images that are in the cache already; none if one of its arrays is missing."""
    try:
        state = json.loads((cache.folder / _STATE).read_text(encoding="utf-8"))
        # Caches of earlier versions do not name their arrays.
        arrays = state.get("arrays", _ARRAYS)
        return int(state["done"]) if all((cache.folder / f"{name}.npy").is_file() for name in arrays) else 0
    except (AttributeError, OSError, ValueError, KeyError, TypeError):
        return 0


class _Writer:
    """Adds batches to the files of a cache; after each one the state says how many images are whole."""

    def __init__(self, cache: Cache, like: Features, directions: Directions, done: int) -> None:
        self.cache, self.done = cache, done
        self.reduction = directions.matrix.to(like.maps.device)
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
            # It counts images of arrays that are made anew here.
            (cache.folder / _STATE).unlink(missing_ok=True)
            self._check_room(sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in shapes.values()))
        try:
            self.files = {
                name: np.lib.format.open_memmap(
                    str(cache.folder / f"{name}.npy"), mode="r+" if done else "w+", dtype=kind, shape=shape
                )
                for name, (shape, kind) in shapes.items()
            }
            if not done:
                self._reserve()
        except OSError as error:
            raise GCPError(
                f"The features cannot be written to {cache.folder} ({error.strerror or error}): give another `output`, "
                "or fewer `components`."
            ) from error

    def _reserve(self) -> None:
        """Takes the space of the files now: writing to a mapped file on a full disk would kill the process."""
        for name in self.files if hasattr(os, "posix_fallocate") else ():
            path = self.cache.folder / f"{name}.npy"
            with open(path, "r+b") as file:
                try:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
                except OSError as error:
                    if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that cannot reserve
                        raise

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
            mean = each.maps.mean(2, keepdim=True)
            stored = (self.reduction @ (each.maps - mean) * self.cache.scale).half()
            finite = stored.isfinite().flatten(1).all(1)
            if not finite.all():
                worst = dataset.filename(self.done + int((~finite).nonzero()[0]))
                raise GCPError(f"The features of {worst} are not finite, or too large for float16; check the weights.")
            at = slice(rows.start + view, rows.stop, views)
            self.files["maps"][at] = stored.cpu().numpy()
            self.files["mean"][at] = mean.squeeze(2).cpu().numpy()
            if each.token is not None:
                self.files["token"][at] = each.token.cpu().numpy()
        self.files["labels"][self.done : self.done + count] = labels.numpy()
        for file in self.files.values():
            file.flush()
        self.done += count
        save_text(self.cache.folder / _STATE, json.dumps({"done": self.done, "arrays": list(self.files)}))
