"""``python -m hub publish``: a checkpoint goes to the Hub in one commit, is checked there, then enters the manifest."""

import argparse
import dataclasses
import difflib
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object
from timm_gcp.files import sha256_of
from timm_gcp.text import nearest
from timm_gcp.weights.manifest import MANIFEST, Checkpoint, read_manifest, write_manifest

from .check import download, load, logits_of, same_logits
from .remote import attempt, commit, read_state
from .staging import Staged, stage

_UNKNOWN = 40 * "0"
"""Stands for the commit of a dry run, which has none."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m hub publish", description=__doc__.split("\n")[0])
    parser.add_argument("name", help="a row of the manifest, such as resnet50_svdpade.in1k")
    parser.add_argument("--org", required=True, help="organisation or user on the Hub")
    parser.add_argument(
        "--folder", type=path_object, help="model folder with the weights (default: what the row resolves to)"
    )
    parser.add_argument(
        "--manifest", type=path_object, default=MANIFEST, help="manifest to read and write (the package's)"
    )
    parser.add_argument("--curves", type=path_object, help="picture of the training curves, for the card")
    parser.add_argument("--private", action="store_true", help="make a new repository that only ORG sees")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done; nothing is sent")
    args = parser.parse_args(argv)

    rows = read_manifest(args.manifest)
    row = _publishable(rows, args.name, args.manifest)
    repo = _repo_id(args.org, args.name)
    if not args.dry_run and get_token() is None:
        raise GCPError("No login of the Hugging Face Hub is stored; run `hf auth login` with a token that may write.")
    staged = stage(row, repo, folder=args.folder, curves=args.curves)
    if args.dry_run:
        _show(staged, rows, repo, args.manifest)
        return 0
    revision = _upload(staged, repo, private=args.private)
    _compare(staged, repo, revision)
    _pin(row, _pinned(staged, repo, revision), args.manifest)
    print(f"{args.manifest} pins {row.name} to {repo}@{revision}.")
    return 0


def _publishable(rows: dict[str, Checkpoint], name: str, manifest: Path) -> Checkpoint:
    if name not in rows:
        raise GCPError(
            f"{manifest} has no row '{name}'; add one with name, description, licence, metrics, model_args, "
            "num_classes, label_names and preprocessing (timm_gcp.weights.manifest explains them)"
            f"{nearest(name, rows)}"
        )
    row = rows[name]
    if not row.licence:
        raise GCPError(f"Row '{name}' has no licence, so it may not be published; find out its licence and add it.")
    return row


def _repo_id(org: str, name: str) -> str:
    repo = f"{org}/{name}"
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise GCPError(f"'{repo}' is no name of a repository on the Hub; correct --org.") from error
    return repo


def _upload(staged: Staged, repo: str, *, private: bool) -> str:
    """The revision that holds the staged files: a new commit, or the present one where nothing has changed."""
    attempt(
        lambda: HfApi().create_repo(repo, private=private or None, exist_ok=True), f"creating the repository {repo}"
    )
    base = read_state(repo)
    if private and not base.private:
        raise GCPError(f"{repo} exists and is public; make it private in its settings, or leave out --private.")
    if all(base.holds(file) for file in staged.files):
        print(f"{repo} holds all of this already; no commit is made.")
        return base.revision
    revision = commit(repo, staged.files, base, f"{staged.row.name}: weights, configuration and card")
    print(f"Committed to {repo} as {revision}.")
    return revision


def _compare(staged: Staged, repo: str, revision: str) -> None:
    """Downloads the revision afresh; refuses one that is not, byte by byte and in its logits, what was sent."""
    sent = {file.path_in_repo: file.upload_info.sha256.hex() for file in staged.files}
    undone = f"the manifest stays as it was; look at {repo}@{revision[:12]} and publish again"
    with tempfile.TemporaryDirectory() as cache:
        for name, path in download(repo, revision, sent, Path(cache)).items():
            if sha256_of(path) != sent[name]:
                raise GCPError(f"The Hub gives back another {name} than was sent (its sha256 differs); {undone}.")
        size = staged.row.input_size
        if not same_logits(logits_of(staged.model, size), logits_of(load(repo, revision, Path(cache)), size)):
            raise GCPError(f"The model from the Hub gives other logits than the local one; {undone}.")


def _pinned(staged: Staged, repo: str, revision: str) -> Checkpoint:
    return dataclasses.replace(staged.row, hub=f"{repo}@{revision}")


def _pin(before: Checkpoint, after: Checkpoint, manifest: Path) -> None:
    # Read again: the upload may have taken long, and other rows may have changed meanwhile.
    rows = read_manifest(manifest)
    if rows.get(before.name) != before:
        raise GCPError(f"Row '{before.name}' of {manifest} changed during the upload; publish it again as it is now.")
    write_manifest({**rows, before.name: after}, manifest)


def _show(staged: Staged, rows: dict[str, Checkpoint], repo: str, manifest: Path) -> None:
    print(f"Dry run: nothing is sent. {repo} would hold")
    for file in staged.files:
        print(f"  {file.path_in_repo:18} {file.upload_info.size:>13,} bytes  sha256 {file.upload_info.sha256.hex()}")
    print(f"\nThe card:\n\n{staged.card}\nThe manifest:\n")
    after = {**rows, staged.row.name: _pinned(staged, repo, _UNKNOWN)}
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / manifest.name
        write_manifest(after, written)
        new = written.read_text(encoding="utf-8").replace(f"@{_UNKNOWN}", "@<the commit>")
    old = manifest.read_text(encoding="utf-8")
    print("".join(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "before", "after")), end="")
