"""Puts a user's model on the Hugging Face Hub: the files with their card, one commit, and a Space that runs it."""

from .push import Pushed, Staged, push, stage, write
from .repository import check_login, check_repo_id

__all__ = ["Pushed", "Staged", "check_login", "check_repo_id", "push", "stage", "write"]
