"""Runs of any length train sensibly by default: their warm-up is a share of them, and the switch comes."""

import logging
from functools import partial

import pytest
import timm
import torch
from timm.scheduler import create_scheduler_v2
from torch import nn

from timm_gcp.commands.train import parse_train_args
from timm_gcp.errors import GCPError
from timm_gcp.hybrid.preview import preview_learning_rates
from timm_gcp.hybrid.rules import ConditioningSettles
from timm_gcp.hybrid.schedule import HybridSchedule
from timm_gcp.pooling import GlobalCovariancePool
from timm_gcp.training.optimizer import default_rate, make_optimizer
from timm_gcp.training.scheduler import fill_in_course, make_scheduler

UPDATES = 20


def arguments(*argv):
    args, _ = parse_train_args(["photos", "--device", "cpu", *map(str, argv)])
    args.lr = default_rate(args, 1) if args.lr is None else args.lr
    fill_in_course(args)
    return args


def model():
    return nn.Sequential(GlobalCovariancePool(2, reduce=None), nn.Linear(3, 2))


def course(args, updates=UPDATES, hybrid=True):
    """The schedule of the protocol, the learning rate of every update, and the method in force at each."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=args.lr)
    schedule = HybridSchedule(net) if hybrid else None
    made = make_scheduler(args, optimizer, updates)
    scheduler, epochs = made.scheduler, made.epochs
    if schedule is not None:
        made.check_switch(optimizer, schedule)
    lrs, methods = [], []
    for epoch in range(epochs):
        for update in range(epoch * updates, (epoch + 1) * updates):
            if schedule is not None and (args.sched_on_updates or update % updates == 0):
                schedule.step(optimizer.param_groups[0]["lr"], epoch, update if args.sched_on_updates else None)
            lrs.append(optimizer.param_groups[0]["lr"])
            methods.append(net[0].method)
            if scheduler is not None:
                scheduler.step_update(update + 1)
        if scheduler is not None:
            scheduler.step(epoch + 1, 1.0)
    return schedule, lrs, methods


@pytest.mark.parametrize("sched", ["cosine", "tanh", "step", "multistep", "poly", "plateau", "constant", "none"])
@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 6, 10, 100])
def test_any_number_of_epochs_reaches_its_peak_and_switches(sched, epochs):
    if (sched, epochs) == ("plateau", 1):
        pytest.skip("a metric needs an epoch, and the switch another")
    if sched == "constant" and not hasattr(timm.scheduler, "WSDLRScheduler"):
        pytest.skip("this timm has neither")
    args = arguments("--sched", sched, "--epochs", epochs)
    _, lrs, methods = course(args)
    assert max(lrs) >= 0.8 * args.lr
    assert methods[0] == "isqrt"
    assert methods[-1] == "svdpade"
    assert methods == sorted(methods)  # one switch


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.2), (5, 1), (6, 1), (10, 2), (24, 4), (25, 5), (300, 5)])
def test_the_warm_up_is_timms_where_it_fits(epochs, warmup):
    assert arguments("--epochs", epochs).warmup_epochs == pytest.approx(warmup)
    assert arguments("--epochs", epochs, "--warmup-epochs", 3).warmup_epochs == 3
    assert not arguments("--epochs", epochs, "--no-sched-on-updates").sched_on_updates


@pytest.mark.parametrize("epochs", [3, 4, 10])
@pytest.mark.parametrize("given", [(), ("--warmup-epochs", "2")])
def test_a_warm_up_before_the_schedule_has_whole_epochs(epochs, given):
    args = arguments("--epochs", epochs, "--warmup-prefix", *given)
    warmup = 2 if given else int(0.2 * epochs)
    _, lrs, methods = course(args)
    assert len(lrs) == (epochs + warmup) * UPDATES
    assert methods[-1] == "svdpade"


def test_a_part_of_an_epoch_before_the_schedule_is_refused():
    with pytest.raises(GCPError, match=r"--warmup-prefix.*2\.5"):
        arguments("--warmup-prefix", "--warmup-epochs", "2.5")
    assert arguments("--warmup-epochs", "2.5").warmup_epochs == 2.5


def test_the_decay_has_timms_length():
    assert arguments("--sched", "step").decay_epochs == 90
    assert arguments("--sched", "step", "--decay-epochs", "7").decay_epochs == 7


@pytest.mark.skipif(not hasattr(timm.scheduler, "WSDLRScheduler"), reason="this timm has neither")
@pytest.mark.parametrize("sched", ["wsd", "rsqrt"])
@pytest.mark.parametrize("epochs", [1, 4, 10, 300])
def test_wsd_and_rsqrt_decay_in_the_last_fifth(sched, epochs):
    _, lrs, _ = course(arguments("--sched", sched, "--epochs", epochs), hybrid=False)
    assert len(lrs) == epochs * UPDATES
    assert lrs[-1] < 0.7 * lrs[int(0.75 * len(lrs))]


@pytest.mark.parametrize("more", [(), ("--classifier-lr-mult", "5")])
@pytest.mark.parametrize("sched", ["none", "step"])
def test_layers_have_their_rates_from_the_first_update_on(sched, more):
    """Also where no scheduler applies them."""
    given = ("--sched", sched, "--layer-decay", "0.5", "--lr", "1", "--epochs", "10", "--warmup-epochs", "0")
    args = arguments(*given, *more)
    optimizer = make_optimizer(args, timm.create_model("test_resnet", num_classes=3))
    make_scheduler(args, optimizer, UPDATES)
    rates = [(group["lr"], group["lr_scale"]) for group in optimizer.param_groups]
    assert all(rate == pytest.approx(scale) for rate, scale in rates)
    assert len(set(rates)) > 2


@pytest.mark.parametrize("hybrid", [True, False])
@pytest.mark.parametrize("sched", ["cosine", "plateau"])
def test_a_run_wholly_in_warm_up_warns(sched, hybrid, caplog):
    with caplog.at_level(logging.WARNING):
        course(arguments("--sched", sched, "--epochs", 5, "--warmup-epochs", 5), hybrid=hybrid)
    assert "The whole run is warm-up (--warmup-epochs 5, and 5 epochs in all)" in caplog.text
    caplog.clear()
    course(arguments("--sched", sched, "--epochs", 5), hybrid=hybrid)
    assert not caplog.text


def test_the_reason_is_the_warm_up_where_it_is():
    args = arguments("--epochs", 5, "--warmup-epochs", 5)
    schedule = HybridSchedule(model())
    optimizer = torch.optim.SGD(model().parameters(), lr=args.lr)
    make_scheduler(args, optimizer, UPDATES).check_switch(optimizer, schedule)
    assert "rises to the end (its warm-up is as long as the run)" in schedule.describe()


def test_one_step_is_refused_with_remedies_for_every_place():
    args = arguments("--epochs", 1, "--no-sched-on-updates")
    with pytest.raises(GCPError, match=r"`epochs=2`.*`sched_on_updates`.*updates_per_epoch.*`hybrid=False`"):
        course(args)


def test_conditioning_that_may_not_settle_has_the_last_part():
    make = partial(create_scheduler_v2, num_epochs=10)
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    schedule = HybridSchedule(net, switch=ConditioningSettles())
    assert schedule.check(preview_learning_rates(optimizer, make, 10), 10) is None
    assert [schedule.step(0.1, epoch) for epoch in range(10)].index(True) == 8
