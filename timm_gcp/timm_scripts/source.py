"""Finds timm's scripts: in a folder, or downloaded from a tag of its repository. Its package on PyPI has none."""

import logging
import os
from pathlib import Path

import timm
from packaging.version import Version

from ..errors import GCPError
from ..text import nearest
from ..weights.download import download
from ..weights.resolve import cache_folder

__all__ = ["SCRIPTS", "SHA256", "find_script"]

SCRIPTS = ("train.py", "validate.py", "inference.py", "benchmark.py", "onnx_export.py")
"""The scripts that may be given by name."""

SHA256 = {
    "1.0.28": {
        "train.py": "1fb02d26fe16536bc7de2c987980644353117c2b2b8046532261464093cd1ac6",
        "validate.py": "1ff87867c808997ce443eb8ff8b2c7324519cdd0ec9dafbc3d5e666f89436749",
        "inference.py": "fc36c81ae3372b60fb7dc3a2b8676fd3de84afb79152134073109ac0333c95d4",
        "benchmark.py": "c2257b70ef9cd6e1dbc19a86cc5d0daea0505649a82352add58013d0382ed1ba",
        "onnx_export.py": "f685366d0f814c3764445b3d2edb2966f0e3194b19511a280d9e3cbb72c82418",
    }
}
"""Checksums of the scripts of timm's tags. Of other tags nothing is fetched."""

_logger = logging.getLogger(__name__)

_TAGS = "https://raw.githubusercontent.com/huggingface/pytorch-image-models"
_BY_HAND = "give the script's path, or set TIMM_SCRIPTS to a folder that holds timm's scripts"


def find_script(script: str, source: str | None = None) -> Path:
    """The file of a script.

    Args:
        script: its path, or the bare name of one of timm's (``train.py`` or ``train``).
        source: where one of timm's is taken from: a folder; a version of timm, whose tag is fetched; ``auto``, which
            is ``TIMM_SCRIPTS``, or the checkout of an editable timm, or the tag of the installed version (or the
            newest before it whose checksums are recorded). None takes a file of that name (with or without ``.py``)
            in the current folder if there is one, and is ``auto`` otherwise.

    Raises:
        GCPError: no such script, or it cannot be had.
    """
    path = Path(script)
    name = script if script.endswith(".py") else f"{script}.py"
    if source is None or path.name != script:
        for candidate in (path, Path(name)):
            if candidate.is_file():
                return candidate
    if name not in SCRIPTS:
        if path.name != script:
            raise GCPError(f"There is no script {script}; check the path.")
        raise GCPError(f"timm has no script '{script}'; there are {', '.join(SCRIPTS)}{nearest(name, SCRIPTS)}")
    if source not in (None, "auto"):
        return _fetch(name, source) if source in SHA256 else _in_folder(name, source, "--timm-scripts")
    folder = os.environ.get("TIMM_SCRIPTS")
    if folder:
        return _in_folder(name, folder, "TIMM_SCRIPTS")
    checkout = Path(timm.__file__).parent.parent
    # A file of that name in site-packages would be somebody else's.
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_file():
        return checkout / name
    return _fetch(name, _recorded(timm.__version__))


def _recorded(version: str) -> str:
    """A version of timm whose checksums are recorded: this one, or the newest before it; itself if there is none."""
    if version in SHA256:
        return version
    older = [known for known in SHA256 if Version(known) < Version(version)]
    if not older:
        return version
    newest = max(older, key=Version)
    _logger.warning(
        "The checksums of timm %s's scripts are not recorded: those of timm %s are used. Give the path of your own "
        "script, or set TIMM_SCRIPTS, for others.",
        version,
        newest,
    )
    return newest


def _in_folder(name: str, folder: str, given_by: str) -> Path:
    path = Path(folder).expanduser() / name
    if not path.is_file():
        versions = f", or one of the versions {', '.join(SHA256)}" if given_by.startswith("-") else ""
        raise GCPError(f"{given_by} {folder} is no folder that holds {name}; give a checkout of timm{versions}.")
    return path


def _fetch(name: str, version: str) -> Path:
    if version not in SHA256:
        recorded = ", ".join(SHA256)
        raise GCPError(
            f"timm {version} comes without {name}, and its checksum is not recorded here, so it is not fetched; "
            f"{_BY_HAND}, or take that of a recorded version (--timm-scripts VERSION: {recorded})."
        )
    # Another address serves mirrors; the checksum holds for them too.
    at = os.environ.get("TIMM_SCRIPTS_URL", _TAGS).rstrip("/")
    return download(
        f"{at}/v{version}/{name}",
        cache_folder() / "scripts" / version / name,
        sha256=SHA256[version][name],
        what=f"{name} of timm {version}",
        remedy=_BY_HAND,
    )
