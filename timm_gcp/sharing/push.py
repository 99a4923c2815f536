"""Puts a model folder on the Hub, and a Space that runs it."""

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi

from ..errors import GCPError
from ..files import make_parents, remove_files, written_aside
from ..models.folder import read_config
from ..models.named import create_model, model_folder, source_of
from ..tasks import task_of_notes
from .accuracy import accuracies_of
from .card import CURVES, render_card
from .recipe import read_recipe
from .repository import commit, make_repository
from .space import SPACE_FILES, is_space, space_files

__all__ = ["Pushed", "Staged", "push", "stage", "write"]

_WEIGHTS, _CONFIG, _CARD = "model.safetensors", "config.json", "README.md"

Files = Mapping[str, Path | bytes]
"""Name in a repository → the file, or its content."""


@dataclass(frozen=True)
class Staged:
    """What a push sends.

    Attributes:
        repo: ``user/name`` of the model, and of its Space.
        architecture: registered name.
        model: files of the model.
        space: files of the Space; None for no Space.
    """

    repo: str
    architecture: str
    model: Files
    space: Files | None


@dataclass(frozen=True)
class Pushed:
    """A repository after a push.

    Attributes:
        url: its page.
        revision: commit id that holds the files.
        changed: whether a commit was made; False where the repository held all of them.
        private: whether only its owners see it.
    """

    url: str
    revision: str
    changed: bool
    private: bool


def stage(run: str, repo: str, licence: str | None = None, *, space: bool = False) -> Staged:
    """Makes the files of a model on the Hub, and checks that the model can be built from them.

    Args:
        run: run folder of ``timm-gcp train`` or ``timm-gcp probe``, or a model folder.
        repo: ``user/name``.
        licence: identifier of the licence of the weights; None takes that of the folder.
        space: also a Space.

    Raises:
        GCPError: no model folder, one that cannot be built, or no licence.
    """
    folder = Path(model_folder(run))
    if not folder.is_dir():
        raise GCPError(f"{run} is not a folder; give a run folder of timm-gcp train or probe, or a model folder.")
    source_of(f"local-dir:{folder}")
    if not (folder / _WEIGHTS).is_file():
        raise GCPError(f"{folder} has no {_WEIGHTS}; give a folder that timm-gcp train, probe or convert wrote.")
    config = _config(folder)
    licence = licence or config["pretrained_cfg"].get("license")
    if not licence:
        raise GCPError(
            "No licence is recorded for these weights; state it by --license ID, such as apache-2.0 or cc-by-nc-4.0 "
            "(the weights that they started from, and the images, may demand one)."
        )
    network = create_model(f"local-dir:{folder}", pretrained=True)
    config["pretrained_cfg"]["license"] = licence
    curves = folder.absolute().parent / CURVES
    record = read_recipe(folder) if folder.name == "model" else None
    has_curves = record is not None and curves.is_file()
    accuracies = accuracies_of(config, record)
    parameters = sum(p.numel() for p in network.parameters())
    files: dict[str, Path | bytes] = {
        _WEIGHTS: folder / _WEIGHTS,
        _CONFIG: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
        _CARD: render_card(repo, config, licence, accuracies, parameters, has_curves).encode(),
    }
    if has_curves:
        files[CURVES] = curves
    architecture = str(config["architecture"])
    app = None
    if space:
        app = space_files(repo, architecture, licence, task_of_notes(config["pretrained_cfg"].get("notes")))
    return Staged(repo, architecture, files, app)


def _config(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    if not config.get("num_classes") or not config.get("pretrained_cfg", {}).get("input_size"):
        raise GCPError(
            f"{folder / _CONFIG} lacks 'num_classes', or 'input_size' in 'pretrained_cfg'; give a folder that timm-gcp "
            "train, probe or convert wrote."
        )
    return config


def push(staged: Staged, *, public: bool = False) -> dict[str, Pushed]:
    """Commits the files of a model, and then those of its Space, each in one commit.

    The files of an earlier push are replaced or removed, others kept.

    Args:
        staged: the files.
        public: make new repositories public; else they are private, and those that exist must be.

    Returns:
        'model', and 'space' if there is one → the repository.

    Raises:
        GCPError: a repository is public although not ``public``, somebody else committed, or the Hub refuses.
    """
    pushed = {"model": _commit(staged.repo, "model", staged.model, public, _stale(staged))}
    if staged.space is not None:
        pushed["space"] = _commit(staged.repo, "space", staged.space, public)
    return pushed


def _stale(staged: Staged) -> set[str]:
    """Files that another model of this repository may have had, and this one has not."""
    return {CURVES} - set(staged.model)


def _commit(repo: str, kind: str, files: Files, public: bool, stale: Collection[str] = ()) -> Pushed:
    before = make_repository(repo, private=not public, kind=kind, remedy="add --public")
    operations = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in files.items()
    ]
    revision = commit(repo, operations, str(before.sha), f"Push the {kind} by timm-gcp", kind=kind, stale=stale)
    place = f"{HfApi().endpoint}/{'spaces/' if kind == 'space' else ''}{repo}"
    return Pushed(place, revision, revision != before.sha, bool(before.private))


def write(staged: Staged, folder: Path) -> None:
    """Writes the files that a push would send: into ``model`` and ``space`` in a folder.

    Args:
        staged: the files.
        folder: where; the files of an earlier push are replaced or removed, others kept.

    Raises:
        GCPError: the folder cannot be written.
    """
    remove_files(folder / "model", _stale(staged))
    if staged.space is None and is_space(folder / "space"):
        remove_files(folder / "space", SPACE_FILES)
    for kind, files in (("model", staged.model), ("space", staged.space or {})):
        for name, content in files.items():
            path = folder / kind / name
            make_parents(path)
            with written_aside(path) as scratch:
                if isinstance(content, bytes):
                    scratch.write_bytes(content)
                else:
                    shutil.copyfile(content, scratch)
