"""Refuses to write results into a folder that belongs to a run or a model."""

from pathlib import Path

from ..errors import GCPError
from ..files import check_output_folder
from ..reports.compare import PAGE as COMPARISON
from ..reports.report import PAGE as REPORT

__all__ = ["OF_OTHERS", "OF_TRAINING", "check_results_folder"]

OF_TRAINING = ("args.yaml", "last.pth.tar", "summary.csv")
"""Files of a run folder, ours or that of timm's scripts, one of which a started training has."""
OF_OTHERS = (*OF_TRAINING, "model", "config.json")
"""What is in the folder of a training, a probe or a model."""


def check_results_folder(path: str, option: str, suggestion: str, *, others: tuple[str, ...] = OF_OTHERS) -> None:
    """Checks, before any work is done, that a folder can take the results of a command.

    Args:
        path: of the folder.
        option: the option that gave it, for the message.
        suggestion: name of a folder within it, or beside a model folder, that the message suggests.
        others: names of which the folder may hold none, because they say that it belongs to something else.

    Raises:
        GCPError: it holds one of them, or as `check_output_folder`.
    """
    check_output_folder(path, option)
    folder = Path(path)
    if found := next((name for name in others if (folder / name).exists()), None):
        owner = {REPORT: "a report", COMPARISON: "a comparison", "config.json": "a model"}.get(found, "a run")
        place = folder.parent if found == "config.json" else folder  # a model folder holds nothing else
        raise GCPError(
            f"{option} {path} is the folder of {owner} (it holds {found}), whose files would be replaced or mixed with "
            f"others; choose another, such as {place / suggestion}."
        )
