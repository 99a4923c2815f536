"""Models on the Hugging Face Hub: their ids, and what to do where the Hub has none or refuses it."""

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from ..errors import GCPError

__all__ = ["check_id", "refusal_of"]


def check_id(place: str) -> None:
    """Checks the id of a model before the Hub is asked.

    Args:
        place: ``user/name``, also with ``@revision``.

    Raises:
        GCPError: it is no such id.
    """
    repo = place.partition("@")[0]
    # The client takes ids without a user, too: a few old models of transformers have them, and none of timm.
    valid = repo.count("/") == 1
    try:
        validate_repo_id(repo)
    except HFValidationError:
        valid = False
    if not valid:
        raise GCPError(
            f"'{repo}' is not the id of a model on the Hub; give user/name, such as hf-hub:timm/resnet18.a1_in1k."
        )


def refusal_of(error: Exception, place: str) -> GCPError | None:
    """What an error of the Hub's client means for a user.

    Args:
        error: raised while the configuration or the weights were fetched.
        place: ``user/name``, also with ``@revision``.

    Returns:
        The error to raise; None for one that is no answer of the Hub about this model.
    """
    repo, _, revision = place.partition("@")
    if isinstance(error, GatedRepoError):  # a RepositoryNotFoundError, too
        return GCPError(
            f"{repo} is on the Hub under terms that your login has not accepted; accept them on its page, and log in "
            "with `hf auth login`."
        )
    if isinstance(error, RepositoryNotFoundError):
        return GCPError(
            f"There is no model {repo} on the Hub, or your login may not read it; correct the name, or log in with "
            "`hf auth login`."
        )
    if isinstance(error, RevisionNotFoundError):
        return GCPError(f"{repo} on the Hub has no revision '{revision}'; correct it, or leave it out.")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return GCPError(f"{repo} on the Hub is not a model of timm: it lacks config.json or weights; give another one.")
    return None
