"""The model card of a user's model on the Hub."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

from ..models.folder import usage_code
from ..tasks import MULTI_LABEL, SINGLE_LABEL, task_of_notes
from ..text import markdown_table
from ..training.provenance import start_text
from .accuracy import Accuracy, model_index

__all__ = ["CURVES", "render_card"]

_LIMITS = {
    SINGLE_LABEL: "It predicts one of {classes} classes for every image, even if the image shows none of them.",
    MULTI_LABEL: "It tells for each of {classes} classes how probable it is that an image has it; of anything else in "
    "the image it says nothing.",
}
CURVES = "curves.png"
"""Name of the file with the training curves, in a run folder and in a repository."""


def render_card(
    repo: str, config: Mapping[str, Any], licence: str, accuracies: Sequence[Accuracy], parameters: int, curves: bool
) -> str:
    """The card: Markdown below a block of YAML metadata for the Hub.

    Args:
        repo: ``user/name``.
        config: ``config.json`` of the model folder.
        licence: identifier of the licence of the weights.
        accuracies: of the model.
        parameters: number of parameters.
        curves: whether the repository holds `CURVES`.
    """
    name, cfg, training = config["architecture"], config["pretrained_cfg"], config.get("training") or {}
    task = task_of_notes(cfg.get("notes"))
    size = " × ".join(map(str, cfg["input_size"]))
    sections = [
        f"# {repo.rpartition('/')[2]}\n\n{cfg.get('description') or f'A {name}.'}\n\n"
        f"Architecture `{name}` of the package `timm-gcp`, {parameters / 1e6:.2f} million parameters, "
        f"{config['num_classes']} classes, input {size}.",
        f"## Results\n\n{_results(accuracies)}",
        "## Usage\n\nInstall the package `timm-gcp` and import it first: it registers this architecture with timm. If "
        "timm answers that the model is not supported or unknown, do not upgrade it.\n\n```python\n"
        f"{usage_code(name, f'hf-hub:{repo}', cfg['input_size'][0], task)}```",
    ]
    if training or curves:
        sections.append(f"## Training\n\n{_training(training, curves)}")
    sections.append(f"## Limits\n\n{_LIMITS[task].format(classes=config['num_classes'])}")
    sections.append(f"## Licence\n\nThe weights are licensed under `{licence}`, as their author states.")
    return f"---\n{_metadata(repo, licence, accuracies)}\n---\n" + "\n\n".join(sections) + "\n"


def _metadata(repo: str, licence: str, accuracies: Sequence[Accuracy]) -> str:
    """The YAML metadata from which the Hub shows licence, tags and results."""
    results = model_index(list(accuracies))
    return ModelCardData(
        license=licence,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "timm-gcp", "global-covariance-pooling"],
        # The Hub demands a model name beside results, and refuses one without them.
        model_name=repo.rpartition("/")[2] if results else None,
        eval_results=results or None,
    ).to_yaml()


def _results(accuracies: Sequence[Accuracy]) -> str:
    if not accuracies:
        return "No accuracy is recorded for these weights."
    rows = ((each.data, each.split, each.name, f"{each.value:.2f} %") for each in accuracies)
    return markdown_table(("data", "split", "metric", "value"), rows)


def _training(training: Mapping[str, Any], curves: bool) -> str:
    parts = []
    if training.get("started_from"):
        parts.append(f"Started from {start_text(training['started_from'])}.")
    if training.get("command"):
        parts.append(f"```bash\n{training['command']}\n```")
    if training.get("versions"):
        parts.append(f"Versions: {', '.join(f'{name} {version}' for name, version in training['versions'].items())}.")
    if curves:
        parts.append(f"![Loss and accuracy by epoch]({CURVES})")
    return "\n\n".join(parts)
