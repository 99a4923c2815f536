"""The hybrid schedule against brute force over the trajectory of learning rates."""

import copy
import io
import json
import math
import os
import warnings
from datetime import timedelta
from functools import partial

import pytest
import timm
import timm.scheduler
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import lr_scheduler as torch_schedulers

import timm_gcp
from timm_gcp.errors import GCPError
from timm_gcp.hybrid.monitor import ConditioningMonitor
from timm_gcp.hybrid.preview import base_learning_rate, preview_learning_rates
from timm_gcp.hybrid.rules import AtEpoch, ConditioningSettles, LastDecay, LearningRateFraction, last_part
from timm_gcp.hybrid.schedule import HybridSchedule
from timm_gcp.pooling import GlobalCovariancePool, find_pools

EPOCHS, UPDATES = 20, 3
FRACTION = 0.2

pytestmark = pytest.mark.filterwarnings("ignore:PlateauLRScheduler is deprecated:FutureWarning")
needs_wsd = pytest.mark.skipif(not hasattr(timm.scheduler, "WSDLRScheduler"), reason="this timm has no wsd scheduler")


def pool_model() -> nn.Module:
    return nn.Sequential(GlobalCovariancePool(2, reduce=None), nn.Linear(3, 2))


def methods(model: nn.Module) -> set[str]:
    return {pool.method for pool in find_pools(model)}


def optimizer_with_scaled_groups(lr: float = 0.5) -> torch.optim.Optimizer:
    groups = [
        {"params": [nn.Parameter(torch.zeros(1))], "lr_scale": 0.1},
        {"params": [nn.Parameter(torch.zeros(1))]},
        {"params": [nn.Parameter(torch.zeros(1))], "lr_scale": 10.0},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


def brute_force(lrs: list[float], fraction: float) -> int | None:
    """The first index after the first peak at which the rate is at or under the fraction."""
    peak = max(lrs)
    start = next(i for i, lr in enumerate(lrs) if lr >= peak * (1 - 1e-6))
    return next((i for i in range(start, len(lrs)) if lrs[i] <= fraction * peak * (1 + 1e-6)), None)


def run_like_timm(scheduler, optimizer, hybrid, epochs, updates, metric=lambda epoch: 0.0):
    """timm's training loop without the training. Returns the rates in force and the switches."""
    lrs, switches = [], []

    def tell(epoch, done):
        if hybrid.step(base_learning_rate(optimizer), epoch, done if updates else None):
            switches.append((epoch, done if updates else None))
        assert hybrid.method == (hybrid.final if switches else hybrid.warm)

    for epoch in range(epochs):
        tell(epoch, epoch * (updates or 1))
        for i in range(updates or 1):
            lrs.append(base_learning_rate(optimizer))
            optimizer.step()
            done = epoch * (updates or 1) + i + 1
            if scheduler is not None and hasattr(scheduler, "step_update"):
                scheduler.step_update(done)
            elif scheduler is not None and (updates or done == epoch + 1) and done < epochs * (updates or 1):
                scheduler.step()
            if updates:
                tell(epoch, done)
        if hasattr(scheduler, "step_update"):
            scheduler.step(epoch + 1, metric(epoch))
    return lrs, switches


TIMM = {
    "cosine": {"sched": "cosine"},
    "cosine-warmup": {"sched": "cosine", "warmup_epochs": 3, "warmup_lr": 1e-4},
    "cosine-prefix": {"sched": "cosine", "warmup_epochs": 3, "warmup_prefix": True, "cooldown_epochs": 2},
    "cosine-restarts": {"sched": "cosine", "num_epochs": 7, "cycle_limit": 3, "cycle_decay": 1.0},
    "cosine-restarts-warmup": {"sched": "cosine", "num_epochs": 9, "cycle_limit": 2, "warmup_epochs": 2},
    "cosine-noise": {"sched": "cosine", "noise": [0.2, 0.9], "noise_pct": 0.3, "noise_std": 0.2},
    "cosine-k": {"sched": "cosine", "k_decay": 1.5},
    "step": {"sched": "step", "decay_epochs": 6},
    "step-warmup-noise": {"sched": "step", "decay_epochs": 6, "warmup_epochs": 2, "noise": 0.4, "noise_seed": 3},
    "multistep": {"sched": "multistep", "decay_milestones": [8, 14], "warmup_epochs": 2},
    "poly": {"sched": "poly", "decay_rate": 0.9, "warmup_epochs": 2},
    "poly-restarts": {"sched": "poly", "decay_rate": 0.9, "num_epochs": 8, "cycle_limit": 2, "cycle_decay": 0.5},
    "tanh": {"sched": "tanh", "warmup_epochs": 2},
    "tanh-restarts": {"sched": "tanh", "num_epochs": 8, "cycle_limit": 2, "cycle_decay": 0.5},
    "wsd": {"sched": "wsd", "warmup_epochs": 2},
    "rsqrt": {"sched": "rsqrt", "warmup_epochs": 2},
}


@pytest.mark.parametrize("updates", [None, UPDATES], ids=["by-epoch", "by-update"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs_wsd if TIMM[n]["sched"] in ("wsd", "rsqrt") else ()) for n in TIMM]
)
def test_switches_where_brute_force_says_with_timm_schedulers(name, updates):
    options = {"num_epochs": EPOCHS, "min_lr": 1e-6, "step_on_epochs": not updates, "updates_per_epoch": updates or 0}
    make = partial(create_scheduler_v2, **{**options, **TIMM[name]})
    optimizer = optimizer_with_scaled_groups()
    before = copy.deepcopy([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])
    _, epochs = make(optimizer_with_scaled_groups())

    lrs = preview_learning_rates(optimizer, make, epochs, updates)
    assert [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups] == before
    model = pool_model()
    hybrid = HybridSchedule(model, switch=LearningRateFraction(FRACTION))
    expected = brute_force(lrs, FRACTION)
    assert expected is not None
    assert hybrid.check(lrs, epochs, updates) == expected // (updates or 1)

    scheduler, _ = make(optimizer)
    real, switches = run_like_timm(scheduler, optimizer, hybrid, epochs, updates)
    assert real == lrs
    assert switches == [(expected // (updates or 1), expected if updates else None)]
    assert hybrid.switched_at == {"epoch": switches[0][0], "update": switches[0][1]}
    assert methods(model) == {"svdpade"}
    # The scheduler has changed the optimiser; a second rehearsal starts at the beginning all the same.
    assert preview_learning_rates(optimizer, make, epochs, updates) == lrs


def test_a_scheduler_on_epochs_previewed_by_update_is_flat_within_an_epoch():
    make = partial(create_scheduler_v2, sched="step", decay_epochs=2, num_epochs=4, step_on_epochs=True)
    lrs = preview_learning_rates(optimizer_with_scaled_groups(1.0), make, 4, 3)
    assert lrs == pytest.approx([1.0] * 6 + [0.1] * 6)
    hybrid = HybridSchedule(pool_model())
    assert hybrid.check(lrs, 4, 3) == 2
    optimizer = optimizer_with_scaled_groups(1.0)
    _, switches = run_like_timm(make(optimizer)[0], optimizer, hybrid, 4, 3)
    # Not after the last update of epoch 1, which ran under the warm method, but before the first of epoch 2.
    assert switches == [(2, 6)]


TORCH = {
    "onecycle": (partial(torch_schedulers.OneCycleLR, max_lr=1.0, total_steps=EPOCHS), None),
    "onecycle-by-update": (partial(torch_schedulers.OneCycleLR, max_lr=1.0, total_steps=EPOCHS * UPDATES), UPDATES),
    "cosine": (partial(torch_schedulers.CosineAnnealingLR, T_max=EPOCHS), None),
    "cosine-by-update": (partial(torch_schedulers.CosineAnnealingLR, T_max=EPOCHS * UPDATES), UPDATES),
    "step": (partial(torch_schedulers.StepLR, step_size=6), None),
    "multistep": (partial(torch_schedulers.MultiStepLR, milestones=[5, 9]), None),
    "restarts": (partial(torch_schedulers.CosineAnnealingWarmRestarts, T_0=6), None),
    "restarts-by-update": (partial(torch_schedulers.CosineAnnealingWarmRestarts, T_0=7, T_mult=2), UPDATES),
    "lambda": (partial(torch_schedulers.LambdaLR, lr_lambda=lambda e: min(e / 4, 1.0) * 0.8**e), None),
    "sequential": (
        lambda optimizer: torch_schedulers.SequentialLR(
            optimizer,
            [torch_schedulers.LinearLR(optimizer, 0.1, 1.0, 3), torch_schedulers.ExponentialLR(optimizer, 0.8)],
            milestones=[3],
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("make_optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_switches_where_brute_force_says_with_torch_schedulers(name, make_optimizer):
    make, updates = TORCH[name]
    optimizer = make_optimizer([nn.Parameter(torch.zeros(1))], lr=0.1)
    lrs = preview_learning_rates(optimizer, make, EPOCHS, updates)
    expected = brute_force(lrs, FRACTION)
    assert expected is not None
    hybrid = HybridSchedule(pool_model(), switch=LearningRateFraction(FRACTION))
    assert hybrid.check(lrs, EPOCHS, updates) == expected // (updates or 1)
    real, switches = run_like_timm(make(optimizer), optimizer, hybrid, EPOCHS, updates)
    assert real == lrs
    assert switches == [(expected // (updates or 1), expected if updates else None)]


def test_preview_leaves_a_tensor_learning_rate_alone():
    lr = torch.tensor(0.1)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=lr)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lrs = preview_learning_rates(optimizer, partial(torch_schedulers.ExponentialLR, gamma=0.5), 4)
    assert lrs == pytest.approx([0.1, 0.05, 0.025, 0.0125])
    assert float(lr) == pytest.approx(0.1)


def test_preview_needs_the_updates_of_a_scheduler_on_updates():
    make = partial(create_scheduler_v2, sched="cosine", num_epochs=4, step_on_epochs=False, updates_per_epoch=5)
    with pytest.raises(GCPError, match="updates_per_epoch"):
        preview_learning_rates(optimizer_with_scaled_groups(), make, 4)


@pytest.mark.parametrize("sched", ["constant", "none"])
def test_a_constant_rate_switches_for_the_last_part(sched):
    lrs = preview_learning_rates(
        optimizer_with_scaled_groups(), partial(create_scheduler_v2, sched=sched, num_epochs=EPOCHS), EPOCHS
    )
    assert lrs == [0.5] * EPOCHS
    hybrid = HybridSchedule(pool_model())
    assert hybrid.check(lrs, EPOCHS) == 16
    assert (
        "after 16 epochs at the latest (within the 20 epochs the learning rate stays at its peak" in hybrid.describe()
    )
    assert [hybrid.step(lr, epoch) for epoch, lr in enumerate(lrs)] == [epoch == 16 for epoch in range(EPOCHS)]
    hybrid = HybridSchedule(pool_model(), switch=LearningRateFraction(latest_epoch=7))
    assert hybrid.check(lrs, EPOCHS) == 7
    assert [hybrid.step(lr, epoch) for epoch, lr in enumerate(lrs)] == [epoch == 7 for epoch in range(EPOCHS)]


@pytest.mark.parametrize(
    "make",
    [
        partial(create_scheduler_v2, sched="plateau", num_epochs=EPOCHS, patience_epochs=2, warmup_epochs=2),
        partial(torch_schedulers.ReduceLROnPlateau, patience=2),
    ],
    ids=["timm", "torch"],
)
def test_a_plateau_schedule_has_a_floor(make):
    assert preview_learning_rates(optimizer_with_scaled_groups(), make, EPOCHS) is None
    hybrid = HybridSchedule(pool_model())
    assert hybrid.check(None, EPOCHS) is None
    assert "after 16 epochs at the latest (a metric drives the schedule (plateau)" in hybrid.describe()
    with pytest.raises(GCPError, match=r"an epoch for the switch under 20 \(`switch_epoch`; latest_epoch"):
        HybridSchedule(pool_model(), switch=LearningRateFraction(latest_epoch=EPOCHS)).check(None, EPOCHS)
    assert HybridSchedule(pool_model(), switch=LearningRateFraction(latest_epoch=5)).check(None, EPOCHS) is None
    assert HybridSchedule(pool_model(), switch=AtEpoch(5)).check(None, EPOCHS) == 5


@pytest.mark.parametrize(("latest", "expected"), [(18, 6), (4, 4)])
def test_a_plateau_schedule_switches_when_it_falls_or_at_the_floor(latest, expected):
    optimizer = optimizer_with_scaled_groups()
    scheduler, _ = create_scheduler_v2(
        optimizer, sched="plateau", num_epochs=EPOCHS, patience_epochs=2, warmup_epochs=2, decay_rate=0.1
    )
    hybrid = HybridSchedule(pool_model(), switch=LearningRateFraction(latest_epoch=latest))
    hybrid.check(None, EPOCHS, UPDATES)
    lrs, switches = run_like_timm(scheduler, optimizer, hybrid, EPOCHS, UPDATES)
    assert next(i for i, lr in enumerate(lrs) if i > 3 * UPDATES and lr < 0.11 * 0.5) == 6 * UPDATES
    assert switches == [(expected, expected * UPDATES)]


def test_a_rate_that_does_not_fall_far_enough_switches_for_the_last_part():
    lrs = [0.01, 1.0, 0.5, 0.25]
    hybrid = HybridSchedule(pool_model(), switch=LearningRateFraction(0.2))
    assert hybrid.check(lrs, 4) == 3
    assert "falls to 0.25 of its peak at the lowest, and the switch waits for 0.2 of it" in hybrid.describe()
    assert HybridSchedule(pool_model(), switch=LearningRateFraction(0.25)).check(lrs, 4) == 3


# Schedules of timm in steps, and the epochs from which on the rate has the last of its values. timm counts milestones
# from 1: a rate that steps on updates falls one update before the epoch ends.
STEPS = {
    "multistep": ({"sched": "multistep", "decay_milestones": [9, 15]}, 14, 14.75),
    "warm-up": ({"sched": "multistep", "decay_milestones": [9, 15], "warmup_epochs": 3}, 14, 14.75),
    "one step": ({"sched": "multistep", "decay_milestones": [14]}, 13, 13.75),
    "neighbours": ({"sched": "multistep", "decay_milestones": [18, 19]}, 18, 18.75),
    "beyond the end": ({"sched": "multistep", "decay_milestones": [9, 30]}, 8, 8.75),
    "step": ({"sched": "step", "decay_epochs": 6}, 18, 18.0),
    "half epochs": ({"sched": "step", "decay_epochs": 6.5}, 13, 19.5),
}


@pytest.mark.parametrize("updates", [None, 4], ids=["by-epoch", "by-update"])
@pytest.mark.parametrize("name", STEPS)
def test_switches_at_the_last_decay(name, updates):
    given, by_epoch, by_update = STEPS[name]
    options = {"num_epochs": EPOCHS, "step_on_epochs": not updates, "updates_per_epoch": updates or 0}
    make = partial(create_scheduler_v2, **options, **given)
    optimizer, model = optimizer_with_scaled_groups(), pool_model()
    lrs = preview_learning_rates(optimizer, make, EPOCHS, updates)
    hybrid = HybridSchedule(model, switch=LastDecay())
    at = by_update if updates else by_epoch
    assert hybrid.check(lrs, EPOCHS, updates) == int(at)
    assert f"at the last decay of the learning rate, after {at:g} epochs." in hybrid.describe()
    real, switches = run_like_timm(make(optimizer)[0], optimizer, hybrid, EPOCHS, updates)
    assert real == lrs
    assert switches == [(int(at), round(at * updates) if updates else None)]
    assert methods(model) == {"svdpade"}


@needs_wsd
@pytest.mark.parametrize("updates", [None, UPDATES], ids=["by-epoch", "by-update"])
@pytest.mark.parametrize("preview_by", [None, UPDATES], ids=["", "previewed-by-update"])
@pytest.mark.parametrize("sched", ["cosine", "poly", "tanh", "wsd"])
def test_a_rate_that_falls_all_along_has_no_last_decay(sched, preview_by, updates):
    options = {"num_epochs": EPOCHS, "step_on_epochs": not updates, "updates_per_epoch": updates or 0}
    make = partial(create_scheduler_v2, sched=sched, warmup_epochs=2, **options)
    by = updates or preview_by
    lrs = preview_learning_rates(optimizer_with_scaled_groups(), make, EPOCHS, by)
    hybrid = HybridSchedule(pool_model(), switch=LastDecay())
    with pytest.raises(GCPError, match=r"falls all along and not in steps; .*`switch_lr_fraction=0\.1`"):
        hybrid.check(lrs, EPOCHS, by)


def test_the_last_decay_survives_a_resume_and_follows_a_longer_run():
    lrs = [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    first = HybridSchedule(pool_model(), switch=LastDecay())
    assert first.check(lrs, 6) == 4
    assert [first.step(lr, epoch) for epoch, lr in enumerate(lrs[:4])] == [False] * 4
    state = json.loads(json.dumps(first.state_dict()))
    again = HybridSchedule(pool_model(), switch=LastDecay())
    again.load_state_dict(state)
    assert again.check(lrs, 6) == 4
    assert again.step(lrs[4], 4)
    # One more step of the rate: the switch waits for it.
    longer = HybridSchedule(pool_model(), switch=LastDecay())
    assert longer.check([*lrs, 0.001, 0.001], 8) == 6
    longer.load_state_dict(state)
    assert [longer.step(0.01, 4), longer.step(0.01, 5), longer.step(0.001, 6)] == [False, False, True]
    # A state that an earlier version saved does not tell of the last decay.
    del state["history"]["last_decay"]
    old = HybridSchedule(pool_model(), switch=LastDecay())
    old.load_state_dict(state)
    assert old.check(lrs, 6) == 4


def test_a_dip_before_the_peak_does_not_switch_and_a_restart_does_not_switch_back():
    lrs = [0.1, 0.5, 0.01, 0.5, 1.0, 0.5, 0.05, 1.0, 1.0]
    model = pool_model()
    hybrid = HybridSchedule(model)
    assert hybrid.check(lrs, 9) == 6
    seen = []
    for epoch, lr in enumerate(lrs):
        hybrid.step(lr, epoch)
        seen.append(*methods(model))
    assert seen == ["isqrt"] * 6 + ["svdpade"] * 3


def test_without_a_preview_the_highest_rate_so_far_is_the_peak():
    hybrid = HybridSchedule(pool_model())
    # A warm-up from zero is no peak.
    assert [hybrid.step(lr, e) for e, lr in enumerate([0.0, 0.0, 0.1, 1.0, 0.11, 0.1])] == [False] * 5 + [True]


def test_at_epoch():
    model = pool_model()
    hybrid = HybridSchedule(model, warm="svd", final="polar", switch=AtEpoch(2))
    assert hybrid.check([1.0] * 6, 3, 2) == 2
    assert [hybrid.step(1.0, epoch) for epoch in range(3)] == [False, False, True]
    with pytest.raises(GCPError, match=r"beyond the end.*`switch_epoch=1` or less"):
        HybridSchedule(model, warm="svd", final="isqrt", switch=AtEpoch(2)).check([1.0] * 2, 2)
    with pytest.raises(GCPError, match="train longer"):
        HybridSchedule(model, warm="svd", final="isqrt", switch=AtEpoch(2)).check([1.0], 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AtEpoch(0), "`hybrid=False`"),
        (lambda: AtEpoch(-3), "`hybrid=False`"),
        (lambda: LearningRateFraction(0.0), "between 0 and 1"),
        (lambda: LearningRateFraction(1.0), "between 0 and 1"),
        (lambda: LearningRateFraction(math.nan), "between 0 and 1"),
        (lambda: LearningRateFraction(0.1, latest_epoch=0), "`hybrid=False`"),
        (lambda: ConditioningSettles(window=1), "at least 2"),
        (lambda: ConditioningSettles(tolerance=0), "above 0"),
        (lambda: HybridSchedule(pool_model(), switch=LastDecay()).step(1.0, 0), "no preview was given"),
        (lambda: HybridSchedule(pool_model(), switch=LastDecay()).check(None, 9), "plateau.*`sched=multistep`"),
        (lambda: HybridSchedule(pool_model(), switch=LastDecay()).check([0.0, 1.0, 1.0], 3), "does not fall"),
        (lambda: HybridSchedule(pool_model(), warm="svdpade"), "`hybrid=False`"),
        (lambda: HybridSchedule(pool_model(), warm="isqr"), "isqrt"),
        (lambda: HybridSchedule(pool_model(), final="svdpad"), "svdpade"),
        (lambda: HybridSchedule(nn.Linear(2, 2)), "no covariance pool"),
        (lambda: HybridSchedule(pool_model()).add(nn.Linear(2, 2)), "no covariance pool"),
        (lambda: HybridSchedule(pool_model()).check([1.0], 2), "1 learning rates for 2 epochs"),
        (lambda: HybridSchedule(pool_model()).check([], 0), "`epochs`"),
        (lambda: HybridSchedule(pool_model()).check([0.0], 1), "stays at its peak"),
        (lambda: HybridSchedule(pool_model(), switch=ConditioningSettles()).check([1.0], 1), "updates_per_epoch"),
        (lambda: HybridSchedule(pool_model()).load_state_dict({"epoch": 3}), "no readable state"),
        (lambda: HybridSchedule(pool_model()).load_state_dict({"history": 1}), "no readable state"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(make, message):
    with pytest.raises(GCPError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert str(caught.value)[-1] in ".?"


def test_pools_of_different_methods_need_a_named_final_method():
    model = nn.ModuleList([GlobalCovariancePool(2, "svd"), GlobalCovariancePool(2, "polar")])
    with pytest.raises(GCPError, match=r"polar, svd.*name the final"):
        HybridSchedule(model)
    HybridSchedule(model, final="svdpade", switch=AtEpoch(1)).step(1.0, 1)
    assert methods(model) == {"svdpade"}


# The first window of three that lies within 0.1 decades and wholly below the peak rate.
@pytest.mark.parametrize(
    ("lrs", "kappas", "expected"),
    [
        ([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], [1e9, 1e8, 1e7, 1e6, 1.1e6, 1e6, 1e6, 1e6], 6),
        ([1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5], [1e6] * 8, 7),
        ([0.1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1e6] * 8, 5),
        ([1, 0.9, 0.8, 1, 0.9, 0.8, 0.7, 0.6], [1e6] * 8, 7),
        ([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], [1e6, 1e6, math.nan, 1e6, math.inf, 1e6, 1e6, 1e6], 6),
        ([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], [10.0**k for k in range(8)], 9),
    ],
)
def test_switches_when_the_conditioning_settles(lrs, kappas, expected):
    lrs, kappas = [*lrs, 0.2, 0.1], [*kappas, 1e6, 1e6]
    hybrid = HybridSchedule(pool_model(), switch=ConditioningSettles(window=3, tolerance=0.1, latest_epoch=9))
    assert hybrid.check(lrs, 10) is None
    told_before = [
        hybrid.step(lr, epoch, conditioning={"kappa": kappas[epoch - 1]} if epoch else None)
        for epoch, lr in enumerate(lrs)
    ]
    assert told_before == [epoch == expected for epoch in range(10)]

    observed = HybridSchedule(pool_model(), switch=hybrid.switch)
    told_after = []
    for epoch, lr in enumerate(lrs):
        told_after.append(observed.step(lr, epoch))
        observed.observe(kappas[epoch], epoch)
    assert told_after == told_before


@st.composite
def trajectories(draw):
    updates = draw(st.sampled_from([None, 1, 2, 3]))
    epochs = draw(st.integers(2, 8))
    count = epochs * (updates or 1)
    lrs = draw(st.lists(st.floats(0, 1, width=16), min_size=count, max_size=count))
    kappas = draw(st.lists(st.sampled_from([1e3, 1.1e3, 1e5, math.nan]), min_size=epochs, max_size=epochs))
    rule = draw(
        st.sampled_from(
            [
                LearningRateFraction(0.5),
                LearningRateFraction(0.1, latest_epoch=3),
                AtEpoch(1),
                ConditioningSettles(2, 0.1, latest_epoch=4),
            ]
        )
    )
    return updates, epochs, lrs, kappas, rule


@settings(max_examples=60, deadline=None)
@given(trajectories(), st.booleans(), st.booleans())
def test_a_resumed_run_switches_at_the_same_step(trajectory, checked, checked_again):
    updates, epochs, lrs, kappas, rule = trajectory
    steps = updates or 1

    def schedule(with_check):
        hybrid = HybridSchedule(pool_model(), switch=rule)
        if with_check:
            hybrid.check(lrs, epochs, updates)
        return hybrid

    # Every call that a training loop makes, in order; a checkpoint may be written between any two of them.
    calls = []
    for epoch in range(epochs):
        calls.append(lambda h, e=epoch: h.step(lrs[e * steps], e, e * steps if updates else None))
        if updates:
            for n in range(epoch * steps + 1, (epoch + 1) * steps + 1):
                calls.append(lambda h, e=epoch, n=n: h.step(lrs[min(n, len(lrs) - 1)], e, n))
        calls.append(lambda h, e=epoch: h.observe(kappas[e], e) or False)

    try:
        straight = schedule(checked)
        again = schedule(checked_again and checked)
    except GCPError:
        return
    states, fired = [], []
    for call in calls:
        states.append(straight.state_dict())
        fired.append(call(straight))
    assert sum(fired) <= 1
    if checked and isinstance(rule, LearningRateFraction) and rule.latest_epoch is None:
        expected = brute_force(lrs, rule.fraction)
        if expected is None:
            expected = round(last_part(epochs, updates) * steps)
        assert straight.switched_at == {"epoch": expected // steps, "update": expected if updates else None}
    for start, state in enumerate(states):
        resumed = copy.deepcopy(again)
        resumed.load_state_dict(json.loads(json.dumps(state)))
        assert [call(resumed) for call in calls[start:]] == fired[start:]
        assert resumed.switched_at == straight.switched_at
        assert resumed.state_dict() == straight.state_dict()


def test_the_state_loads_with_weights_only_and_sets_every_copy():
    model, other = pool_model(), pool_model()
    hybrid = HybridSchedule(model, switch=ConditioningSettles(2, latest_epoch=3))
    hybrid.check([1.0, 0.5, 0.4, 0.3], 4)
    for epoch, lr in enumerate([torch.tensor(1.0), 0.5, 0.4, 0.3]):
        hybrid.step(lr, epoch, update=torch.tensor(epoch), conditioning={"kappa": torch.tensor(10.0**epoch)})
    file = io.BytesIO()
    torch.save({"hybrid": hybrid.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)["hybrid"]
    assert state == hybrid.state_dict()
    resumed = HybridSchedule(other, switch=AtEpoch(3))
    resumed.add(ema := copy.deepcopy(other))
    assert methods(other) == methods(ema) == {"isqrt"}
    resumed.load_state_dict(state)
    assert methods(other) == methods(ema) == {"svdpade"}
    assert resumed.switched
    # A run that has switched already is not refused, whatever is left of it.
    assert resumed.check([1.0] * 2, 2) == 3
    assert not resumed.step(0.1, 5)


def test_a_resumed_run_may_go_on_under_another_final_method(caplog):
    warm = HybridSchedule(pool_model(), switch=AtEpoch(2))
    warm.step(1.0, 2)
    model = pool_model()
    branch = HybridSchedule(model, final="polar", switch=AtEpoch(2))
    branch.load_state_dict(warm.state_dict())
    assert methods(model) == {"polar"}
    assert "svdpade" in caplog.text


@pytest.mark.parametrize("check_first", [False, True])
def test_a_resumed_run_with_another_learning_rate_switches_where_check_says(check_first):
    first = HybridSchedule(pool_model())
    first.check([0.1, 0.1, 0.05, 0.02, 0.01], 5)
    for epoch in range(2):
        first.step(0.1, epoch)
    # Twice the rate from epoch 2 on: the new peak lies in the past and is never seen.
    lrs = [0.2, 0.2, 0.1, 0.02, 0.02]
    second = HybridSchedule(pool_model())
    if check_first:
        assert second.check(lrs, 5) == 3
    second.load_state_dict(first.state_dict())
    if not check_first:
        assert second.check(lrs, 5) == 3
    assert [second.step(lrs[epoch], epoch) for epoch in (2, 3, 4)] == [False, True, False]


def test_the_ema_copy_and_deep_copies_switch():
    model = pool_model()
    hybrid = HybridSchedule(model, switch=AtEpoch(1))
    ema = ModelEmaV3(model)
    hybrid.add(ema)
    twin, twin_hybrid = copy.deepcopy((model, hybrid))
    hybrid.step(1.0, 1)
    late = pool_model()
    hybrid.add(late)
    assert methods(model) == methods(ema) == methods(ema.module) == methods(late) == {"svdpade"}
    assert methods(twin) == {"isqrt"}
    assert twin_hybrid.step(1.0, 1)
    assert methods(twin) == {"svdpade"}


def test_a_real_model_trains_before_and_after_the_switch():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet_svdpade", num_classes=4)
    plain = timm.create_model("test_resnet_svdpade", num_classes=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    hybrid = HybridSchedule(model, switch=LearningRateFraction(0.1))
    ema = ModelEmaV3(model, decay=0.5)
    hybrid.add(ema)
    lrs = [1e-3, 5e-4, 1e-4]
    assert hybrid.check(lrs, 3) == 2
    x, y = torch.randn(4, 3, 64, 64), torch.arange(4)
    for epoch, lr in enumerate(lrs):
        assert hybrid.step(lr, epoch) == (epoch == 2)
        assert hybrid.method in hybrid.describe()
        optimizer.param_groups[0]["lr"] = lr
        model.train()
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        ema.update(model)
        # What is in force is what the name says: a model made for that method gives the same numbers.
        for copied in (model, ema.module):
            for pool in find_pools(plain):
                pool.method = "isqrt" if epoch < 2 else "svdpade"
            plain.load_state_dict(copied.state_dict())
            with torch.no_grad():
                assert torch.equal(copied.eval()(x), plain.eval()(x))
    with torch.no_grad():
        final = plain(x)
        find_pools(plain)[0].method = "isqrt"
        assert not torch.allclose(plain(x), final, rtol=1e-6, atol=0)
    assert timm_gcp.METHODS[hybrid.method].name == "svdpade"


def features_with_kappa(kappa: float) -> torch.Tensor:
    """One image of two channels whose covariance is diag(1, 1/κ)."""
    small = kappa**-0.5
    return torch.tensor([[[[1.0, -1.0], [1.0, -1.0]], [[small, small], [-small, -small]]]])


# The first process has settled from the start, the second at epoch 4.
KAPPAS = ([1e2] * 8, [1e6, 1e5, 1e4, 1e3, 1e2, 1e2, 1e2, 1e2])


def _process(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(minutes=5)
    )
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(pool_model())
    rule = ConditioningSettles(window=2, tolerance=0.1, latest_epoch=7)
    hybrid = HybridSchedule(model, switch=rule)
    monitor = ConditioningMonitor(model, every=1).attach()
    seen = []
    for epoch in range(8):
        hybrid.step(1.0 - 0.1 * epoch, epoch)
        x = features_with_kappa(KAPPAS[rank][epoch])
        model(x).sum().backward()
        if epoch == 7 and rank == 1:
            # Processes need not have measured equally often.
            model.module(x)
        summary = monitor.summary()
        hybrid.observe(summary, epoch)
        seen.append(summary["kappa"])
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump({"kappa": seen, "switched_at": hybrid.switched_at, "methods": sorted(methods(model))}, file)
    dist.barrier()  # as training does: a process that leaves early takes the other's connection with it
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort an interpreter that takes itself apart; all is written by now


@pytest.mark.slow
def test_two_processes_switch_together_when_the_conditioning_settles(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if "GLOO_SOCKET_IFNAME" not in os.environ and os.path.exists("/sys/class/net/lo"):
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(_process, (str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    expected = [(a + b) / 2 for a, b in zip(*KAPPAS, strict=True)]
    assert first["kappa"] == pytest.approx(expected, rel=1e-5)
    assert first["switched_at"] == {"epoch": 6, "update": None}
    assert first["methods"] == ["svdpade"]
