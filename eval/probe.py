"""Measures what each setting of a probe is worth: one setting is changed at a time, the others keep their defaults.

The features are those of `timm-gcp probe` along 512 principal directions, in the folder `--cache`; fewer directions are
the first ones of these. Every row has the exact leave-one-out accuracy on the training images, by which defaults are
chosen, and the accuracy on the evaluation split. Settings that have a row already are skipped.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import layer_norm

from timm_gcp.commands.option_types import path_object
from timm_gcp.commands.options import model_choice, options_of
from timm_gcp.commands.probe import parse_probe_args
from timm_gcp.data.open_dataset import open_splits
from timm_gcp.models.named import load_model
from timm_gcp.probing.backbone import Backbone
from timm_gcp.probing.cache import Cache, store_features
from timm_gcp.probing.directions import Directions
from timm_gcp.probing.fits import FIRST_WEIGHT, Fits
from timm_gcp.probing.heads import Head
from timm_gcp.probing.options import ProbeOptions
from timm_gcp.probing.parts import MEAN, CovariancePart
from timm_gcp.text import markdown_table

from .record import RESULTS, append_row, provenance, read_cells

_DIRECTIONS = 512
_DEFAULT = CovariancePart("isqrt")


@dataclass(frozen=True)
class Setting:
    """A head of a probe.

    Attributes:
        group: what is varied.
        value: its value here.
        covariance: the covariance beside the mean of the map; None for the mean alone.
        components: number of directions.
        first_weight: weight of the mean; 0 leaves it out.
        views: 2 adds the mirror images.
        maps: 'centred', each channel less its mean over the image; 'whole'; or 'normalised', whole maps after
            a LayerNorm over the channels of each position, as in the reduction of kind ``linear_norm``.
    """

    group: str
    value: str
    covariance: CovariancePart | None = _DEFAULT
    components: int = 256
    first_weight: float = FIRST_WEIGHT
    views: int = 1
    maps: str = "centred"

    @property
    def head(self) -> Head:
        """The head for `Fits`."""
        if self.covariance is None:
            return Head(self.value, (MEAN,), (1.0,))
        if not self.first_weight:
            return Head(self.value, (self.covariance,), (1.0,))
        return Head(self.value, (MEAN, self.covariance), (self.first_weight, 1.0))


def _method(name: str, **args: Any) -> CovariancePart:
    return CovariancePart(name, tuple(args.items()))


SETTINGS = (
    Setting("head", "mean alone", None),
    Setting("head", "default"),
    *(Setting("weight of the mean", f"{w:g}", first_weight=w) for w in (0.0, 0.03, 0.1, 1.0, 3.0)),
    *(Setting("directions", str(r), components=r) for r in (64, 128, 192, 384, 512)),
    Setting("method", "polar (exact root)", _method("polar")),
    *(Setting("method", f"isqrt, {n} steps", _method("isqrt", iterations=n)) for n in (3, 9)),
    *(Setting("power", f"{a:g}", _method("svd", alpha=a)) for a in (0.25, 0.35, 0.7)),
    Setting("power", "1 (the covariance)", _method("cov")),
    *(Setting("shrinkage", f"rsqrt, share {s:g}", _method("rsqrt", share=s)) for s in (0.01, 0.1, 1.0)),
    Setting("method", "logm", _method("logm")),
    Setting("method", "corr", _method("corr")),
    *(Setting("method", f"maxexp, {n}", _method("maxexp", eta=n)) for n in (20, 50, 100)),
    Setting("method", "gaussian", _method("gaussian"), maps="whole"),
    Setting("method", "bdc", _method("bdc"), maps="whole"),
    Setting("reduction", "linear_norm", maps="normalised"),
    Setting("views", "2", views=2),
    *(Setting("groups", str(g), CovariancePart("isqrt", groups=g)) for g in (2, 4)),
    *(Setting("count sketch", str(n), CovariancePart("isqrt", count_sketch=n)) for n in (4096, 8192, 16384)),
)


class _Leading:
    """Stored features along the leading directions alone; a `FeatureSet`.

    Args:
        cache: the stored features.
        directions: along which they are.
        setting: has the number of directions and the kind of the maps.
    """

    def __init__(self, cache: Cache, directions: Directions, setting: Setting) -> None:
        self._cache, self.components, self._kind = cache, setting.components, setting.maps
        self._directions = directions.matrix[: setting.components]
        self.folder, self.images, self.views, self.rows = cache.folder, cache.images, cache.views, cache.rows
        self.has_token = cache.has_token
        self.first, self.labels = cache.first, cache.labels

    def maps(self, start: int, stop: int) -> Tensor:
        maps = self._cache.maps(start, stop)[:, : self.components]
        if self._kind == "centred":
            return maps
        maps = maps + (self._cache.first("mean")[start:stop] @ self._directions.T).unsqueeze(2)
        if self._kind == "whole":
            return maps
        return layer_norm(maps.mT, (self.components,)).mT


def main(argv: list[str]) -> None:
    """Runs the command ``probe``."""
    parser = argparse.ArgumentParser(
        prog="python -m eval probe",
        description=__doc__.split("\n")[0],
        epilog="Further options are those of timm-gcp probe: DIR, --dataset, --val-split, --model, --checkpoint, …",
    )
    parser.add_argument("--name", required=True, help="name of the data set in the table")
    parser.add_argument("--groups", nargs="*", help="measure these groups of settings only")
    parser.add_argument("--cache", type=path_object, required=True, help="folder of the features")
    parser.add_argument("--results", type=path_object, default=RESULTS / "probe.csv", help="file (%(default)s)")
    args, given = parser.parse_known_args(argv)
    wanted = [each for each in SETTINGS if not args.groups or each.group in args.groups]
    measure(args.name, wanted, given, args.cache, args.results)


def inputs_of(given: Sequence[str]) -> tuple[Backbone, Any, Any]:
    """The frozen backbone, the training images and those to evaluate, which is None without an evaluation split.

    Args:
        given: arguments of ``timm-gcp probe``.
    """
    args = parse_probe_args(given)
    options = options_of(ProbeOptions, args)
    backbone = Backbone(load_model(model_choice(args, method=None)), options)
    return backbone, *open_splits(options, backbone.data_config["input_size"][0])


def measure(name: str, settings: Sequence[Setting], given: Sequence[str], folder: Path, results: Path) -> None:
    """Adds a row for every setting that has none yet.

    Args:
        name: of the data set.
        settings: to measure.
        given: further arguments of ``timm-gcp probe``.
        folder: of the features.
        results: the CSV file.
    """
    rows = read_cells(results, ("data", "group", "setting"))
    done = set(zip(rows["data"], rows["group"], rows["setting"], strict=True))
    missing = [each for each in settings if (name, each.group, each.value) not in done]
    features: dict[int, tuple[Directions, Cache, Cache | None]] = {}
    before: tuple[tuple[int, int, str], Fits] | None = None
    backbone, train, evaluation = inputs_of(given)
    for each in missing:
        if each.views not in features:
            features[each.views] = store_features(backbone, train, evaluation, folder, _DIRECTIONS, each.views)
        directions, trained, evaluated = features[each.views]
        leading = None if evaluated is None else _Leading(evaluated, directions, each)
        fits = Fits(_Leading(trained, directions, each), leading, train.num_classes, "ridge", print)
        same = (each.views, each.components, each.maps)
        if before is not None and before[0] == same:  # kernels that this head shares with the one before
            shared = before[1].kernels
            fits.kernels = {part: kernel for part, kernel in shared.items() if part in each.head.parts}
        before = (same, fits)
        fits.fit(each.head)
        found = fits.results[0]
        assert found.left_out is not None
        row = {
            "data": name,
            "group": each.group,
            "setting": each.value,
            "features": found.features,
            "left_out": f"{found.left_out:.2f}",
            "validation": "" if found.validation is None else f"{found.validation:.2f}",
            "strength": f"{found.strength:.3g}",
        }
        append_row(results, {**row, **provenance()})


def section(results: Path) -> str:
    """The table of the settings as Markdown, one column of each accuracy per data set.

    Args:
        results: folder with ``probe.csv``.
    """
    rows = read_cells(results / "probe.csv")
    names = list(dict.fromkeys(rows["data"]))
    measures = {"left_out": "leave-one-out", "validation": "validation"}
    titles = ["", "setting", "numbers", *(f"{name}, {title}" for name in names for title in measures.values())]
    cells = []
    for each in SETTINGS:
        same = rows[(rows["group"] == each.group) & (rows["setting"] == each.value)].set_index("data")
        if same.empty:
            continue
        found = [same[what].get(name, "") for name in names for what in measures]
        cells.append([each.group, each.value, same["features"].iloc[0], *found])
    return markdown_table(titles, cells)
