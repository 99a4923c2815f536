"""The learning-rate range test before a run: a copy of the network is trained for a hundred updates at rising rates."""

import contextlib
import copy
import logging
from collections.abc import Generator, Sequence

import numpy as np
import torch
import yaml
from timm.utils import random_seed
from torch import nn
from tqdm import tqdm

from ..data.loaders import GuardedLoader
from ..distributed import Processes, from_first, summed
from ..errors import GCPError
from ..models.deepcopy import copy_model
from ..output import BAR
from ..spectral.eigh import take_retried
from .data import Data, Loaders, make_loaders
from .faults import Batch
from .freezing import freeze_all_but
from .generators import restored_generators
from .imbalance import make_sampler
from .network import Network, synchronised
from .optimisation import make_scaler, make_stepper
from .optimizer import make_optimizer
from .options import TrainOptions
from .out_of_memory import LESS_MEMORY, naming_the_batch
from .range_curve import RangeCurve, smoothed
from .resume import Start
from .step import Stepper

__all__ = ["choose_rate", "run_test", "with_rate"]

_logger = logging.getLogger(__name__)

LOWEST, HIGHEST, UPDATES = 1e-6, 10.0, 100
"""The rates of the test, in geometric steps: a factor of 1.18 from one update to the next."""
_NEVER_FALL = ("none", "constant")
_FEWEST = 30  # updates before the test may end early
_MOST_PASSES = 5  # over the images; in more of them the loss falls by memory
_DIVERGED = 4.0  # the loss over its lowest, both smoothed


def choose_rate(
    options: TrainOptions, start: Start, data: Data, network: Network, processes: Processes, loss: nn.Module
) -> RangeCurve | None:
    """Fills in the learning rate: that of the run that is resumed, or that of a range test.

    Every process takes part in the test, with its share of the images, and gets the choice of the first.

    Args:
        options: of the run.
        start: the checkpoint that it continues, if any.
        data: its data sets.
        network: its model, which is left as it is.
        processes: this process among those that train.
        loss: logits and targets to a scalar.

    Returns:
        The curve of the test; None where there was none.

    Raises:
        GCPError: the checkpoint does not tell its rate, or the loss falls at no rate.
    """
    if start.checkpoint is not None:
        rate = (start.settings or {}).get("lr")
        if not isinstance(rate, float):
            raise GCPError(f"{start.path} does not tell its learning rate, which --lr auto continues; give --lr.")
        options.lr = rate
        return None
    if options.sched in _NEVER_FALL and processes.first:
        _logger.warning(
            "--lr auto chooses the peak of a rate that falls later, and --sched %s keeps it to the end: give a lower "
            "--lr, or a schedule such as cosine.",
            options.sched,
        )
    device = processes.device
    with restored_generators():
        random_seed(options.seed, processes.rank)
        sampler = make_sampler(options, data, processes)
        loaders = make_loaders(options, data, network.data_config, processes, sampler)
        try:
            with naming_the_batch(options.batch_size, device, LESS_MEMORY):
                stepper = _stepper(options, network, processes, loss)
                curve = run_test(stepper, loaders, options, processes)
        finally:
            loaders.close()
    passes = len(curve.losses) * stepper.accumulate / max(len(loaders.train), 1)
    if passes > _MOST_PASSES and processes.first:
        _logger.warning(
            "--lr auto passed the training images %.0f times: so few may be learned by heart during the test, which "
            "makes the chosen rate too low; compare with the rate by --lr-base, or give --lr.",
            passes,
        )
    take_retried()  # those of the test do not belong to the first update of the run
    options.lr = from_first(processes.by_first(curve.choose), device)
    return curve


def with_rate(arguments: str, rate: float | None) -> str:
    """The options of a run as YAML with the rate that was chosen, in place of ``auto``."""
    return yaml.safe_dump({**yaml.safe_load(arguments), "lr": rate}, sort_keys=True)


def _stepper(options: TrainOptions, network: Network, processes: Processes, loss: nn.Module) -> Stepper:
    """Makes updates of a copy of the network, under the method of the first phase."""
    model = copy_model(network.model)
    frozen = freeze_all_but(model, options.train_only) if options.train_only else []
    at_lowest = copy.copy(options)
    at_lowest.lr = LOWEST
    optimizer = make_optimizer(at_lowest, model)
    scaler = make_scaler(options, processes.device)
    stepper = make_stepper(options, model, optimizer, loss, scaler, frozen, processes.device)
    stepper.model = synchronised(model, processes)
    return stepper


def run_test(stepper: Stepper, loaders: Loaders, options: TrainOptions, processes: Processes) -> RangeCurve:
    """Makes updates at rising rates, until the smoothed loss is four times its lowest or a loss is not finite.

    Args:
        stepper: makes the updates; what it trains is changed.
        loaders: of the training images, which are passed as often as the updates need.
        options: of the run.
        processes: this process among those that train.
    """
    rates = np.geomspace(LOWEST, HIGHEST, UPDATES).tolist()
    losses: list[float] = []

    def prepare(batch: Batch) -> None:
        batch.images, batch.targets = loaders.ready(
            batch.images, batch.targets, processes.device, options.channels_last
        )

    stepper.train_mode()
    # None hides the bar where standard error is no terminal.
    bar = tqdm(rates, "range test", disable=None if processes.first else True, bar_format=BAR, leave=False)
    with bar, contextlib.closing(_groups(loaders.train, stepper.accumulate)) as groups:
        for rate, batches in zip(bar, groups, strict=False):
            for group in stepper.optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
            made = stepper.update(batches, processes.device, prepare, lambda: False)
            if made.fault:
                break
            sums = torch.tensor([sum(made.losses), len(made.losses)], dtype=torch.float64)
            total, count = summed(sums, processes.device).tolist()
            losses.append(total / count)
            if _diverged(losses):
                break
    if len(losses) < _FEWEST:
        raise GCPError(
            f"--lr auto: loss or gradient is not finite at the rate {rates[len(losses)]:.2g} already, so no rate can "
            "be chosen; give --lr, or leave it out for that by --lr-base."
        )
    return RangeCurve(rates[: len(losses)], losses)


def _diverged(losses: Sequence[float]) -> bool:
    if len(losses) < _FEWEST:
        return False
    curve = smoothed(losses)
    return bool(curve[-1] > _DIVERGED * curve.min())


def _groups(loader: GuardedLoader, accumulate: int) -> Generator[list[Batch], None, None]:
    """The batches of each update, pass after pass over the images."""
    group: list[Batch] = []
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        for index, (images, targets) in enumerate(loader):
            group.append(Batch(index, images, targets))
            if len(group) == accumulate:
                yield group
                group = []
        epoch += 1
