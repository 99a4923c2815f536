"""The head that a run starts from, fitted to frozen features by a probe."""

from dataclasses import fields
from typing import Any

from ..distributed import Processes
from ..pooling import find_pools
from ..probing.fold import set_head
from ..probing.options import ProbeOptions
from ..probing.plain_head import fit_plain_head
from ..probing.probe import fit_head
from .network import Network
from .options import TrainOptions
from .run_folder import folder_of_runs

__all__ = ["fit_initial_head"]

_CACHE = "probe-cache"
"""Folder of the features in the folder of runs, which runs share."""


def fit_initial_head(options: TrainOptions, train: Any, network: Network, processes: Processes) -> None:
    """Sets reduction and classifier to those of a probe of the training images; the first process fits it.

    The method of the pool is the one that training starts with. The images are seen as in evaluation. A model without
    a covariance pool gets a classifier that is fitted to its own pooled features.

    Args:
        options: of the run.
        train: the training images.
        network: the model with pretrained weights; its head is set, and the accuracy of the head is noted.
        processes: this process among those that train.

    Raises:
        GCPError: as `fit_head` or `fit_plain_head`.
    """
    chosen = _probe_options(options, network, processes)
    if not find_pools(network.model):
        plain, network.initial_head = processes.by_first(lambda: fit_plain_head(network.model, train, chosen))
        set_head(network.model, plain)
        return
    cache = folder_of_runs(options) / _CACHE
    head, network.initial_head = processes.by_first(lambda: fit_head(network.model, train, chosen, cache))
    set_head(network.model, head)


def _probe_options(options: TrainOptions, network: Network, processes: Processes) -> ProbeOptions:
    """The run's options of preprocessing and loading, at the image size that is trained on."""
    names = {each.name for each in fields(ProbeOptions) if each.init} & {each.name for each in fields(options)}
    chosen = {name: getattr(options, name) for name in names}
    chosen.update(
        input_size=network.data_config["input_size"],
        batch_size=options.evaluation_batch_size,
        device=str(processes.device),
    )
    return ProbeOptions(**chosen)
