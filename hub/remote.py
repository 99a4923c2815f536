"""One repository of the Hub: reading it, committing to it, and what its server answers, in words."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils.sha import git_hash

from timm_gcp import GCPError

PAUSES = (1, 2, 4)
"""Seconds before each further attempt at what a server error stopped."""

T = TypeVar("T")


@dataclass(frozen=True)
class RepoState:
    """A repository at one revision.

    Attributes:
        revision: full commit id.
        private: whether only its organisation sees it.
        sha256: of the large files, by path.
        blob_id: git's checksum of every other file, by path.
    """

    revision: str
    private: bool
    sha256: Mapping[str, str]
    blob_id: Mapping[str, str]

    def holds(self, file: CommitOperationAdd) -> bool:
        """Whether the repository has this file with this content."""
        if file.path_in_repo in self.sha256:
            return self.sha256[file.path_in_repo] == file.upload_info.sha256.hex()
        if file.path_in_repo not in self.blob_id:
            return False
        with file.as_file() as content:
            return self.blob_id[file.path_in_repo] == git_hash(content.read())


def read_state(repo: str, revision: str | None = None) -> RepoState:
    """Reads a repository's files and their checksums.

    Args:
        repo: ``org/name``.
        revision: commit id, branch or tag; None takes the main branch.

    Raises:
        GCPError: the repository or the revision does not exist, or the Hub cannot be reached.
    """
    info = attempt(
        lambda: HfApi().model_info(repo, revision=revision, files_metadata=True), f"reading {_shown(repo, revision)}"
    )
    files = info.siblings or []
    return RepoState(
        revision=str(info.sha),
        private=bool(info.private),
        sha256={file.rfilename: file.lfs.sha256 for file in files if file.lfs},
        blob_id={file.rfilename: str(file.blob_id) for file in files if not file.lfs},
    )


def commit(repo: str, files: Sequence[CommitOperationAdd], base: RepoState, message: str) -> str:
    """Commits files on top of the revision that was read; files that are there already make no commit.

    The commit is the last request, so an upload that breaks off leaves the repository as it was.

    Args:
        repo: ``org/name``.
        files: what the repository shall hold; its other files stay.
        base: the repository as it was read.
        message: of the commit.

    Returns:
        The revision that holds the files.

    Raises:
        GCPError: the repository changed since it was read, the Hub refuses, or keeps failing.
    """

    def once() -> str:
        # Read again: the commit of an attempt whose answer was lost is there.
        now = read_state(repo)
        if all(now.holds(file) for file in files):
            return now.revision
        if now.revision != base.revision:
            raise _concurrent(repo)
        try:
            return HfApi().create_commit(repo, files, commit_message=message, parent_commit=base.revision).oid
        except HfHubHTTPError as error:
            if _status(error) in (409, 412):
                raise _concurrent(repo) from error
            raise

    return attempt(once, f"uploading to {repo}")


def attempt(action: Callable[[], T], doing: str) -> T:
    """Runs what talks to the Hub, and again after a server error, a few times and ever later.

    Args:
        action: what is done.
        doing: the same in words, such as "reading org/name".

    Raises:
        GCPError: the Hub refuses, or its errors last.
    """
    pauses = iter(PAUSES)
    while True:
        try:
            return action()
        except GCPError:
            raise
        except Exception as error:  # the client raises those of its HTTP library, which changed between its versions
            fault = _server_fault(error)
            if fault is None:
                refusal = _refusal(error, doing)
                if refusal is None:
                    raise
                raise refusal from error
            pause = next(pauses, None)
            if pause is None:
                raise GCPError(f"The Hub kept failing while {doing}: {fault}; try again later.") from error
        print(f"While {doing}: {fault}; again in {pause} s", file=sys.stderr)
        time.sleep(pause)


def _server_fault(error: BaseException) -> str | None:
    """What a server or the connection to it did wrong, if that is the error; it may pass."""
    causes = list(_chain(error))
    for status in filter(None, map(_status, causes)):
        return f"server error {status}" if status >= 500 or status in (408, 429) else None
    for cause in reversed(causes):
        # Both generations of httpx call it so; those of requests are OSErrors, of the Xet transfer RuntimeErrors.
        transport = any(base.__name__ == "TransportError" for base in type(cause).__mro__)
        if transport or isinstance(cause, (OSError, RuntimeError)):
            reason = str(cause).strip().split("\n")[0].rstrip(".")
            return f"the transfer broke off ({type(cause).__name__}: {reason})"
        if isinstance(cause, json.JSONDecodeError):
            return "an answer that is not JSON"
    return None


def _refusal(error: BaseException, doing: str) -> GCPError | None:
    """The sentence about a request that the Hub refused; None if the error is none of the Hub's."""
    if "Invalid metadata in README.md" in str(error):
        reasons = " ".join(str(error).split("\n")[1:])
        return GCPError(f"The Hub refuses the card's metadata ({reasons}); correct the row, its licence first of all.")
    for cause in _chain(error):
        status = _status(cause)
        if status in (401, 403):
            return GCPError(
                f"The Hub answers {status} while {doing}; log in with `hf auth login`, with a token that may do this, "
                "and check the repository's name."
            )
        if status == 404:
            return GCPError(
                f"The Hub answers 404 while {doing}: it does not exist; check organisation, name and revision."
            )
        if status is not None:
            message = getattr(cause, "server_message", None) or "without a reason"
            return GCPError(f"The Hub answers {status} while {doing} ({message}); correct that and try again.")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    if not isinstance(error, HfHubHTTPError):
        return None
    return getattr(getattr(error, "response", None), "status_code", None)


def _concurrent(repo: str) -> GCPError:
    return GCPError(
        f"Somebody else committed to {repo} while this was being published, and nothing was overwritten; look at its "
        "history and publish again."
    )


def _shown(repo: str, revision: str | None) -> str:
    return repo if revision is None else f"{repo}@{revision[:12]}"
