"""``timm_gcp.evaluate``: ``timm-gcp validate`` from Python."""

from os import PathLike
from typing import Any

from ..commands.validate import read_validate_keywords, validate, validate_parser
from .evaluation_result import EvaluationResult
from .function import takes_options_of
from .named_model import Model, split_model

__all__ = ["evaluate"]


@takes_options_of(validate_parser())
def evaluate(
    model: Model | None = None, data_dir: str | PathLike[str] | None = None, **options: Any
) -> EvaluationResult:
    """Evaluates a model on a data set, as ``timm-gcp validate`` does.

    Args:
        model: registered name, model folder, run folder, result of ``timm_gcp.train`` or ``hf-hub:`` id, loaded with
            its weights; or a timm model, which is moved to the device and left in evaluation mode.
        data_dir: folder of the data set.
        **options: the long options of the command with underscores, such as ``split="test"`` and ``report="page"``.
            None counts as not given.

    Returns:
        The metrics and predictions.

    Raises:
        GCPError: as the command: a model or data set that cannot be had, or that do not fit each other.

    Example::

        found = timm_gcp.evaluate("runs/a", "photos", split="test")
        print(found.top1, found.interval)
    """
    network, named = split_model(model, options)
    args = read_validate_keywords({**named, "data_dir": data_dir}, "timm_gcp.evaluate")
    return EvaluationResult(validate(args, network))
