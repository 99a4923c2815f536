"""Writes model folders for timm's ``local-dir:``: ``config.json``, ``model.safetensors`` and a model card."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from safetensors import safe_open
from timm.models import PretrainedCfg, get_pretrained_cfg, is_model, save_for_hf
from timm.utils import unwrap_model
from torch import nn

from ..errors import GCPError
from ..files import check_output_folder, output_target
from ..pooling import find_pools
from ..tasks import SINGLE_LABEL, Task, notes_of, task_of_model, task_of_notes
from ..text import first_line, markdown_table, one_line, printable
from . import BACKBONES
from .deepcopy import copy_model
from .names import SOURCES, split_name

__all__ = [
    "OF_WEIGHTS",
    "architecture",
    "built_for",
    "channels_of",
    "check_label_names",
    "check_model_folder",
    "check_weights",
    "loading_code",
    "model_arguments",
    "read_config",
    "registration_code",
    "save_folder",
    "training_record",
    "usage_code",
]

OF_WEIGHTS = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes")
"""Entries of a cfg that describe the weights of the registered name, not those of a saved model."""
_FILES = ("README.md", "config.json", "model.safetensors")
"""All files of a model folder."""
_WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pth", ".pth.tar")  # those that timm looks for
_DATA_KEYS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")


def architecture(model: nn.Module) -> str:
    """The registered name under which timm builds this model with its present method.

    Args:
        model: a model of timm or ours; wrappers are removed.

    Raises:
        GCPError: the model was not built by timm, or no such name is registered.
    """
    model = unwrap_model(model)
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if not name:
        raise GCPError(f"A {type(model).__name__} without timm's pretrained_cfg has no registered name to save under.")
    pools = find_pools(model)
    if pools:
        backbone, method, _ = split_name(name)
        name = f"{backbone}_{pools[0].method}" if method else name
    if not is_model(name):
        raise GCPError(f"No model '{name}' is registered, so a folder of it could not be loaded again.")
    return name


def built_for(model: nn.Module) -> tuple[int, int] | None:
    """Height and width of the images for which a model with position embeddings or windows was built; else None."""
    # Some families (Hiera, MaxViT, MViT) do not say it; a model of a registered name does.
    size: Any = getattr(getattr(model, "patch_embed", None), "img_size", None) or getattr(model, "image_size", None)
    return tuple(size) if size is not None else None


def channels_of(model: nn.Module) -> int | None:
    """The channels of the images that a model takes; None if its cfg does not name one first convolution."""
    first = (getattr(model, "pretrained_cfg", None) or {}).get("first_conv")
    return getattr(model.get_submodule(first), "in_channels", None) if isinstance(first, str) else None


def model_arguments(model: nn.Module) -> dict[str, Any]:
    """The arguments of ``timm.create_model``, besides the number of classes, that this model's weights need."""
    model = unwrap_model(model)
    arguments = {k: v for k, v in dict(getattr(model, "gcp_args", {})).items() if v is not None and v != {}}
    own: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    if (channels := channels_of(model)) not in (None, 3):
        arguments["in_chans"] = channels
    size = built_for(model)
    default = get_pretrained_cfg(own.get("architecture", ""))
    if size is not None and default is not None:
        # timm builds for the size of the name's default tag, or of the cfg, which may be another tag's.
        sizes = {tuple(cfg_size[1:]) for cfg_size in (default.input_size, own.get("input_size", default.input_size))}
        if sizes != {size}:
            arguments["img_size"] = list(size)
    return arguments


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the ``config.json`` of a model folder.

    Args:
        folder: it has such a file.

    Raises:
        GCPError: the file cannot be read or is no JSON object, an entry that timm needs is missing, or the number of
            class names is not that of the classes.
    """
    file = Path(folder) / "config.json"
    config = _read_json(file)
    cfg = config.get("pretrained_cfg", config)
    # Old files of timm have the entries of the cfg, and few others, at the top.
    known = {"architecture", "num_features", "labels", *(each.name for each in fields(PretrainedCfg))}
    sound = isinstance(cfg, dict) and (cfg is not config or known.issuperset(config))
    if not sound:
        raise GCPError(f"{file} lacks the entry 'pretrained_cfg'; copy the folder again, or give another model folder.")
    if not config.get("architecture") or not isinstance(config["architecture"], str):
        raise GCPError(f"{file} lacks the entry 'architecture'; copy the folder again, or give another model folder.")
    check_label_names({**cfg, **config}, str(file))
    return config


def check_label_names(config: Mapping[str, Any], where: str) -> None:
    """Checks that a configuration names as many classes as there are.

    Args:
        config: with ``num_classes`` and ``label_names``.
        where: what the message calls it.

    Raises:
        GCPError: another number of names.
    """
    names, number = config.get("label_names"), config.get("num_classes")
    # timm allows a dictionary of some of the labels; a model without a classifier keeps its names in vain.
    if isinstance(names, (list, tuple)) and names and number and len(names) != number:
        raise GCPError(
            f"{where} has {len(names)} entries in 'label_names' for {number} classes; give a name for each class, or "
            "take 'label_names' out."
        )


def check_weights(folder: str | os.PathLike[str]) -> None:
    """Checks that a model folder holds a file of weights, and that a safetensors file is whole.

    Raises:
        GCPError: there is none, or it is damaged.
    """
    there = sorted(file for file in Path(folder).iterdir() if file.name.endswith(_WEIGHTS_SUFFIXES))
    file = Path(folder) / "model.safetensors"  # the one that timm takes first
    if not there:
        raise GCPError(f"{folder} has no file of weights; copy its model.safetensors again, or give another folder.")
    if file not in there:
        return
    try:
        with safe_open(file, "pt"):
            pass
    except Exception as error:  # safetensors raises its own error class
        raise GCPError(f"{file} is damaged or cannot be read ({first_line(error)}); copy it again.") from error


def _read_json(file: Path) -> dict[str, Any]:
    """Reads a ``config.json``.

    Raises:
        GCPError: it cannot be read, or is no JSON object.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
        raise GCPError(f"{file} cannot be read ({reason}); give another model folder.") from error
    if not isinstance(config, dict):
        raise GCPError(f"{file} is not the configuration of a model: it is no JSON object; give another model folder.")
    return config


def training_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the training record of a model folder (``about`` of ``save_folder``); empty if there is none.

    Raises:
        GCPError: as `read_config`.
    """
    record = read_config(folder).get("training")
    return record if isinstance(record, dict) else {}


def check_model_folder(path: str | os.PathLike[str], option: str = "The model folder", *, replace: bool = True) -> None:
    """Checks, before any work is done, that `save_folder` can write a folder, and that it deletes nothing else.

    Args:
        path: of the folder.
        option: the option that gave it, for the message.
        replace: whether a model folder that is there may be replaced.

    Raises:
        GCPError: a folder that is not empty and no model folder, or holds more than one, or as `check_output_folder`.
    """
    check_output_folder(path, option)
    folder = Path(path)
    names = {each.name for each in folder.iterdir()} if folder.is_dir() else set()
    if not names:
        return
    if not _is_model_folder(folder):
        raise GCPError(f"{option} {path} exists and is not a model folder; choose another.")
    if more := sorted(names.difference(_FILES)):
        raise GCPError(
            f"{option} {path} holds {printable(more[0])} beside the files of a model, which would be deleted; move it, "
            "or choose another."
        )
    if not replace:
        raise GCPError(f"{option} {path} is a model folder already; choose another, or give --overwrite to replace it.")


def _is_model_folder(folder: Path) -> bool:
    """Whether a folder has the ``config.json`` of a timm model."""
    try:
        return "architecture" in _read_json(folder / "config.json")
    except GCPError:
        return False


def save_folder(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    data_config: Mapping[str, Any] | None = None,
    model_args: Mapping[str, Any] | None = None,
    origin: str = "",
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model folder, which ``timm.create_model('local-dir:<folder>', pretrained=True)`` loads.

    The folder appears only when it is complete; an existing model folder is replaced, and no other.

    Args:
        model: a model of timm's registry or ours, on any device and in any memory layout; wrappers of DDP and compile
            are removed. The folder builds a model with its present method.
        folder: a new or empty one, or a model folder, which is replaced.
        class_names: one name per class, in the order of the logits.
        metrics: results for the card, name → value.
        data_config: preprocessing (``timm.data.resolve_data_config``); None keeps the model's own.
        model_args: further arguments of ``timm.create_model``, besides those that the model records.
        origin: where the weights come from, for the card; Markdown.
        about: entries of the configuration that describe these weights: ``tag``, ``license``, ``description``,
            ``origin_url``, and ``training``, a dict of how they were trained. They are not taken from the cfg of the
            model's name, which describes other weights; nor are its class names if ``training`` is given.

    Returns:
        The folder.

    Raises:
        GCPError: the model has no registered name, the number of ``class_names`` is not that of the logits, or as
            `check_model_folder`.
    """
    name = architecture(model)
    # safetensors needs contiguous CPU tensors; the copy keeps the caller's model unchanged.
    plain: Any = copy_model(unwrap_model(model)).cpu()
    for tensor in (*plain.parameters(), *plain.buffers()):
        tensor.data = tensor.data.contiguous()
    if class_names is not None and len(class_names) != plain.num_classes:
        raise GCPError(f"{len(class_names)} class names were given for a model of {plain.num_classes} classes.")

    arguments = {**model_arguments(plain), **(model_args or {})}
    training = (about or {}).get("training")
    config = _config_of(plain, name, class_names, data_config, about or {})
    plain.pretrained_cfg = plain.default_cfg = config
    model_config: dict[str, Any] = {"label_names": list(class_names)} if class_names is not None else {}
    if training:
        model_config["training"] = training
    if (task := task_of_model(plain)) is not SINGLE_LABEL:
        model_config["problem_type"] = task.problem_type  # for transformers

    check_model_folder(folder)
    target = output_target(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        written = Path(scratch) / "new"
        save_for_hf(plain, str(written), model_config=model_config, model_args=arguments, safe_serialization=True)
        _tidy_config(written / "config.json")
        card = written / "README.md"
        card.write_text(_card(name, Path(folder).name, config, metrics, origin), encoding="utf-8")
        # safetensors makes its file readable by the owner only; give it the card's permissions.
        (written / "model.safetensors").chmod(card.stat().st_mode)
        if target.is_dir():
            os.replace(target, Path(scratch) / "old")
        os.replace(written, target)
        shutil.rmtree(Path(scratch) / "old", ignore_errors=True)
    return Path(folder)


def _config_of(
    model: Any,
    name: str,
    class_names: Sequence[str] | None,
    data_config: Mapping[str, Any] | None,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The pretrained cfg of a saved model: the model's own, without what describes other weights."""
    config = dict(model.pretrained_cfg, architecture=name, num_classes=model.num_classes)
    for key in OF_WEIGHTS:
        config.pop(key, None)
    config.update({key: value for key, value in about.items() if key in OF_WEIGHTS and value is not None})
    if notes := notes_of(task_of_model(model)):
        config["notes"] = [*config.get("notes", ()), *notes]
    if about.get("training") or class_names is not None or model.num_classes != model.pretrained_cfg.get("num_classes"):
        # These name the classes of the model from which this one was fine-tuned.
        for key in ("label_names", "label_descriptions"):
            config.pop(key, None)
    if data_config is not None:
        for key in ("test_input_size", "test_crop_pct"):
            config.pop(key, None)
        config.update({key: data_config[key] for key in _DATA_KEYS if data_config.get(key) is not None})
    return config


def _tidy_config(config: Path) -> None:
    """Removes repeated entries from the ``config.json`` that timm wrote, and adds ``requires``."""
    # timm repeats the number of classes among the arguments, and transformers would pass it twice.
    content = json.loads(config.read_text(encoding="utf-8"))
    method = split_name(content["architecture"]).method
    repeated = {"num_classes": content.get("num_classes"), **({"global_pool": method} if method else {})}
    arguments = content.pop("model_args", {})
    arguments = {key: value for key, value in arguments.items() if key not in repeated or value != repeated[key]}
    if arguments:
        content["model_args"] = arguments
    if method:  # first, since timm itself says only 'not supported in your version of timm'
        steps = ["import timm_gcp", *registration_code(content["architecture"]).split()]
        content = {"requires": f"timm_gcp; before timm.create_model: {'; '.join(steps)}", **content}
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def registration_code(name: str) -> str:
    """The line of code that registers a backbone; '' if importing the package registers it."""
    backbone, method, _ = split_name(name)
    if not method or backbone in BACKBONES:
        return ""
    return f'timm_gcp.register_backbone("{backbone}")\n'


def loading_code(name: str, source: str | os.PathLike[str]) -> str:
    """The code that loads a model folder after ``import timm, timm_gcp``, on one line.

    Args:
        name: registered name of its architecture.
        source: the folder, or ``hf-hub:`` and its name on the Hub.
    """
    place = str(source) if str(source).startswith(SOURCES) else f"local-dir:{source}"
    steps = [registration_code(name).strip(), f"timm.create_model('{place}', pretrained=True)"]
    return "; ".join(filter(None, steps))


def usage_code(name: str, source: str, channels: int = 3, task: Task = SINGLE_LABEL) -> str:
    """The code of a card: loads a model folder and classifies an image.

    Args:
        name: registered name of its architecture.
        source: ``local-dir:`` and the folder, or ``hf-hub:`` and its name on the Hub.
        channels: of the images, 3 or 1.
        task: of the model.
    """
    return f"""import timm_gcp
import timm
from PIL import Image, ImageOps

{registration_code(name)}model = timm.create_model("{source}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("{"L" if channels == 1 else "RGB"}")
probabilities = model(transform(image).unsqueeze(0)).{task.activation}
names = model.pretrained_cfg.get("label_names")
"""


def _card(name: str, folder: str, config: Mapping[str, Any], metrics: Mapping[str, Any] | None, origin: str) -> str:
    size = " × ".join(str(n) for n in config["input_size"])
    rows = [(key, f"{value:.4g}" if isinstance(value, float) else value) for key, value in (metrics or {}).items()]
    table = f"\n## Results\n\n{markdown_table(('', ''), rows)}\n" if rows else ""
    task = task_of_notes(config.get("notes"))
    many = "" if task is SINGLE_LABEL else " An image has any number of them: the probability of each is its sigmoid."
    source = f"\n## Origin\n\n{origin}\n" if origin else ""
    kind = "image-classification"
    metadata = ModelCardData(library_name="timm", pipeline_tag=kind, tags=[kind, "timm", "timm-gcp"]).to_yaml()
    return f"""---
{metadata}
---
# {name}

{config["num_classes"]} classes, input {size}.{many} If timm answers that the model is not supported or unknown, do
not upgrade it: run `import timm_gcp` first, which registers this architecture with timm.

## Usage

```python
{usage_code(name, f"local-dir:{folder}", config["input_size"][0], task)}```
{source}{table}"""
