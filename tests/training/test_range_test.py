"""The learning-rate range test: its rule on problems whose stable rates are known, and a run with --lr auto."""

import copy
import csv
import json
import math
import random

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from tests.support.tools import MODEL, rows_of, torchrun
from timm_gcp import GCPError
from timm_gcp.commands.train import main, parse_train_args
from timm_gcp.distributed import Processes
from timm_gcp.training import range_test
from timm_gcp.training.data import Loaders
from timm_gcp.training.range_curve import RangeCurve, smoothed
from timm_gcp.training.range_test import LOWEST, run_test
from timm_gcp.training.step import Stepper
from timm_gcp.weights.file import load_training_checkpoint

CPU = Processes(torch.device("cpu"))
GIVEN = [
    *("--model", MODEL, "--img-size", "64", "-b", "8", "--epochs", "2", "--warmup-epochs", "0", "-j", "0"),
    *("--switch-epoch", "1", "--device", "cpu", "--no-sched-on-updates", "--monitor-every", "1", "--drop", "0.1"),
    *("--color-jitter", "0", "--scale", "0.6", "1"),
]


class Repeated:
    """A loader of one batch that the test asks for again and again."""

    sampler = dataset = None

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        yield torch.eye(self.size), torch.zeros(self.size, dtype=torch.long)

    def set_epoch(self, epoch):
        pass

    def close(self):
        pass


def numpy_state():
    return np.random.get_state()[1].copy()  # noqa: NPY002


class Quadratic(nn.Module):
    """Logits whose first entry is ½ xᵀHx, with H of the given eigenvalues."""

    def __init__(self, eigenvalues):
        super().__init__()
        self.eigenvalues = torch.tensor(eigenvalues, dtype=torch.float64)
        self.x = nn.Parameter(torch.ones(len(eigenvalues), dtype=torch.float64))

    def forward(self, images):
        value = 0.5 * (self.eigenvalues * self.x.square()).sum()
        return torch.stack([value, value]).expand(len(images), 2)


def of_a_quadratic(eigenvalues):
    model = Quadratic(eigenvalues)
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=1.0), lambda logits, targets: logits[0, 0])
    options = parse_train_args(["somewhere", "--device", "cpu"])[0]
    return run_test(stepper, Loaders(Repeated(2), None, None), options, CPU)


@pytest.mark.parametrize("largest", [1e-1, 1.0, 1e2, 1e4])
def test_the_rate_lies_within_the_stable_range_of_a_quadratic(largest):
    """Gradient descent on ½ xᵀHx is stable for rates under 2/λ, λ the largest eigenvalue of H."""
    curve = of_a_quadratic([largest, 0.3 * largest, 0.1 * largest])
    chosen, stable = curve.choose(), 2 / largest
    assert 0.02 * stable < chosen < 0.6 * stable
    if stable < 1:
        assert curve.rates[curve.lowest] < 3 * stable
        assert curve.rates[-1] < 10  # it ended early


def test_a_loss_that_does_not_fall_is_refused():
    rng = np.random.default_rng(0)
    rates = np.geomspace(1e-6, 10, 100).tolist()
    with pytest.raises(GCPError, match="does not fall at any rate"):
        RangeCurve(rates, (1 + 0.1 * rng.standard_normal(100)).tolist()).choose()
    rising = np.linspace(1, 5, 100).tolist()
    with pytest.raises(GCPError, match="leave it out"):
        RangeCurve(rates, rising).choose()


def test_smoothing_keeps_a_constant_and_does_not_shift_a_minimum():
    np.testing.assert_allclose(smoothed([3.0] * 20), 3.0)
    dip = [1.0] * 41
    dip[20] = 0.0
    assert smoothed(dip).argmin() == 20
    np.testing.assert_allclose(smoothed(dip), smoothed(dip)[::-1])


def arguments(images, output, *more):
    return [*GIVEN, "--data-dir", str(images), "--output", str(output), "--experiment", "run", *map(str, more)]


@pytest.mark.slow
def test_the_run_is_that_of_the_chosen_rate_and_resumes_with_it(images, tmp_path, monkeypatch):
    auto, given = tmp_path / "auto" / "run", tmp_path / "given" / "run"
    assert main(arguments(images, auto.parent, "--lr", "auto")) == 0
    record = json.loads((auto / "lr_range_test.json").read_text())
    chosen = yaml.safe_load((auto / "args.yaml").read_text())["lr"]
    assert chosen == record["lr"] == float(f"{record['lowest_at'] / 10:.1e}")
    assert "lowest" in record["rule"]
    with open(auto / "lr_range_test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["lr"]) == LOWEST
    assert len(rows) >= 30
    assert (auto / "lr_range_test.png").read_bytes()[:4] == b"\x89PNG"

    assert main(arguments(images, given.parent, "--lr", chosen)) == 0
    for one, other in zip(rows_of(given), rows_of(auto), strict=True):
        assert {**one, "seconds": ""} == {**other, "seconds": ""}
    one, other = (load_training_checkpoint(run / "last.pth.tar")["state_dict"] for run in (given, auto))
    assert all(torch.equal(value, other[key]) for key, value in one.items())

    def refused(*args, **kwargs):
        raise AssertionError("tested again")

    monkeypatch.setattr(range_test, "run_test", refused)
    assert main(arguments(images, auto.parent, "--lr", "auto", "--resume", "auto", "--epochs", "3")) == 0
    assert load_training_checkpoint(auto / "last.pth.tar")["args"].lr == chosen
    assert yaml.safe_load((auto / "args.yaml").read_text())["lr"] == chosen


def test_network_and_generators_are_left_as_they_were(images, tmp_path, monkeypatch):
    """Weights, statistics of batch norm, method, monitor and random numbers, to the last bit."""
    from timm.utils import random_seed

    from timm_gcp.training import prepare as preparation
    from timm_gcp.training.run_folder import RunFolder

    monkeypatch.setattr(range_test, "UPDATES", 30)
    seen = {}
    choose = preparation.choose_rate

    def watched(options, start, data, network, processes, loss):
        random_seed(7)
        before = copy.deepcopy(network.model.state_dict())
        methods = [module.method for module in network.model.modules() if hasattr(module, "method")]
        states = random.getstate(), numpy_state(), torch.get_rng_state()
        curve = choose(options, start, data, network, processes, loss)
        after = network.model.state_dict()
        seen["weights"] = all(torch.equal(value, after[key]) for key, value in before.items())
        seen["gradients"] = all(p.grad is None for p in network.model.parameters())
        seen["methods"] = methods == [m.method for m in network.model.modules() if hasattr(m, "method")]
        seen["generators"] = (
            states[0] == random.getstate()
            and (states[1] == numpy_state()).all()
            and torch.equal(states[2], torch.get_rng_state())
        )
        seen["updates"] = len(curve.rates)
        return curve

    monkeypatch.setattr(preparation, "choose_rate", watched)
    monkeypatch.setattr(RangeCurve, "choose", lambda curve: 0.05)
    options, text = parse_train_args(
        ["--lr", "auto", "--data-dir", str(images), "--output", str(tmp_path), *GIVEN, "--mixup", "0.2"]
    )
    with RunFolder(options, CPU) as folder:
        run = preparation.prepare(options, CPU, folder, text, "")
    run.loaders.close()
    assert seen.pop("updates") == 30
    assert all(seen.values()), seen
    assert yaml.safe_load(run.arguments)["lr"] == options.lr == 0.05
    assert run.optimisation.stepper.optimizer.param_groups[0]["lr"] == 0.05
    measured = run.protocol.monitor.summary().values()
    assert all(math.isnan(each) for each in measured)  # nothing of the test


@pytest.mark.slow
def test_two_processes_take_the_same_rate(images, tmp_path):
    given = arguments(images, tmp_path, "--lr", "auto", "-b", "4", "--epochs", "1", "--no-hybrid")
    at = given.index("--switch-epoch")
    del given[at : at + 2]
    done = torchrun("timm_gcp", "train", *given)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    chosen = json.loads((run / "lr_range_test.json").read_text())["lr"]
    checkpoint = load_training_checkpoint(run / "last.pth.tar")
    assert checkpoint["args"].lr == chosen == yaml.safe_load((run / "args.yaml").read_text())["lr"]
    assert done.stdout.count("in a range test") == 1
