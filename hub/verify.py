"""``python -m hub verify``: checks that every revision pinned in the manifest exists, is unchanged and works."""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object
from timm_gcp.files import sha256_of
from timm_gcp.sharing.repository import download, read_info
from timm_gcp.text import nearest
from timm_gcp.weights.manifest import MANIFEST, Checkpoint, read_manifest

from .logits import load_revision, logits_of
from .staging import CONFIG, WEIGHTS


@dataclass(frozen=True)
class Verdict:
    """The outcome of the check of one row.

    Attributes:
        name: name of the row.
        hub: ``org/name@revision``.
        problem: why the check failed; None if it passed.
    """

    name: str
    hub: str
    problem: str | None


def main(argv: list[str]) -> int:
    """Runs the command ``verify``; returns its exit status: 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m hub verify", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows to check (default: all that are on the Hub)")
    parser.add_argument("--manifest", type=path_object, default=MANIFEST, help="manifest to check (the package's)")
    args = parser.parse_args(argv)

    rows = _chosen(read_manifest(args.manifest), args.names)
    if not rows:
        print("No row of the manifest is on the Hub.")
        return 0
    verdicts = [verify(row) for row in rows]
    table = Table(box=box.SIMPLE)
    for title in ("name", "revision", "outcome"):
        table.add_column(title, overflow="fold")
    for verdict in verdicts:
        repo, _, revision = verdict.hub.partition("@")
        table.add_row(verdict.name, f"{repo}@{revision[:12]}", verdict.problem or "ok")
    Console().print(table, markup=False)
    return 1 if any(verdict.problem for verdict in verdicts) else 0


def verify(row: Checkpoint) -> Verdict:
    """Downloads the pinned revision of a row, without the cache, and checks it against the row.

    Args:
        row: a row with a pinned revision.
    """
    assert row.hub is not None
    repo, _, revision = row.hub.partition("@")
    try:
        _check(row, repo, revision)
    except GCPError as error:
        return Verdict(row.name, row.hub, str(error))
    return Verdict(row.name, row.hub, None)


def _chosen(rows: dict[str, Checkpoint], names: list[str]) -> list[Checkpoint]:
    for name in names:
        if name not in rows:
            raise GCPError(f"The manifest has no row '{name}'{nearest(name, rows)}")
        if rows[name].hub is None:
            raise GCPError(f"Row '{name}' is not on the Hub yet; publish it first.")
    return [rows[name] for name in names] if names else [row for row in rows.values() if row.hub is not None]


def _check(row: Checkpoint, repo: str, revision: str) -> None:
    read_info(repo, revision)
    with tempfile.TemporaryDirectory() as cache:
        files = download(repo, revision, (CONFIG, WEIGHTS), Path(cache))
        found = sha256_of(files[WEIGHTS])
        if found != row.sha256:
            raise GCPError(f"{WEIGHTS} has sha256 {found[:12]}… instead of {str(row.sha256)[:12]}….")
        _check_configuration(row, files[CONFIG])
        if not logits_of(load_revision(repo, revision, Path(cache)), row.input_size).isfinite().all():
            raise GCPError("Its logits are not finite.")


def _check_configuration(row: Checkpoint, path: Path) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        given = {"architecture": config["architecture"], "model_args": config.get("model_args", {})}
    except (ValueError, KeyError, AttributeError) as error:
        raise GCPError(f"{CONFIG} is not in timm's format ({type(error).__name__}).") from error
    expected = {"architecture": row.architecture, "model_args": json.loads(json.dumps(dict(row.model_args)))}
    for key, value in expected.items():
        if given[key] != value:
            raise GCPError(f"{CONFIG} has {key} {given[key]} instead of {value}.")
