"""One repository of the Hub: reading it, committing files to it, downloading a revision."""

import copy
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import GCPError
from .retry import attempt, status_of

__all__ = ["check_login", "check_repo_id", "commit", "download", "make_repository", "read_info"]


def check_login() -> None:
    """Makes sure that there is a token, before any work is done.

    Raises:
        GCPError: there is none.
    """
    if get_token() is None:
        raise GCPError(
            "Not logged in to the Hugging Face Hub; run `hf auth login` with a token that may write, or set HF_TOKEN."
        )


def check_repo_id(repo: str, option: str) -> str:
    """The name of a repository, if it can be one.

    Args:
        repo: ``org/name``.
        option: the option that gave it, for the message.

    Raises:
        GCPError: it is no such name.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise GCPError(f"'{repo}' is not a valid repository name; correct {option}.") from error
    return repo


def make_repository(repo: str, *, private: bool, kind: str = "model", remedy: str) -> Any:
    """Makes a repository where there is none.

    Args:
        repo: ``org/name``.
        private: a new repository is private, and one that exists must be.
        kind: 'model' or 'space', which has a Gradio app.
        remedy: what to do where a public one exists, for the message.

    Returns:
        What the Hub says of it.

    Raises:
        GCPError: it exists and is public although ``private``, or the Hub refuses.
    """
    sdk = "gradio" if kind == "space" else None
    # None, not False: the organisation may have a default of its own.
    attempt(
        lambda: HfApi().create_repo(repo, repo_type=kind, space_sdk=sdk, private=private or None, exist_ok=True),
        f"creating the repository {repo}",
    )
    info = read_info(repo, kind=kind)
    if private and not info.private:
        raise GCPError(f"{repo} exists and is public; make it private in its settings, or {remedy}.")
    return info


def read_info(repo: str, revision: str | None = None, *, kind: str = "model") -> Any:
    """What the Hub says of a repository at a revision; ``sha`` is the full commit id.

    Args:
        repo: ``org/name``.
        revision: commit id, branch or tag; None takes the main branch.
        kind: 'model' or 'space'.

    Raises:
        GCPError: the repository or the revision does not exist, or the Hub cannot be reached.
    """
    shown = repo if revision is None else f"{repo}@{revision[:12]}"
    return attempt(lambda: HfApi().repo_info(repo, revision=revision, repo_type=kind), f"reading {shown}")


def commit(
    repo: str,
    files: Sequence[CommitOperationAdd],
    parent: str,
    message: str,
    *,
    kind: str = "model",
    stale: Collection[str] = (),
) -> str:
    """Commits files on top of a revision; if it would change nothing, nothing is committed.

    The commit is the last request, so an upload that breaks off leaves the repository as it was.

    Args:
        repo: ``org/name``.
        files: the files; other files of the repository are kept.
        parent: the revision on which they are committed, the repository's latest.
        message: commit message.
        kind: 'model' or 'space'.
        stale: names of files that are removed where the repository has them.

    Returns:
        The revision that holds the files.

    Raises:
        GCPError: somebody else committed since `parent`, the Hub refuses, or it keeps failing.
    """

    def once() -> str:
        # create_commit, not upload_folder: that one may split a folder into several commits, and repeats a commit whose
        # answer was lost as if it had not been made, which the Hub refuses. Fresh copies: an operation remembers that
        # it was uploaded, and create_commit asks the Hub only about the others whether they are there unchanged.
        operations: list[CommitOperationAdd | CommitOperationDelete] = [copy.copy(file) for file in files]
        # Asked in each attempt: after a commit whose answer was lost, the stale files are gone.
        present = _names(HfApi().repo_info(repo, repo_type=kind)) if stale else set()
        operations += [CommitOperationDelete(name) for name in present.intersection(stale)]
        try:
            made = HfApi().create_commit(repo, operations, commit_message=message, parent_commit=parent, repo_type=kind)
            return made.oid
        except HfHubHTTPError as error:
            if status_of(error) in (409, 412):
                raise GCPError(
                    f"Somebody else committed to {repo} while this was being published, and nothing was overwritten; "
                    "look at its history and publish again."
                ) from error
            raise

    return attempt(once, f"uploading to {repo}")


def _names(info: Any) -> set[str]:
    return {file.rfilename for file in info.siblings or ()}


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
