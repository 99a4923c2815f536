"""The accuracies of a model, from the record of its run, as entries of the Hub's ``model-index``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult

__all__ = ["Accuracy", "accuracies_of", "model_index"]


_TITLES = {
    "top1": ("Top-1 accuracy", "accuracy"),
    "top5": ("Top-5 accuracy", "accuracy"),
    "map": ("Mean average precision", "mean_average_precision"),
    "micro_f1": ("Micro F1", "f1"),
    "macro_f1": ("Macro F1", "f1"),
}
"""What a run may have measured, and the type that the Hub knows it by."""


@dataclass(frozen=True)
class Accuracy:
    """One measured accuracy.

    Attributes:
        data: name of the data set.
        split: the images that were evaluated; '' where it is not known.
        name: of the metric, such as 'Top-1 accuracy'.
        value: in per cent.
        source_name: who measured it; None for the model's author.
        source_url: where it was published; None for nowhere.
        metric: its type, as the Hub calls it.
    """

    data: str
    split: str
    name: str
    value: float
    source_name: str | None = None
    source_url: str | None = None
    metric: str = "accuracy"


def accuracies_of(config: Mapping[str, Any], record: Mapping[str, Any] | None) -> list[Accuracy]:
    """What a run measured of its model.

    Args:
        config: ``config.json`` of the model folder.
        record: ``result.json`` of the run, of ``timm-gcp train`` or ``timm-gcp probe``; None for no run.

    Returns:
        None of them for a model without a record. The top-5 accuracy of five classes or fewer says nothing, and is
        left out.
    """
    if record is None:
        return []
    data = (config.get("training") or {}).get("data") or record.get("data") or {}
    name, splits = str(data.get("name") or "not recorded"), list(data.get("images") or ())
    if "heads" in record:
        return _of_probe(record["heads"][0], name, splits)
    how = f", test-time augmentation {record['tta']}" if record.get("tta") else ""
    wanted = dict(_TITLES)
    if config.get("num_classes", 0) <= 5:
        del wanted["top5"]
    split = str(record.get("split") or "")
    return [
        Accuracy(name, split, f"{title}{how}", record[key], metric=metric)
        for key, (title, metric) in wanted.items()
        if record.get(key) is not None
    ]


def _of_probe(head: Mapping[str, Any], name: str, splits: list[str]) -> list[Accuracy]:
    if head.get("validation") is not None:
        return [Accuracy(name, splits[-1] if splits else "", "Top-1 accuracy", head["validation"])]
    if head.get("left_out") is not None:
        return [Accuracy(name, splits[0] if splits else "", "Top-1 accuracy, leave-one-out", head["left_out"])]
    return []


def model_index(accuracies: list[Accuracy]) -> list[EvalResult]:
    """Accuracies as entries of the Hub's ``model-index``."""
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=re.sub(r"[^a-z0-9]+", "-", each.data.lower()).strip("-") or "images",
            dataset_name=each.data,
            dataset_split=each.split or None,
            metric_type=each.metric,
            metric_name=each.name,
            metric_value=each.value,
            source_name=each.source_name,
            source_url=each.source_url,
        )
        for each in accuracies
    ]
