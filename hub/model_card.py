"""The model card of a row of the manifest, which ``publish`` and ``cards`` both write."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from timm_gcp import METHODS
from timm_gcp.models.names import split_name
from timm_gcp.sharing.accuracy import Accuracy, model_index
from timm_gcp.sharing.card import CURVES
from timm_gcp.text import markdown_table
from timm_gcp.weights import paper_results
from timm_gcp.weights.manifest import Checkpoint

from .citation import bibtex

NOT_VERIFIED = "Not verified: this project has not evaluated these weights."


def render_card(
    row: Checkpoint,
    *,
    repo: str | None,
    parameters: int | None,
    recipe: Mapping[str, Any] | None = None,
    curves: bool = False,
) -> str:
    """The card: Markdown below a block of YAML metadata for the Hub.

    Args:
        row: the row of the manifest.
        repo: ``org/name`` on the Hub; None shows how to load the model by its registered name.
        parameters: number of parameters of the network; None leaves it out.
        recipe: the record of the training run (`timm_gcp.sharing.recipe`); None takes the row's command, if it has
            one.
        curves: whether to show the training curves, which are then a file of the repository.
    """
    if recipe is None and row.recipe:
        recipe = {"command": row.recipe}
    method = METHODS.get(split_name(row.name).method)
    sections = [
        f"# {row.name}\n\n{row.description}\n\n{_verification(row)}",
        f"## The model\n\n{_facts(row, parameters)}",
        f"## Results\n\n{metrics_table(row)}",
        f"## Usage\n\n{_usage(row, repo)}",
    ]
    if recipe is not None or curves:
        sections.append(f"## Training\n\n{_training(recipe, curves)}")
    if paper := _paper(row):
        sections.append(f"## The paper's results\n\n{paper}")
    sections.append(f"## Limits\n\n{_limits(row)}")
    sections.append(f"## Licence\n\n{_licence(row)}")
    paper = f"The method `{method.name}` is from {method.reference}. " if method else ""
    sections.append(
        f"## Citation\n\n{paper}`timm_gcp` follows the training protocol of this paper:\n\n```bibtex\n{bibtex()}\n```"
    )
    return f"---\n{_metadata(row)}\n---\n" + "\n\n".join(sections) + "\n"


def metrics_table(row: Checkpoint) -> str:
    """The measured accuracies as a Markdown table, or a sentence if there are none."""
    if not row.metrics:
        return "No accuracy is recorded for these weights."
    lines = (
        (
            metric.get("data", ""),
            percent(metric.get("top1")),
            percent(metric.get("top5")),
            measured_by(metric),
            f"`{metric['command']}`" if metric.get("command") else "",
        )
        for metric in row.metrics
    )
    return markdown_table(("data", "top-1", "top-5", "measured by", "command"), lines)


def measured_by(metric: Mapping[str, Any]) -> str:
    """Who measured an accuracy."""
    by = metric.get("by")
    return "the authors, as published" if by == "upstream" else str(by or "not recorded")


def percent(value: float | None) -> str:
    """A percentage with two decimals, '' for None."""
    return "" if value is None else f"{value:.2f}"


def _metadata(row: Checkpoint) -> str:
    """The YAML metadata from which the Hub shows licence, tags and results."""
    results = _eval_results(row)
    return ModelCardData(
        license=row.licence.lower() if row.licence else None,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "timm-gcp", "global-covariance-pooling"],
        # The Hub demands a model name beside results, and refuses one without them.
        model_name=row.name if results else None,
        eval_results=results or None,
    ).to_yaml()


def _eval_results(row: Checkpoint) -> list[EvalResult]:
    """The accuracies of a row, in per cent, as entries of the Hub's ``model-index``."""
    return model_index(
        [
            Accuracy(
                data=str(metric["data"]),
                split="",
                name=name,
                value=metric[key],
                source_name=measured_by(metric) if row.origin_url else None,
                source_url=row.origin_url,
            )
            for metric in row.metrics
            for key, name in (("top1", "Top-1 accuracy"), ("top5", "Top-5 accuracy"))
            if metric.get("data") and metric.get(key) is not None
        ]
    )


def _verification(row: Checkpoint) -> str:
    if row.verified:
        return f"Verified: {row.verified.rstrip('.')}."
    return f"**{NOT_VERIFIED}**"


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
        "source": row.origin_url,
    }
    return _two_columns(facts)


def _two_columns(facts: Mapping[str, object]) -> str:
    """A table without titles, '' if there is nothing to show; values that are None are left out."""
    lines = [(name, value) for name, value in facts.items() if value is not None]
    return markdown_table(("", ""), lines) if lines else ""


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _paper(row: Checkpoint) -> str:
    """What the paper measured with this backbone; '' where it has not used the backbone."""
    backbone = split_name(row.name).backbone
    imagenet = [each for each in paper_results.IMAGENET if each.network == backbone]
    if not imagenet:
        return ""
    parts = (
        f"These numbers are from the [poster of the paper]({paper_results.SOURCE}), of its own networks. They are not "
        "of the weights on this card, and this project has not measured them.",
        f"{paper_results.IMAGENET_CAPTION}:",
        paper_results.imagenet_table(imagenet),
        f"{paper_results.FINE_GRAINED_CAPTION}:",
        paper_results.fine_grained_table(),
    )
    return "\n\n".join(parts)


def _usage(row: Checkpoint, repo: str | None) -> str:
    model = f"hf-hub:{repo}" if repo else row.name
    if row.label_names is not None:
        names, name = 'names = model.pretrained_cfg["label_names"]\n', "names[k]"
    elif row.num_classes == 1000:
        names, name = "names = timm.data.ImageNetInfo()\n", "names.index_to_description(k)"
    else:
        names, name = "", '"class", k'
    return f"""Install the package `timm-gcp` and import it first: it registers this architecture with timm.

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
        parts += [f"```bash\n{recipe['command']}\n```", _two_columns(shown)]
    if curves:
        parts.append(f"![Loss and accuracy by epoch]({CURVES})")
    return "\n\n".join(filter(None, parts))


def _of(epoch: int | None, epochs: int | None) -> str | None:
    return None if epoch is None else f"{epoch}" + (f" of {epochs}" if epochs is not None else "")


def _limits(row: Checkpoint) -> str:
    limits = [
        f"It predicts one of {row.num_classes} classes for every image, even if the image shows none of them.",
    ]
    if not row.verified:
        limits.append(NOT_VERIFIED)
    if any(metric.get("by") == "upstream" for metric in row.metrics):
        limits.append("The authors' accuracies were measured with their code and preprocessing, not with this package.")
    if row.label_names is None and row.num_classes != 1000:
        limits.append("The names of the classes are not known.")
    return "\n".join(f"- {limit}" for limit in limits)


def _licence(row: Checkpoint) -> str:
    if row.licence is None:
        return "No licence is known, so this project does not publish these weights."
    origin = f" Source: {row.origin_url}" if row.origin_url else ""
    return f"The weights are licensed under {row.licence}.{origin}"
