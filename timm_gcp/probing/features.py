"""Features of the images of a data set along the principal directions: what the heads of a probe are fitted to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..errors import GCPError
from .directions import Directions

__all__ = ["FeatureArrays", "FeatureSet", "Features"]


@dataclass
class Features:
    """Features of a batch of images.

    Attributes:
        maps: ``[B, C, M]``, C channels at M positions.
        token: the class token ``[B, C]``, or None.
    """

    maps: Tensor
    token: Tensor | None


class FeatureSet(Protocol):
    """Features of images, on disk or in memory. A row is one view of an image; views of an image are neighbours."""

    @property
    def folder(self) -> Path | None:
        """Where large temporary files go; None for the system's own folder."""

    @property
    def images(self) -> int:
        """Number of images."""

    @property
    def views(self) -> int:
        """Views of an image."""

    @property
    def rows(self) -> int:
        """Images times views."""

    @property
    def components(self) -> int:
        """Number of directions, R."""

    @property
    def has_token(self) -> bool:
        """Whether there is a class token."""

    def maps(self, start: int, stop: int) -> Tensor:
        """Maps of some rows along the directions, ``[rows, R, M]`` in float32, each with its mean removed."""

    def first(self, name: str) -> Tensor:
        """``'mean'`` or ``'token'`` of all rows, ``[rows, C]`` in float32."""

    def labels(self) -> Tensor:
        """Labels of the images, ``[images]``."""


class FeatureArrays:
    """Features in memory, one view per image.

    Args:
        directions: the reduction.
    """

    folder = None
    views = 1

    def __init__(self, directions: Directions) -> None:
        self._directions = directions
        self._parts: dict[str, list[Tensor]] = {"maps": [], "mean": [], "token": [], "labels": []}

    def add(self, features: Features, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            features: of the images.
            labels: ``[B]``.

        Raises:
            GCPError: features that are not finite.
        """
        mean = features.maps.mean(2, keepdim=True)
        if not mean.isfinite().all():
            raise GCPError("The features of some images are not finite; check the images and the weights.")
        reduced = self._directions.matrix.to(mean.device) @ (features.maps - mean)
        self._parts["maps"].append(reduced.cpu())
        self._parts["mean"].append(mean.squeeze(2).cpu())
        if features.token is not None:
            self._parts["token"].append(features.token.cpu())
        self._parts["labels"].append(labels.long().cpu())

    def _whole(self, name: str) -> Tensor:
        if len(self._parts[name]) > 1:
            self._parts[name] = [torch.cat(self._parts[name])]
        return self._parts[name][0]

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(map(len, self._parts["labels"]))

    @property
    def rows(self) -> int:
        """Number of images."""
        return self.images

    @property
    def components(self) -> int:
        """Number of directions, R."""
        return len(self._directions)

    @property
    def has_token(self) -> bool:
        """Whether there is a class token."""
        return bool(self._parts["token"])

    def maps(self, start: int, stop: int) -> Tensor:
        """See `FeatureSet`."""
        return self._whole("maps")[start:stop]

    def first(self, name: str) -> Tensor:
        """See `FeatureSet`."""
        return self._whole(name)

    def labels(self) -> Tensor:
        """See `FeatureSet`."""
        return self._whole("labels")
