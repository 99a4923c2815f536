"""Builds the model that a user names: a registered name, a model folder, a Hub id, or a checkpoint."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from ..errors import GCPError
from ..methods import METHODS, get_method
from ..pooling import find_pools
from ..tasks import notes_of, task_of_problem
from ..text import first_line, nearest
from ..weights.file import (
    EXTENSION,
    check_sums,
    has_average,
    load_file,
    load_weights,
    read_weights,
    weights_of,
    without_prefix,
)
from . import ensure_registered
from .cfgs import check_tag
from .folder import OF_WEIGHTS, built_for, check_label_names, check_weights, read_config
from .hub import check_id, refusal_of
from .names import SOURCES, split_name
from .stride import set_last_stride

_PLACES_OF_WEIGHTS = ("url", "file", "hf_hub_id", "hf_hub_filename")  # where timm finds the weights of a name


def source_of(name: str) -> str:
    """The name in timm's form: an existing model folder gets the prefix ``local-dir:``.

    Args:
        name: registered name, model folder (with or without prefix) or Hub id.

    Raises:
        GCPError: no such model, method or folder, or no id of the Hub; the message names near matches.
    """
    if not name.startswith(SOURCES) and os.path.isdir(name):
        name = f"local-dir:{model_folder(name)}"
    source, _, place = name.partition(":")
    if source == "local-dir":
        if os.path.isfile(place):
            raise _is_a_file(place)
        if not (Path(place) / "config.json").is_file():
            run = checkpoint_in(place)
            way = f"; timm-gcp convert {run} --out DIR makes one, or give --checkpoint {run}" if run else ""
            raise GCPError(f"{place} is not a model folder: it has no config.json{way}.")
    elif name.startswith(SOURCES):
        check_id(place)
    else:
        _check_registered(name)
    return name


def model_folder(folder: str) -> str:
    """The model folder in a run folder; the folder itself if it is none."""
    inner = Path(folder) / "model"
    own = (Path(folder) / "config.json").is_file()
    return str(inner) if not own and (inner / "config.json").is_file() else folder


def checkpoint_in(folder: str | os.PathLike[str]) -> Path | None:
    """The checkpoint of a run folder, ours or timm's: the best one, or the last one if no epoch was ranked."""
    files = (Path(folder) / f"{name}{EXTENSION}" for name in ("model_best", "last"))
    return next((file for file in files if file.is_file()), None)


def _check_registered(name: str) -> None:
    plain, _, tag = name.partition(".")
    is_file = os.path.isfile(name)
    if ensure_registered(plain):
        try:
            check_tag(plain, tag)
            return
        except GCPError:
            if not is_file:  # such as resnet50.pth
                raise
    if is_file:
        raise _is_a_file(name)
    if "/" in name or os.sep in name:
        raise GCPError(f"There is no model folder {name}; a model on the Hub is named hf-hub:{name}.")
    backbone, _, method = plain.rpartition("_")
    if method not in METHODS and any(timm.is_model(f"{backbone}_{other}") for other in METHODS):
        get_method(method)
    raise GCPError(f"Unknown model '{name}'{nearest(plain, timm.list_models())}")


def _is_a_file(path: str) -> GCPError:
    """What is said of a file that is given as a model."""
    folder = Path(path).parent
    has_model = (Path(model_folder(str(folder))) / "config.json").is_file()
    more = f"; or give the folder {folder} as the model" if has_model else ""
    return GCPError(
        f"{path} is a file, not a model folder: give a checkpoint by --checkpoint, to timm-gcp train by "
        f"--initial-checkpoint beside --model NAME{more}."
    )


def _architecture(name: str) -> str:
    """The registered name behind a name, folder or Hub id.

    Raises:
        GCPError: as `read_config`, or the Hub does not give the configuration of such a model.
    """
    source, _, place = name.partition(":")
    if source == "local-dir":
        return str(read_config(place)["architecture"])
    if not name.startswith(SOURCES):
        return name.partition(".")[0]
    try:
        cfg, architecture, _ = timm.models.load_model_config_from_hf(place)
    except KeyError as error:
        raise GCPError(
            f"{place} on the Hub is not a model of timm: its config.json lacks {error}; give another one."
        ) from error
    except Exception as error:
        raise _refusal(name, error) from error
    check_label_names(cfg, f"config.json of {place}")
    return str(architecture)


def _refusal(name: str, error: Exception) -> GCPError:
    """The error to raise for one of timm, torch or the Hub's client, which raise errors of many classes."""
    source, _, place = name.partition(":")
    if name.startswith(SOURCES):
        if source != "local-dir" and (refusal := refusal_of(error, place)):
            return refusal
        if str(error).startswith("Error(s) in loading state_dict"):
            return GCPError(
                f"{name} cannot be built: its weights do not fit its config.json, or the arguments that you gave "
                f"({first_line(error)}); correct these, or copy the model again."
            )
    return GCPError(f"{name} cannot be built: {first_line(error)}.")


def _check_architecture(name: str, architecture: str) -> None:
    """Registers the architecture of a folder or Hub id, if it is one of ours.

    Raises:
        GCPError: there is no such architecture.
    """
    if not ensure_registered(architecture):
        raise GCPError(
            f"{name} has the architecture '{architecture}', which timm {timm.__version__} lacks; update timm, or "
            f"register it first (timm_gcp.register_method for a method){nearest(architecture, timm.list_models())}"
        )


def register_named(name: str) -> None:
    """Registers the model of a name, a model folder or a Hub id, if it is one of ours and not registered.

    Args:
        name: registered name, ``local-dir:`` folder or Hub id.

    Raises:
        GCPError: the backbone's family cannot pool a covariance, or the folder's ``config.json`` cannot be read.
    """
    ensure_registered(_architecture(name))


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    last_stride: int | None = None,
    image_size: tuple[int, int] | None = None,
    **arguments: Any,
) -> nn.Module:
    """Creates a model as ``timm.create_model`` does, from any name that a user may give, with clear errors.

    Args:
        name: registered name, model folder (with or without ``local-dir:``) or ``hf-hub:`` id.
        pretrained: load the weights that belong to the name.
        last_stride: stride of a ResNet's or VGG's last stage, also of one with average pooling; None keeps it.
        image_size: height and width of the images, for models whose weights depend on it (the position embedding of a
            ViT, Swin's windows); timm adapts the weights. None keeps the model's own.
        **arguments: as ``timm.create_model``; None counts as not given.

    Raises:
        GCPError: no such model, the weights cannot be had, or arguments do not fit.
    """
    name = source_of(name)
    try:
        architecture = _architecture(name)
        _check_architecture(name, architecture)
        if pretrained and name.startswith("local-dir:"):
            check_weights(name.removeprefix("local-dir:"))
        if last_stride is not None:
            backbone, method, _ = split_name(architecture)
            if method and timm.is_model(backbone):
                arguments["last_stride"] = last_stride
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
        if image_size and built_for(model) not in (None, tuple(image_size)):
            model = timm.create_model(name, pretrained=pretrained, **{**arguments, "img_size": tuple(image_size)})
        if last_stride is not None and "last_stride" not in arguments:
            set_last_stride(model, last_stride)
    except GCPError:
        raise
    except Exception as error:
        raise _refusal(name, error) from error
    return model


def set_method(model: nn.Module, method: str) -> None:
    """Sets the method of all covariance pools.

    Raises:
        GCPError: an unknown method, or a model without such a pool.
    """
    pools = find_pools(model)
    if not pools:
        raise GCPError(f"`method={method}` needs a model with covariance pooling; {type(model).__name__} has none.")
    for pool in pools:
        pool.method = method


@dataclass(kw_only=True)
class ModelChoice:
    """A model with weights, as a user names it; None takes what the weights say.

    Attributes:
        model: registered name, model folder, run folder or ``hf-hub:`` id; '' takes the checkpoint's own.
        checkpoint: checkpoint or run folder whose weights are loaded; '' takes those that belong to the name.
        use_ema: averaged weights of the checkpoint; None takes those by which the run was ranked.
        method: method to pool by; None takes the model's own.
        num_classes, in_chans, last_stride, image_size, model_kwargs: as `create_model` takes them.
    """

    model: str = ""
    checkpoint: str = ""
    use_ema: bool | None = None
    method: str | None = None
    num_classes: int | None = None
    in_chans: int | None = None
    last_stride: int | None = None
    image_size: tuple[int, int] | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def sources(self) -> tuple[str, str]:
        """Name and checkpoint that are meant: a run folder stands for its model folder, or for its best checkpoint."""
        if self.checkpoint:
            return self.model, str(checkpoint_in(self.checkpoint) or self.checkpoint)
        if os.path.isdir(self.model) and not (Path(model_folder(self.model)) / "config.json").is_file():
            checkpoint = str(checkpoint_in(self.model) or "")
            return ("" if checkpoint else self.model), checkpoint
        return self.model, ""


def load_model(choice: ModelChoice) -> nn.Module:
    """Builds a model with its weights. A run folder stands for its model folder, or for its best checkpoint.

    Raises:
        GCPError: as `create_model` and `model_from_checkpoint`, or another number of classes than the weights have.
    """
    wanted = dict(
        num_classes=choice.num_classes,
        in_chans=choice.in_chans,
        last_stride=choice.last_stride,
        image_size=choice.image_size,
        **choice.model_kwargs,
    )
    name, checkpoint = choice.sources()
    if checkpoint:
        model = model_from_checkpoint(checkpoint, name, choice.use_ema, **wanted)
    else:
        model = create_model(choice.model, pretrained=True, **wanted)
        _check_number_of_classes(choice, model)
    if choice.method:
        set_method(model, choice.method)
    return model


def _check_number_of_classes(choice: ModelChoice, model: Any) -> None:
    """Refuses a number of classes that is not that of the weights: timm would make a classifier of random weights.

    Raises:
        GCPError: the number that the weights have.
    """
    trained = (model.pretrained_cfg or {}).get("num_classes")
    if choice.num_classes is not None and trained is not None and choice.num_classes != trained:
        found = f"{trained} class{'es' * (trained != 1)}" if trained else "no classifier"
        raise GCPError(
            f"`num_classes={choice.num_classes}` would give {choice.model} a classifier of random weights: the weights "
            f"have {found}; leave `num_classes` out."
        )


def model_from_checkpoint(
    path: str | os.PathLike[str], name: str = "", use_ema: bool | None = None, **arguments: Any
) -> nn.Module:
    """Builds the model of a training checkpoint as it was trained and ranked: weights, method and preprocessing.

    Args:
        path: a checkpoint of our run, of timm's ``train.py`` or, with ``name``, of another program; or, with ``name``,
            a bare state dict.
        name: another model than the checkpoint's own.
        use_ema: averaged weights; None takes those by which the run was ranked.
        **arguments: of ``create_model``; they override those in the checkpoint. If neither has ``num_classes``, it is
            read from the classifier in the file.

    Returns:
        The model; its ``pretrained_cfg`` has the run's preprocessing, and no entries about the weights of its name.

    Raises:
        GCPError: the file is damaged or not a checkpoint, or it does not fit the model.
    """
    arguments = {key: value for key, value in arguments.items() if value is not None}
    if str(path).endswith(".safetensors"):
        record: dict[str, Any] = {}
        weights = read_weights(path)
    else:
        checkpoint = load_file(path)
        check_sums(path)
        record = _record_of(checkpoint, path)
        if use_ema and not has_average(checkpoint):
            raise GCPError(f"{path} holds no averaged weights; leave --use-ema out.")
        weights = weights_of(checkpoint, path, bool(record.get("ema")) if use_ema is None else use_ema)
    if not name and not record:
        raise GCPError(f"{path} does not tell its model; give --model NAME.")
    known = {key: record.get(key) for key in ("num_classes", "last_stride")}
    merged = {**known, **record.get("model_args", {}), **arguments}
    model: Any = create_model(name or record["architecture"], pretrained=False, **merged)
    weights = without_prefix(weights, model, path)
    if merged.get("num_classes") is None:
        _take_number_of_classes(model, weights)
    load_weights(model, weights, path)
    foreign = {*OF_WEIGHTS, *_PLACES_OF_WEIGHTS}  # entries about the weights of the name or folder
    own: dict[str, Any] = {key: value for key, value in model.pretrained_cfg.items() if key not in foreign}
    if record.get("data_config"):
        own.update(record["data_config"], test_input_size=None, test_crop_pct=None)
    # The class names in the cfg are those of other weights, too.
    own["label_names"] = list(record["class_names"]) if record.get("class_names") else None
    own["notes"] = notes_of(task_of_problem(record.get("problem_type"))) or None
    own.update(label_descriptions=None, num_classes=model.num_classes)
    model.pretrained_cfg = model.default_cfg = own
    # Another model that the user names has its own method.
    if record.get("method") and find_pools(model) and name.partition(".")[0] in ("", record["architecture"]):
        set_method(model, record["method"])
    return model


def _take_number_of_classes(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Gives a model as many classes as the classifier among the weights, if there is one."""
    name = model.pretrained_cfg.get("classifier")
    matrix = weights.get(f"{name}.weight") if isinstance(name, str) else None
    if matrix is not None and matrix.dim() and matrix.shape[0] not in (0, model.num_classes):
        model.reset_classifier(matrix.shape[0])


def _record_of(checkpoint: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The description of its model in a checkpoint: ours, timm's, or torchvision's ``arch``; {} if there is none."""
    if not isinstance(checkpoint, dict):
        return {}
    record = _checked_record(checkpoint.get("gcp"), path) or _record_of_timm(checkpoint.get("args"))
    arch = checkpoint.get("arch")
    if not record and isinstance(arch, str) and timm.is_model(arch):
        record = {"architecture": arch}
    return record


def _checked_record(record: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The description of its model in a checkpoint of ours, its types checked; empty if there is none."""
    if record is None:
        return {}
    kinds = {
        **dict.fromkeys(("architecture", "method", "problem_type"), (str, type(None))),
        **dict.fromkeys(("num_classes", "last_stride"), (int, type(None))),
        **dict.fromkeys(("model_args", "data_config"), (dict, type(None))),
        "class_names": (list, tuple, type(None)),
    }
    sound = isinstance(record, dict) and isinstance(record.get("architecture"), str)
    if not sound or not all(isinstance(record.get(key), kind) for key, kind in kinds.items()):
        raise GCPError(f"{path} does not tell its model: its entry 'gcp' is not ours; give another checkpoint.")
    return {**record, "model_args": record.get("model_args") or {}}


def _record_of_timm(args: Any) -> dict[str, Any]:
    """The description of its model in a checkpoint of timm's ``train.py``, from the arguments there."""
    if not isinstance(args, argparse.Namespace) or not getattr(args, "model", None):
        return {}
    values = vars(args)
    channels = values.get("in_chans") or (values.get("input_size") or [None])[0]
    data = {key: values.get(key) for key in ("mean", "std", "crop_pct", "interpolation") if values.get(key)}
    size = values.get("input_size") or (
        [channels or 3, values["img_size"], values["img_size"]] if values.get("img_size") else None
    )
    return {
        "architecture": args.model,
        "num_classes": values.get("num_classes"),
        "model_args": {**(values.get("model_kwargs") or {}), **({"in_chans": channels} if channels else {})},
        "data_config": {**data, **({"input_size": tuple(size)} if size else {})},
    }
