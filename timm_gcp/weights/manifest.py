"""The manifest of pretrained checkpoints, one row per checkpoint; ``manifest.json`` beside this file holds the rows."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import GCPError
from ..files import save_text
from .init_tags import INIT, is_init

__all__ = ["MANIFEST", "Checkpoint", "Upstream", "read_manifest", "write_manifest"]

MANIFEST = Path(__file__).with_name("manifest.json")
"""The package's own manifest."""

_NAME = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")
_PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Upstream:
    """A file that the authors of a paper published, in their own layout.

    Attributes:
        source: ``drive:<file id>`` of Google Drive, or an address.
        sha256: of the file, 64 hex digits, or the first ones, as in the names of torch.hub's files; None if unknown.
        size: bytes; None if unknown.
    """

    source: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """One row: the weights of one registered name under one tag. A row without a place is not published yet.

    Attributes:
        name: ``<backbone>_<method>.<tag>``.
        description: one sentence for users.
        licence: SPDX identifier; None forbids publishing.
        model_args: arguments of ``timm.create_model`` that belong to the weights, such as ``last_stride``.
        package: file name under ``weights/zoo`` in this package; None for none.
        hub: ``org/repository@revision``, the revision a full commit id; None for none. Written by the publishing step.
        upstream: the authors' file; None for none.
        sha256: of ``model.safetensors`` in the package and on the Hub; None where there is neither.
        size: its bytes.
        verified: how the weights were evaluated for this project, with date; None if they were not.
        input_size: channels, height and width.
        interpolation: resampling of the evaluation.
        crop_pct: share of the resized image that the centre crop keeps.
        mean: of the pixels.
        std: of the pixels.
        num_classes: width of the logits.
        label_names: one name per class, in the order of the logits; None if unknown.
        metrics: what was measured: ``{"data", "top1", "top5", "by", "command"}``; ``by`` is ``"upstream"`` for a number
            that the authors published.
        recipe: the command that trained the weights; None if unknown.
        origin_url: where a person can read about the weights.
    """

    name: str
    description: str
    licence: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    package: str | None = None
    hub: str | None = None
    upstream: Upstream | None = None
    sha256: str | None = None
    size: int | None = None
    verified: str | None = None
    input_size: tuple[int, int, int] = (3, 224, 224)
    interpolation: str = "bilinear"
    crop_pct: float = 0.875
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    num_classes: int = 1000
    label_names: tuple[str, ...] | None = None
    metrics: tuple[Mapping[str, Any], ...] = ()
    recipe: str | None = None
    origin_url: str | None = None

    @property
    def architecture(self) -> str:
        """The registered name."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """The tag."""
        return self.name.partition(".")[2]

    def check(self) -> None:
        """Checks the fields on which finding and trusting the weights depend.

        Raises:
            GCPError: a field is not valid; the message names row and field.
        """
        if is_init(self.tag):
            raise GCPError(
                f"Row '{self.name}' of the manifest has no valid name: '{INIT}' and '{INIT}-...' are the tags of the "
                "plain backbone's weights; give it another tag."
            )
        problems = {
            "name": not _NAME.fullmatch(self.name),
            "hub": self.hub is not None and not _PINNED.fullmatch(self.hub),
            "sha256": bool(self.package or self.hub) and not _SHA256.fullmatch(self.sha256 or ""),
            "label_names": self.label_names is not None and len(self.label_names) != self.num_classes,
            "package": self.package is not None and Path(self.package).name != self.package,
        }
        wrong = [name for name, bad in problems.items() if bad]
        if wrong:
            raise GCPError(
                f"Row '{self.name}' of the manifest has no valid {' and '.join(wrong)}; see timm_gcp.weights.manifest "
                "for what a row holds."
            )


def read_manifest(path: str | os.PathLike[str] = MANIFEST) -> dict[str, Checkpoint]:
    """Reads a manifest.

    Args:
        path: of the JSON file.

    Returns:
        Name → row, in the order of the file.

    Raises:
        GCPError: the file is not a manifest, or a row is not valid.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        found = [_row(row) for row in rows]
        for row in found:
            row.check()
        names = [row.name for row in found]
    except GCPError:
        raise
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise GCPError(f"{path} is no manifest of checkpoints ({error}); restore it from the package.") from error
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise GCPError(f"{path} has '{double[0]}' twice; names are unique.")
    return {row.name: row for row in found}


def write_manifest(rows: Mapping[str, Checkpoint], path: str | os.PathLike[str] = MANIFEST) -> None:
    """Writes a manifest; fields with their default value are left out.

    Args:
        rows: name → row.
        path: of the JSON file.

    Raises:
        GCPError: a row is not valid; nothing is written.
    """
    for row in rows.values():
        row.check()
    text = json.dumps([_plain(row) for row in rows.values()], indent=2, ensure_ascii=False) + "\n"
    save_text(path, text)


def _row(given: Mapping[str, Any]) -> Checkpoint:
    values = dict(given)
    if values.get("upstream") is not None:
        values["upstream"] = Upstream(**values["upstream"])
    for key in ("input_size", "mean", "std", "label_names", "metrics"):
        if values.get(key) is not None:
            values[key] = tuple(values[key])
    return Checkpoint(**values)


def _plain(row: Checkpoint) -> dict[str, Any]:
    defaults = {f.name: f.default for f in dataclasses.fields(Checkpoint)}
    values = {f.name: getattr(row, f.name) for f in dataclasses.fields(Checkpoint)}
    kept = {key: value for key, value in values.items() if value not in (defaults[key], None, {}, ())}
    if row.upstream is not None:
        kept["upstream"] = {key: value for key, value in dataclasses.asdict(row.upstream).items() if value is not None}
    return kept
