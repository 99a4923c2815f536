"""The files of a Space on the Hub: a Gradio app that shows the most probable classes of a photograph."""

import json
from pathlib import Path

from huggingface_hub import SpaceCardData

from ..models.folder import registration_code
from ..tasks import SINGLE_LABEL, Task
from ..version import __version__

__all__ = ["SPACE_FILES", "is_space", "space_files"]

_APP_FILE, _REQUIREMENTS, _CARD = SPACE_FILES = ("app.py", "requirements.txt", "README.md")
"""Names of the files of a Space."""

_APP = '''"""Shows the most probable classes of a photograph."""

import os

import gradio
import timm
import timm_gcp  # registers the architecture with timm
import torch
from PIL import ImageOps

# Another model: the environment variable MODEL, such as local-dir:model.
{registration}model = timm.create_model(os.environ.get("MODEL", {model}), pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config)
mode = "L" if config["input_size"][0] == 1 else "RGB"
names = model.pretrained_cfg.get("label_names") or [str(label) for label in range(model.num_classes)]


def predict(image):
    """The probabilities of the most probable classes of a PIL image, best first; none without an image."""
    if image is None:
        return {{}}
    image = ImageOps.exif_transpose(image).convert(mode)
    with torch.inference_mode():
        top = model(transform(image).unsqueeze(0)).{activation}[0].topk(min(5, model.num_classes))
    return {{names[label]: share for share, label in zip(top.values.tolist(), top.indices.tolist())}}


demo = gradio.Interface(
    predict,
    gradio.Image(type="pil", label="photograph"),
    gradio.Label(num_top_classes=5, label="class"),
    title={title},
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
'''


def space_files(repo: str, architecture: str, licence: str, task: Task = SINGLE_LABEL) -> dict[str, bytes]:
    """The files of a Space for a model on the Hub.

    Args:
        repo: ``user/name`` of the model, and of the Space.
        architecture: registered name of the model's architecture.
        licence: identifier of the licence of the model.
        task: of the model.

    Returns:
        Name, one of `SPACE_FILES` → content.
    """
    title = repo.rpartition("/")[2]
    app = _APP.format(
        registration=registration_code(architecture),
        model=json.dumps(f"hf-hub:{repo}"),
        title=json.dumps(title),
        activation=task.activation,
    )
    metadata = SpaceCardData(title=title, sdk="gradio", app_file=_APP_FILE, license=licence, models=[repo]).to_yaml()
    card = f"""---
{metadata}
---
Shows the most probable classes of a photograph, by the model [{repo}](https://huggingface.co/{repo}).

A private model needs a secret `HF_TOKEN` in the settings of this Space, a token that may read the model.
"""
    requirements = f"timm-gcp>={__version__}\ngradio>=5\n"
    return {_APP_FILE: app.encode(), _REQUIREMENTS: requirements.encode(), _CARD: card.encode()}


def is_space(folder: Path) -> bool:
    """Whether a folder holds a Space that was made here: its app begins as ours do."""
    app = folder / _APP_FILE
    return app.is_file() and app.read_text(encoding="utf-8", errors="replace").startswith(_APP.partition("\n")[0])
