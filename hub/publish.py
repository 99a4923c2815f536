"""``python -m hub publish``: commits a checkpoint to the Hub, downloads and checks it, then pins it in the manifest."""

import argparse
import dataclasses
import difflib
import tempfile
from pathlib import Path

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object
from timm_gcp.files import sha256_of
from timm_gcp.sharing.repository import check_login, check_repo_id, commit, download, make_repository
from timm_gcp.text import nearest
from timm_gcp.weights.manifest import MANIFEST, Checkpoint, read_manifest, write_manifest

from .logits import load_revision, logits_of, same_logits
from .staging import Staged, stage

_UNKNOWN = 40 * "0"
"""The revision that a dry run shows, which makes no commit."""


def main(argv: list[str]) -> int:
    """Runs the command ``publish``; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m hub publish", description=__doc__.split("\n")[0])
    parser.add_argument("name", help="a row of the manifest, such as resnet50_svdpade.in1k")
    parser.add_argument("--org", required=True, help="organisation or user on the Hub")
    parser.add_argument(
        "--folder", type=path_object, help="model folder with the weights (default: what the row resolves to)"
    )
    parser.add_argument(
        "--manifest", type=path_object, default=MANIFEST, help="manifest to read and write (the package's)"
    )
    parser.add_argument("--curves", type=path_object, help="PNG file of the training curves, for the card")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="show what would be published; send nothing")
    args = parser.parse_args(argv)

    rows = read_manifest(args.manifest)
    row = _publishable(rows, args.name, args.manifest)
    repo = check_repo_id(f"{args.org}/{args.name}", "--org")
    if not args.dry_run:
        check_login()
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
            "num_classes, label_names and preprocessing (see timm_gcp/weights/manifest.py)"
            f"{nearest(name, rows)}"
        )
    row = rows[name]
    if not row.licence:
        raise GCPError(f"Row '{name}' has no licence, so it may not be published; find out its licence and add it.")
    return row


def _upload(staged: Staged, repo: str, *, private: bool) -> str:
    """Commits the files; returns the new revision, or the latest one if it holds all of them already."""
    before = make_repository(repo, private=private, remedy="leave out --private")
    message = f"{staged.row.name}: weights, configuration and card"
    revision = commit(repo, staged.files, str(before.sha), message)
    if revision == before.sha:
        print(f"{repo} holds all of this already; no commit is made.")
    else:
        print(f"Committed to {repo} as {revision}.")
    return revision


def _compare(staged: Staged, repo: str, revision: str) -> None:
    """Downloads the revision into an empty cache and compares files and logits with what was sent.

    Raises:
        GCPError: a file or the logits differ.
    """
    sent = {file.path_in_repo: file.upload_info.sha256.hex() for file in staged.files}
    undone = f"the manifest is unchanged; look at {repo}@{revision[:12]} and publish again"
    with tempfile.TemporaryDirectory() as cache:
        for name, path in download(repo, revision, sent, Path(cache)).items():
            if sha256_of(path) != sent[name]:
                raise GCPError(f"The downloaded {name} is not the one that was sent (its sha256 differs); {undone}.")
        size = staged.row.input_size
        if not same_logits(logits_of(staged.model, size), logits_of(load_revision(repo, revision, Path(cache)), size)):
            raise GCPError(f"The downloaded model gives other logits than the local one; {undone}.")


def _pinned(staged: Staged, repo: str, revision: str) -> Checkpoint:
    return dataclasses.replace(staged.row, hub=f"{repo}@{revision}")


def _pin(before: Checkpoint, after: Checkpoint, manifest: Path) -> None:
    # Read again: the upload may take long, and other rows may have changed in the meantime.
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
