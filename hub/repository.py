"""One repository of the Hub: reading it, committing files to it, downloading a revision."""

import copy
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelInfo, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from timm_gcp import GCPError

from .retry import attempt, status_of


def read_info(repo: str, revision: str | None = None) -> ModelInfo:
    """What the Hub says of a repository at a revision; ``sha`` is the full commit id.

    Args:
        repo: ``org/name``.
        revision: commit id, branch or tag; None takes the main branch.

    Raises:
        GCPError: the repository or the revision does not exist, or the Hub cannot be reached.
    """
    shown = repo if revision is None else f"{repo}@{revision[:12]}"
    return attempt(lambda: HfApi().model_info(repo, revision=revision), f"reading {shown}")


def commit(repo: str, files: Sequence[CommitOperationAdd], parent: str, message: str) -> str:
    """Commits files on top of a revision; if the repository holds all of them already, nothing is committed.

    The commit is the last request, so an upload that breaks off leaves the repository as it was.

    Args:
        repo: ``org/name``.
        files: the files; other files of the repository are kept.
        parent: the revision on which they are committed, the repository's latest.
        message: commit message.

    Returns:
        The revision that holds the files.

    Raises:
        GCPError: somebody else committed since `parent`, the Hub refuses, or it keeps failing.
    """

    def once() -> str:
        # create_commit, not upload_folder: that one may split a folder into several commits, and repeats a commit whose
        # answer was lost as if it had not been made, which the Hub refuses. Fresh copies: an operation remembers that
        # it was uploaded, and create_commit asks the Hub only about the others whether they are there unchanged.
        operations = [copy.copy(file) for file in files]
        try:
            return HfApi().create_commit(repo, operations, commit_message=message, parent_commit=parent).oid
        except HfHubHTTPError as error:
            if status_of(error) in (409, 412):
                raise GCPError(
                    f"Somebody else committed to {repo} while this was being published, and nothing was overwritten; "
                    "look at its history and publish again."
                ) from error
            raise

    return attempt(once, f"uploading to {repo}")


def download(repo: str, revision: str, names: Iterable[str], cache: Path) -> dict[str, Path]:
    """Downloads files of one revision.

    Args:
        repo: ``org/name``.
        revision: commit id.
        names: paths in the repository.
        cache: cache folder; an empty one, so that every file is really downloaded.

    Returns:
        Name → path of the downloaded file.

    Raises:
        GCPError: a file does not exist, or the Hub cannot be reached.
    """
    files = {}
    for name in names:
        fetch = partial(hf_hub_download, repo, name, revision=revision, cache_dir=cache)
        files[name] = Path(str(attempt(fetch, f"downloading {name} of {repo}@{revision[:12]}")))
    return files
