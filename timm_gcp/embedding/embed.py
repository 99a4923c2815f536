"""Embeds the images of a data set: one short vector of unit length for each."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..data.image_check import check_images
from ..data.joined_splits import join_splits
from ..data.open_dataset import open_dataset
from ..data.splits import TRAIN, splits_in
from ..data.unlabelled import has_loose_images, open_unlabelled, without_labels
from ..methods import covariance_method
from ..probing.backbone import Backbone
from ..probing.cache import store_features
from ..probing.classifiers import alone
from ..probing.features import FeatureSet
from ..tasks import SINGLE_LABEL
from ..text import printable
from .compact import compact_vectors
from .label_errors import LabelError, label_errors
from .options import EmbeddingOptions

__all__ = ["Embedding", "embed"]


@dataclass
class Embedding:
    """The vectors of some images.

    Attributes:
        vectors: ``[images, D]`` in float32, of unit length.
        files: names of the images, relative to the data set.
        labels: ``[images]``; None without classes.
        class_names: by label, or None.
        settings: what the vectors depend on, beside the model.
        dataset: the images, in timm's form.
        features: along the principal directions, from which the vectors are made.
        first_order: what a classifier gets beside the covariance: 'mean', 'class', 'mean+class' or None.
        splits: name of the split of each image; None where they are not of several.
    """

    vectors: Tensor
    files: list[str]
    labels: Tensor | None
    class_names: list[str] | None
    settings: dict[str, Any]
    dataset: Any = field(repr=False)
    features: FeatureSet = field(repr=False)
    first_order: str | None = field(default=None, repr=False)
    splits: list[str] | None = field(default=None, repr=False)

    def name_of(self, label: int) -> str:
        """The name of a class, or its number."""
        return self.class_names[label] if self.class_names else str(label)

    def splits_of(self, images: Iterable[int]) -> list[str]:
        """The splits that some images come from, each once; none where the images are not of several splits."""
        return [] if self.splits is None else list(dict.fromkeys(self.splits[image] for image in images))

    @property
    def single(self) -> int:
        """Number of images that are the only ones of their class, whose labels cannot be judged."""
        return 0 if self.labels is None else int(alone(self.labels).sum())

    def label_errors(self) -> list[LabelError]:
        """The images whose label is likely to be wrong, most certain first; none without labels.

        Raises:
            GCPError: fewer than two classes have an image.
        """
        if self.labels is None:
            return []
        classes = max(int(self.labels.max()) + 1, len(self.class_names or ()))
        return label_errors(self.features, classes, self.settings["method"], self.first_order)


def embed(model: nn.Module, options: EmbeddingOptions, folder: Path) -> Embedding:
    """Embeds the images of a data set by the covariance of a backbone's features.

    The features are those of a probe: maps of the frozen backbone along the principal directions of these images. The
    directions, and so the vectors, belong to this data set; vectors of two data sets are not comparable.

    Args:
        model: a timm classification model, plain or with a covariance pool; it is not changed.
        options: which images, and how.
        folder: where the features are cached, as by ``timm-gcp probe``.

    Raises:
        GCPError: bad input of any kind; the message names the remedy.
    """
    covariance_method(options.method, f"`method={options.method}`")
    backbone = Backbone(model, options)
    dataset, splits = join_splits(_open(options, backbone.data_config["input_size"][0]))
    directions, features, _ = store_features(backbone, dataset, None, folder, options.components)
    vectors = compact_vectors(features, options.method, options.compact, options.size)
    labels = features.labels()
    settings = {
        "method": options.method,
        "compact": options.compact,
        "size": vectors.shape[1],
        "components": len(directions),
        "data_config": {name: str(value) for name, value in backbone.data_config.items()},
    }
    files = [printable(dataset.filename(index)) for index in range(len(dataset))]
    labelled = len(labels) > 0 and int(labels.min()) >= 0
    return Embedding(
        vectors,
        files,
        labels if labelled else None,
        getattr(dataset, "class_names", None),
        settings,
        dataset,
        features,
        backbone.first_order,
        splits if len(set(splits)) > 1 else None,
    )


def _open(options: EmbeddingOptions, channels: int) -> dict[str, Any]:
    """Name of a split → its images; '' for the folder itself: its class folders, or all images in it and below."""
    root = options.data_dir or ""
    if options.splits or options.dataset:
        names = options.splits or (TRAIN[0],)
    else:
        names = splits_in(Path(root)) if Path(root).is_dir() else []
        if not names and has_loose_images(root):
            return {"": _open_loose(options, channels)}
    opened = {name: open_dataset(options, name, channels, download=options.dataset_download) for name in names or ("",)}
    if options.task is SINGLE_LABEL:
        return opened
    return {name: without_labels(dataset) for name, dataset in opened.items()}  # vectors need no labels


def _open_loose(options: EmbeddingOptions, channels: int) -> Any:
    """All images in a folder that has images beside its subfolders, and in those."""
    dataset = open_unlabelled(
        options.data_dir or "",
        channels,
        skip_bad_images=options.skip_bad_images,
        orient=not options.ignore_exif_orientation,
    )
    if not options.no_check_images:
        check_images(dataset, progress=sys.stderr.isatty())
    return dataset
