"""Prepares a run from its options and checks everything; nothing is written but the lock of the run folder."""

import functools
import math

from timm.utils import random_seed
from torch import nn

from ..data.loaders import batch_names
from ..distributed import Processes
from ..errors import GCPError
from ..tasks import MULTI_LABEL
from ..weights.file import load_weights, weights_of
from .class_names import check_resumed_classes
from .data import Loaders, make_loaders, open_data
from .faults import Faults
from .imbalance import make_corrected_loss, make_sampler
from .initial_head import fit_initial_head
from .multi_label import make_multi_label_loss
from .network import Network, make_network
from .optimisation import Optimisation, make_average, make_loss, make_scaler, make_stepper
from .optimizer import default_rate, make_optimizer
from .options import TrainOptions
from .progress import Progress
from .protocol import Protocol, make_protocol
from .range_test import choose_rate, with_rate
from .resume import Start, find_checkpoint, load_resumed, load_start, resumed_position
from .run import Run
from .run_folder import RunFolder
from .scheduler import fill_in_course, make_scheduler, rate_ratio
from .stopping import stopped_before

__all__ = ["prepare"]


def prepare(options: TrainOptions, processes: Processes, folder: RunFolder, arguments: str, command: str) -> Run:
    """Prepares a run in stages: where it starts, its data, its model, its protocol and its optimisation.

    Args:
        options: of the run; what they leave open is filled in.
        processes: this process among those that train.
        folder: the run folder, which is locked here.
        arguments: the options as YAML, for the run folder.
        command: the command line, for the run folder.

    Raises:
        GCPError: bad input of any kind; the message names the remedy.
    """
    folder.claim_named()
    options.world_size = processes.world_size
    options.resume = find_checkpoint(options, processes)
    folder.check_free()
    start = load_start(options.resume)
    random_seed(options.seed, processes.rank)
    data = open_data(options, processes)
    if start.checkpoint is not None:
        check_resumed_classes(start.checkpoint, start.path, data.class_names, options.task)
    network = make_network(options, data, processes, resumed=start.checkpoint is not None)
    protocol = make_protocol(options, network.model)
    if options.init_head == "probe" and start.checkpoint is None:
        fit_initial_head(options, data.train, network, processes)
    if options.task is MULTI_LABEL:
        loss: nn.Module = make_multi_label_loss(options, data)
    else:
        loss = make_corrected_loss(options, data) or make_loss(options)
    # Before the loaders of the run: those of the test set the transform of the images as well.
    found = choose_rate(options, start, data, network, processes, loss) if options.find_lr else None
    loaders = make_loaders(options, data, network.data_config, processes, make_sampler(options, data, processes))
    optimisation = _optimisation(options, processes, start, network, protocol, loaders, loss)
    position = resumed_position(start, len(loaders.train), protocol.monitor, processes.first)
    _go_to_start(options, start, protocol, optimisation, len(loaders.train), position.batches)
    network.wrap(options, processes)
    optimisation.stepper.model = network.wrapped
    if optimisation.average is not None and "state_dict_ema" not in (start.checkpoint or {}):
        # Only now do the processes have the same weights: new layers are random in each.
        optimisation.average.set(network.model)
    path = folder.path or folder.claim_dated(options.model, network.data_config["input_size"][-1])
    skip, names = options.on_nonfinite == "skip", functools.partial(batch_names, loaders.train)
    return Run(
        options=options,
        arguments=arguments if options.find_lr is False else with_rate(arguments, options.lr),
        command=command,
        processes=processes,
        folder=path,
        start=start,
        data=data,
        loaders=loaders,
        network=network,
        optimisation=optimisation,
        protocol=protocol,
        progress=Progress(start.epoch, optimisation.epochs, options.log_interval, processes.first, processes.device),
        faults=Faults(path, skip=skip, names=names, rank=processes.rank),
        position=position,
        trained=start.epoch,
        stopped=stopped_before(options, start) if start.epoch < optimisation.epochs else "",
        seconds=float(start.record.get("seconds", 0.0)),
        range_test=found,
    )


def _optimisation(
    options: TrainOptions,
    processes: Processes,
    start: Start,
    network: Network,
    protocol: Protocol,
    loaders: Loaders,
    loss: nn.Module,
) -> Optimisation:
    """The optimisation of a run, with the state of the checkpoint that it continues."""
    if options.lr is None:
        options.lr = default_rate(options, processes.world_size)
    fill_in_course(options, start.settings)
    model, device = network.model, processes.device
    optimizer, scaler = make_optimizer(options, model), make_scaler(options, device)
    load_resumed(start, options, model, optimizer, scaler, protocol.schedule)
    average = make_average(options, model)
    if average is not None:
        if start.checkpoint is not None and "state_dict_ema" in start.checkpoint:
            load_weights(average.module, weights_of(start.checkpoint, start.path, use_ema=True), start.path)
        if protocol.schedule is not None:
            protocol.schedule.add(average.module)
    stepper = make_stepper(options, model, optimizer, loss, scaler, network.frozen, device)
    scheduler = make_scheduler(options, optimizer, stepper.updates(len(loaders.train)))
    return Optimisation(stepper, scheduler, average)


def _go_to_start(
    options: TrainOptions,
    start: Start,
    protocol: Protocol,
    optimisation: Optimisation,
    batches_per_epoch: int,
    batches_done: int,
) -> None:
    """Checks that the switch comes, and moves the scheduler to the place where the run starts."""
    scheduler, optimizer = optimisation.scheduler, optimisation.stepper.optimizer
    if start.epoch > optimisation.epochs:
        raise GCPError(
            f"--resume {start.path} has trained {start.epoch} epochs, more than --epochs {optimisation.epochs}; raise "
            "it."
        )
    if protocol.schedule is not None:
        scheduler.check_switch(optimizer, protocol.schedule)
    updates = optimisation.stepper.updates(batches_per_epoch)
    done = math.ceil(batches_done / options.grad_accum_steps)
    scheduler.go_to(start.epoch, start.epoch * updates + done)
    if start.checkpoint is not None:
        ratio = rate_ratio(options.lr or 0.0, start.settings)
        scheduler.load_state(start.checkpoint.get("plateau"), optimizer, ratio)
