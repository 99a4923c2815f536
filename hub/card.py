"""The model card of a row of the manifest; ``publish`` and ``cards`` write the same one."""

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from timm_gcp import METHODS
from timm_gcp.weights.manifest import Checkpoint

from .citation import bibtex

CURVES = "curves.png"
"""Name of the training curves in a repository."""


def render_card(
    row: Checkpoint,
    *,
    repo: str | None,
    parameters: int | None,
    recipe: Mapping[str, Any] | None = None,
    curves: bool = False,
) -> str:
    """The card as Markdown with the Hub's metadata.

    Args:
        row: what the manifest says.
        repo: ``org/name`` on the Hub; None shows the usage by the registered name.
        parameters: number of the network's parameters; None leaves it out.
        recipe: what the training run recorded; None takes the command of the row, if it has one.
        curves: show the training curves, a file of the repository.
    """
    if recipe is None and row.recipe:
        recipe = {"command": row.recipe}
    method = METHODS.get(row.architecture.rpartition("_")[2])
    sections = [
        f"# {row.name}\n\n{row.description}\n\n{_standing(row)}",
        f"## The model\n\n{_facts(row, parameters)}",
        f"## Results\n\n{metrics_table(row)}",
        f"## Usage\n\n{_usage(row, repo)}",
    ]
    if recipe is not None or curves:
        sections.append(f"## Training\n\n{_training(recipe, curves)}")
    sections.append(f"## Limits\n\n{_limits(row)}")
    sections.append(f"## Licence\n\n{_licence(row)}")
    paper = f"The method `{method.name}` is from {method.reference}. " if method else ""
    sections.append(
        f"## Citation\n\n{paper}`timm_gcp` follows the training protocol of this paper:\n\n```bibtex\n{bibtex()}\n```"
    )
    return f"---\n{_metadata(row)}\n---\n" + "\n\n".join(sections) + "\n"


def metrics_table(row: Checkpoint) -> str:
    """What was measured, by whom and how, as a Markdown table or a sentence."""
    if not row.metrics:
        return "Nobody has told an accuracy of these weights."
    lines = ["| data | top-1 | top-5 | measured by | command |", "|---|---|---|---|---|"]
    for metric in row.metrics:
        command = f"`{metric['command']}`" if metric.get("command") else ""
        cells = (
            metric.get("data", ""),
            percent(metric.get("top1")),
            percent(metric.get("top5")),
            by_whom(metric),
            command,
        )
        lines.append("| " + " | ".join(cell(text) for text in cells) + " |")
    return "\n".join(lines)


def by_whom(metric: Mapping[str, Any]) -> str:
    """Who measured, in words."""
    by = metric.get("by")
    return "their authors, as printed" if by == "upstream" else str(by or "not recorded")


def percent(value: float | None) -> str:
    """A percentage with two decimals, or nothing."""
    return "" if value is None else f"{value:.2f}"


def cell(text: object) -> str:
    """Text that cannot break out of a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def _metadata(row: Checkpoint) -> str:
    """The YAML block by which the Hub shows licence, tags and results."""
    results = _eval_results(row)
    return ModelCardData(
        license=row.licence.lower() if row.licence else None,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "timm-gcp", "global-covariance-pooling"],
        # The Hub needs a model's name beside its results, and refuses one without results.
        model_name=row.name if results else None,
        eval_results=results or None,
    ).to_yaml()


def _eval_results(row: Checkpoint) -> list[EvalResult]:
    """The measurements of a row in the Hub's form (``model-index``), accuracies in per cent."""
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=re.sub(r"[^a-z0-9]+", "-", str(metric["data"]).lower()).strip("-"),
            dataset_name=str(metric["data"]),
            metric_type="accuracy",
            metric_name=name,
            metric_value=metric[key],
            source_name=by_whom(metric) if row.origin_url else None,
            source_url=row.origin_url,
        )
        for metric in row.metrics
        for key, name in (("top1", "Top-1 accuracy"), ("top5", "Top-5 accuracy"))
        if metric.get("data") and metric.get(key) is not None
    ]


def _standing(row: Checkpoint) -> str:
    if row.verified:
        return f"Verified: {row.verified.rstrip('.')}."
    return "**Not verified: nobody in this project has evaluated these weights.**"


def _facts(row: Checkpoint, parameters: int | None) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in row.model_args.items())
    facts = {
        "architecture": f"`{row.architecture}`" + (f" with `{arguments}`" if arguments else ""),
        "parameters": f"{parameters / 1e6:.2f} million" if parameters is not None else None,
        "classes": row.num_classes,
        "input": f"{' × '.join(map(str, row.input_size))}, {row.interpolation}, centre crop of {row.crop_pct:.1%}",
        "mean, standard deviation": f"{_numbers(row.mean)}; {_numbers(row.std)}",
        "model.safetensors": f"{row.size:,} bytes" if row.size is not None else None,
        "sha256": f"`{row.sha256}`" if row.sha256 else None,
        "read more": row.origin_url,
    }
    lines = [f"| {name} | {cell(value)} |" for name, value in facts.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _usage(row: Checkpoint, repo: str | None) -> str:
    model = f"hf-hub:{repo}" if repo else row.name
    if row.label_names is not None:
        names, name = 'names = model.pretrained_cfg["label_names"]\n', "names[k]"
    elif row.num_classes == 1000:
        names, name = "names = timm.data.ImageNetInfo()\n", "names.index_to_description(k)"
    else:
        names, name = "", '"class", k'
    return f"""`import timm_gcp` comes first: that package, installed beside timm, tells timm this architecture.

```python
import timm_gcp
import timm
import torch
from PIL import Image, ImageOps

model = timm.create_model("{model}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
with torch.inference_mode():
    top = model(transform(image).unsqueeze(0)).softmax(-1)[0].topk({min(5, row.num_classes)})
{names}for p, k in zip(top.values.tolist(), top.indices.tolist()):
    print(f"{{p:.1%}}", {name})
```"""


def _training(recipe: Mapping[str, Any] | None, curves: bool) -> str:
    parts = []
    if recipe is not None:
        versions = ", ".join(f"{name} {version}" for name, version in dict(recipe.get("versions") or {}).items())
        shown = {
            "best epoch": _of(recipe.get("epoch"), recipe.get("epochs")),
            "method at the end": recipe.get("method"),
            "switched at epoch": recipe.get("switched_at"),
            "seed": recipe.get("seed"),
            "versions": versions or None,
        }
        lines = [f"| {name} | {cell(value)} |" for name, value in shown.items() if value is not None]
        parts.append(f"```bash\n{recipe['command']}\n```")
        if lines:
            parts.append("\n".join(["| | |", "|---|---|", *lines]))
    if curves:
        parts.append(f"![Loss and accuracy by epoch]({CURVES})")
    return "\n\n".join(parts)


def _of(epoch: int | None, epochs: int | None) -> str | None:
    return None if epoch is None else f"{epoch}" + (f" of {epochs}" if epochs is not None else "")


def _limits(row: Checkpoint) -> str:
    limits = [
        f"It tells {row.num_classes} classes apart and gives one of them for every image, also one that shows none.",
    ]
    if not row.verified:
        limits.append("Not verified: nobody in this project has evaluated these weights.")
    if any(metric.get("by") == "upstream" for metric in row.metrics):
        limits.append(
            "The numbers of the authors were measured with their code and preprocessing, not with this package."
        )
    if row.label_names is None and row.num_classes != 1000:
        limits.append("The names of its classes are not known.")
    return "\n".join(f"- {limit}" for limit in limits)


def _licence(row: Checkpoint) -> str:
    if row.licence is None:
        return "No licence is known: these weights are not published by this project."
    origin = f" Where they come from: {row.origin_url}" if row.origin_url else ""
    return f"The weights are under {row.licence}.{origin}"
