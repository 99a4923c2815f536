"""The model of a run: built with the weights that it starts from, checked, frozen and wrapped as the options say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..data.preprocessing import preprocessing
from ..distributed import Processes
from ..errors import GCPError
from ..map_pool import find_map_pools
from ..methods import METHODS
from ..models.named import create_model
from ..models.names import brings_weights, split_name
from ..pooling import find_pools
from ..probing.fits import Result
from ..tasks import mark_task
from ..text import first_line
from ..weights.file import load_weights, read_weights, without_prefix
from .class_names import warn_of_other_classes
from .data import Data
from .freezing import freeze_all_but
from .optimizer import classifiers
from .options import TrainOptions

__all__ = ["Network", "build_model", "make_network", "synchronised"]


@dataclass
class Network:
    """The model of a run.

    Attributes:
        model: without wrappers.
        data_config: its preprocessing.
        frozen: modules that are not trained.
        wrapped: the model as training calls it: compiled and synchronised among processes.
        initial_head: accuracy of the probe that the head comes from; None for another start.
    """

    model: Any
    data_config: dict[str, Any]
    frozen: Sequence[nn.Module] = ()
    wrapped: Any = field(default=None)
    initial_head: Result | None = None

    def wrap(self, options: TrainOptions, processes: Processes) -> None:
        """Compiles the model and synchronises its gradients, after its weights are loaded."""
        self.wrapped = self.model
        if options.torchcompile:
            self.wrapped = torch.compile(self.wrapped, backend=options.torchcompile)
        self.wrapped = synchronised(self.wrapped, processes)


def synchronised(model: Any, processes: Processes) -> Any:
    """A model whose gradients are averaged over the processes; the model itself where there is one."""
    if not processes.distributed:
        return model
    ids = [processes.device] if processes.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids)


def make_network(options: TrainOptions, data: Data, processes: Processes, resumed: bool) -> Network:
    """Builds the model of a run on its device and checks that it takes the images.

    Args:
        options: of the run.
        data: its data sets.
        processes: this process among those that train.
        resumed: the weights come from a checkpoint later.

    Raises:
        GCPError: a model that cannot be had, does not take images of this size, or lacks what the options ask for.
    """
    device = processes.device
    model: Any = build_model(options, data.num_classes)
    if not resumed and processes.first:
        warn_of_other_classes(options, model, data.class_names)
    data_config = preprocessing(options, model)
    model = model.to(device, memory_format=torch.channels_last if options.channels_last else torch.preserve_format)
    _check_image_size(model, data_config["input_size"], options.model, device)
    if options.grad_checkpointing:
        try:
            model.set_grad_checkpointing(enable=True)
        except (AssertionError, AttributeError) as error:
            raise GCPError(f"{options.model} does not support --grad-checkpointing in timm; leave it out.") from error
    if processes.distributed and options.sync_bn:
        if device.type == "cpu":
            raise GCPError("--sync-bn works on GPUs only; leave it out on the CPU.")
        model = convert_sync_batchnorm(model)
    frozen = freeze_all_but(model, options.train_only) if options.train_only else []
    return Network(model, data_config, frozen)


def build_model(options: TrainOptions, num_classes: int) -> nn.Module:
    """The model to train, with the weights that the options ask for.

    Args:
        options: of the run.
        num_classes: number of classes.

    Raises:
        GCPError: a model or weights that cannot be had, or options that contradict each other.
    """
    folder = brings_weights(options.model)
    arguments: dict[str, Any] = {
        "num_classes": num_classes,
        "in_chans": options.channels,
        "drop_rate": options.drop or None,
        "drop_path_rate": options.drop_path,
        "image_size": options.image_size,
        "method_args": options.method_args or None,
        "last_stride": options.last_stride,
        **_head_of_a_probe(options),
        **options.model_kwargs,
    }
    pretrained = bool((options.pretrained or folder or options.pretrained_path) and not options.resume)
    if options.init_head == "probe" and not (pretrained or options.resume):
        raise GCPError("--init-head probe would fit a head to random features; add --pretrained.")
    if options.train_only and not (pretrained or options.resume or options.initial_checkpoint):
        raise GCPError(
            f"--train-only {options.train_only} would freeze random weights; add --pretrained, or start from a model "
            "folder or a checkpoint."
        )
    if options.pretrained_path and not options.resume:
        if folder:
            raise GCPError("--pretrained-path goes with a registered --model; a model folder brings its own weights.")
        arguments["pretrained_cfg_overlay"] = _as_pretrained(options.pretrained_path, options.model, arguments)
    model: Any = create_model(options.model, pretrained=pretrained, **arguments)
    model.pretrained_cfg.pop("state_dict", None)
    mark_task(model, options.task)
    if options.initial_checkpoint:
        load_weights(model, read_weights(options.initial_checkpoint, use_ema=True), options.initial_checkpoint)
    return model


def _head_of_a_probe(options: TrainOptions) -> dict[str, Any]:
    """Arguments of a covariance pool whose head a probe can fit; a model folder has its own."""
    if options.init_head != "probe" or brings_weights(options.model) or split_name(options.model).method not in METHODS:
        return {}
    return {"reduction": "linear", "first_order": "auto"}


def _as_pretrained(path: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as the pretrained weights of a model, for timm's ``pretrained_cfg_overlay``."""
    like = create_model(name, **arguments)
    weights = without_prefix(read_weights(path, use_ema=True), like, path)
    load_weights(like, weights, path, optional=_head(like))
    return dict(state_dict=weights, num_classes=-1)


def _head(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of the parameters that a checkpoint of the backbone alone lacks."""
    modules = {id(module) for module in (*find_map_pools(model), *classifiers(model))}
    return tuple(f"{name}." for name, module in model.named_modules() if id(module) in modules)


def _check_image_size(model: nn.Module, input_size: Sequence[int], name: str, device: torch.device) -> None:
    """Runs one blank image through the model and looks at the maps that are pooled."""
    shapes: list[torch.Size] = []
    pools = find_pools(model)
    handles = [pool.reduce.register_forward_hook(lambda *call: shapes.append(call[2].shape)) for pool in pools]
    size = "×".join(map(str, input_size[1:]))
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, *input_size, device=device))
    except Exception as error:  # models raise all kinds for a size that they do not take
        raise GCPError(f"{name} cannot take images of {size} pixels: {first_line(error)}.") from error
    finally:
        for handle in handles:
            handle.remove()
    if any(math.prod(shape[2:]) < 2 for shape in shapes):
        raise GCPError(
            f"Images of {size} pixels leave {name} a feature map of 1 position, which has no covariance; use "
            f"--img-size {2 * max(input_size[1:])} or more, or --last-stride 1."
        )
