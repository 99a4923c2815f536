"""Nearest orthogonal gradient and optimal learning rate of the reduction: formulas, runs, and what they refuse."""

import math
import os
import re
import subprocess
import sys

import pytest
import scipy.linalg
import timm
import torch

from tests.support.resumed_runs import arguments, same_runs
from tests.support.tools import COMMON, MODEL, rows_of
from timm_gcp import GCPError, graft
from timm_gcp.__main__ import main as command
from timm_gcp.commands.train import main, parse_train_args
from timm_gcp.training.optimizer import make_optimizer
from timm_gcp.training.orthogonality import (
    make_orthogonality,
    nearest_orthogonal,
    optimal_learning_rate,
    reduction_weights,
)
from timm_gcp.training.step import Stepper

BOTH = ("--orthogonal-gradient", "--optimal-lr")

# Prints a digest of the parameters of every process at the end.
SCRIPT = """
import hashlib
import sys

from timm_gcp.__main__ import main
from timm_gcp.training.trainer import Trainer

fit = Trainer.fit


def reporting(self):
    fit(self)
    digest = hashlib.sha256()
    for parameter in self.run.model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    print("WEIGHTS", digest.hexdigest(), flush=True)


Trainer.fit = reporting
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e15, 1e-300])
@pytest.mark.parametrize(("rows", "columns"), [(6, 20), (20, 6), (7, 7), (1, 5)])
def test_the_gradient_is_the_polar_factor(rows, columns, scale):
    """scipy's polar decomposition is an independent reference."""
    gradient = torch.randn(rows, columns, dtype=torch.float64)
    unitary, _ = scipy.linalg.polar(gradient.numpy(), side="left")
    assert torch.allclose(nearest_orthogonal(scale * gradient), torch.from_numpy(unitary), atol=1e-12)


def test_the_gradient_is_the_nearest_of_all_semi_orthogonal_matrices():
    gradient = torch.randn(5, 12, dtype=torch.float64)
    found = nearest_orthogonal(gradient)
    assert torch.allclose(found @ found.T, torch.eye(5, dtype=torch.float64), atol=1e-12)
    for _ in range(50):
        other = torch.linalg.qr(found.T + 0.3 * torch.randn(12, 5, dtype=torch.float64))[0].T
        assert (gradient - found).norm() <= (gradient - other).norm()


def test_directions_without_a_gradient_stay_without():
    """Dead channels give rows of zeros; a gradient of rank one, and repeated singular values."""
    gradient = torch.zeros(4, 6)
    assert torch.equal(nearest_orthogonal(gradient), gradient)
    gradient[1], gradient[3] = 2 * torch.randn(6), torch.randn(6)
    found = nearest_orthogonal(gradient)
    assert torch.equal(found[[0, 2]], torch.zeros(2, 6))
    assert torch.allclose(found[[1, 3]] @ found[[1, 3]].T, torch.eye(2), atol=1e-6)
    one = torch.outer(torch.randn(4), torch.randn(6))
    assert torch.allclose(nearest_orthogonal(one), one / one.norm(), atol=1e-6)
    equal = torch.eye(4, 6)
    assert torch.allclose(nearest_orthogonal(3 * equal), equal, atol=1e-6)


def test_a_gradient_that_is_not_finite_is_left_for_the_scaler():
    gradient = torch.randn(4, 6, 1, 1)
    gradient[2, 3] = torch.nan
    assert torch.equal(nearest_orthogonal(gradient).isnan(), gradient.isnan())
    assert nearest_orthogonal(torch.randn(4, 6, 1, 1, dtype=torch.float16)).dtype == torch.float16


def test_the_rate_is_a_newton_step_on_the_length():
    """Autograd differentiates ‖w − ηl‖⁴ at η = 0; the published fraction is a second reference."""
    weight, gradient = torch.randn(5, 7, 1, 1).double(), torch.randn(5, 7, 1, 1).double()
    w, g = weight.flatten(), gradient.flatten()
    rate = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((w - rate * g).square().sum().square(), rate, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, rate)
    found = optimal_learning_rate(weight, gradient)
    assert found == pytest.approx((-slope / curvature).item(), rel=1e-12)
    assert found == pytest.approx(float((w @ w) * (g @ w) / ((w @ w) * (g @ g) + 2 * (g @ w) ** 2)), rel=1e-12)
    for scale in (1e-15, 1e15):
        assert optimal_learning_rate(weight, scale * gradient) == pytest.approx(found / scale, rel=1e-12)
    assert math.isnan(optimal_learning_rate(weight, torch.zeros_like(weight)))
    assert math.isnan(optimal_learning_rate(torch.zeros_like(weight), gradient))


def settings(*more):
    plain = ("--lr", "0.1", "--opt", "momentum", "--momentum", "0", "--weight-decay", "0")  # timm's sgd is Nesterov's
    args, _ = parse_train_args(["x", "--model", MODEL, *plain, *more])
    return args


def one_update(*more, seed=0):
    """The weight before an update, its gradient, and the weight after it."""
    torch.manual_seed(seed)
    args = settings(*more)
    model = timm.create_model(MODEL, num_classes=3)
    (weight,) = reduction_weights(model)
    stepper = Stepper(
        model,
        make_optimizer(args, model),
        torch.nn.CrossEntropyLoss(),
        clip_grad=args.clip_grad,
        orthogonality=make_orthogonality(args, model),
    )
    stepper.train_mode()
    stepper.loss(model(torch.randn(8, 3, 64, 64)), torch.arange(8) % 3).backward()
    before, gradient = weight.detach().clone(), weight.grad.clone()
    stepper._step()
    return before, gradient, weight.detach()


def test_an_update_of_the_reduction():
    before, gradient, after = one_update("--orthogonal-gradient")
    assert torch.allclose(before - after, 0.1 * nearest_orthogonal(gradient), atol=1e-6)
    before, gradient, after = one_update("--orthogonal-gradient", "--clip-grad", "1e-3")
    assert (before - after).norm() == pytest.approx(0.1 * len(before) ** 0.5, rel=1e-3)  # clipping comes first


@pytest.mark.parametrize("sign", [1, -1])
def test_the_rate_of_an_update(sign):
    """It is used between zero and the scheduled rate, which is back in force afterwards."""
    args = settings("--optimal-lr")
    model = timm.create_model(MODEL, num_classes=3)
    optimizer, orthogonality = make_optimizer(args, model), make_orthogonality(args, model)
    (weight,) = reduction_weights(model)
    group = next(g for g in optimizer.param_groups if any(p is weight for p in g["params"]))
    assert len(group["params"]) == 1
    weight.grad = sign * 100 * weight.detach()  # η* = 1/300 for a gradient along the weight, −1/300 against it
    before = weight.detach().clone()
    with orthogonality.applied(optimizer):
        optimizer.step()
    rate = 1 / 300 if sign > 0 else 0.1
    assert torch.allclose(weight, before * (1 - sign * 100 * rate), rtol=1e-5)
    assert {g["lr"] for g in optimizer.param_groups} == {0.1}


def test_a_linear_reduction_has_a_rate_of_its_own():
    """Before a batch norm the gradient is orthogonal to the weight, up to the norm's eps; without one it is not."""

    def cosine(reduction):
        torch.manual_seed(0)
        model = graft(timm.create_model("test_resnet", num_classes=3), reduce=16, reduction=reduction)
        torch.nn.functional.cross_entropy(model(torch.randn(8, 3, 64, 64)), torch.arange(8) % 3).backward()
        (weight,) = reduction_weights(model)
        return torch.cosine_similarity(weight.flatten(), weight.grad.flatten(), 0).abs().item()

    assert cosine("conv") < 1e-3 < cosine("linear")


def test_the_scaler_sees_the_gradient_unscaled():
    """The polar factor has no scale; unscaled twice it would vanish."""
    _, _, after = one_update("--orthogonal-gradient")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    torch.manual_seed(0)
    args = settings("--orthogonal-gradient")
    model = timm.create_model(MODEL, num_classes=3)
    (weight,) = reduction_weights(model)
    scaled = Stepper(
        model,
        make_optimizer(args, model),
        torch.nn.CrossEntropyLoss(),
        scaler=scaler,
        orthogonality=make_orthogonality(args, model),
    )
    scaled.train_mode()
    scaler.scale(scaled.loss(model(torch.randn(8, 3, 64, 64)), torch.arange(8) % 3)).backward()
    scaled._step()
    assert torch.allclose(weight, after, atol=1e-5)
    kept = weight.detach().clone()
    model.zero_grad()
    scaler.scale(scaled.loss(model(torch.randn(8, 3, 64, 64)), torch.arange(8) % 3)).backward()
    weight.grad[0, 0] = torch.inf
    scaled._step()  # left out by the scaler
    assert torch.equal(weight, kept)
    assert scaler.get_scale() < 2.0**14


@pytest.mark.slow
def test_a_stopped_run_equals_a_whole_one(images, tmp_path, monkeypatch):
    """With averaged weights, accumulation, clipping and a switch within an epoch, to the last bit."""
    more = (*BOTH, "--grad-accum-steps", "2", "--clip-grad", "5", "-b", "4", "--recovery-interval", "1")
    assert command(arguments(images, tmp_path / "whole", *more)) == 0
    real, calls = Stepper.update, []

    def stopping(self, *args):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Stepper, "update", stopping)
    assert command(arguments(images, tmp_path / "stopped", *more)) == 130
    monkeypatch.undo()
    assert command(arguments(images, tmp_path / "stopped", *more)) == 0
    same_runs(tmp_path / "whole" / "run", tmp_path / "stopped" / "run")
    # Without the options the run is another one; its covariances are measured either way.
    assert command(arguments(images, tmp_path / "plain", *more[len(BOTH) :])) == 0
    whole, plain = (rows_of(tmp_path / name / "run") for name in ("whole", "plain"))
    assert whole[-1]["train_loss"] != plain[-1]["train_loss"]
    assert all(float(row["kappa"]) >= 1 for row in (*whole, *plain))


@pytest.mark.slow
def test_two_processes_have_the_same_weights(images, tmp_path):
    """DistributedDataParallel broadcasts buffers, not parameters: a rank with another update would stay apart."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    given = [
        "--data-dir",
        images,
        "--model",
        MODEL,
        *COMMON,
        "--epochs",
        "3",
        "--output",
        tmp_path,
        "--opt",
        "momentum",
    ]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, *launcher, str(script), *map(str, given), "--experiment", "run", *BOTH],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    digests = re.findall(r"WEIGHTS (\w+)", done.stdout)
    assert len(digests) == 2
    assert len(set(digests)) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model", "test_resnet"), "--optimal-lr changes the reduction.*has none"),
        (("--model-kwargs", "reduce=0"), "has none"),
        (("--train-only", "classifier", "--pretrained"), "--train-only freezes"),
    ],
)
def test_refused(more, message, images, tmp_path):
    given = ["--data-dir", images, "--model", MODEL, "--img-size", "64", "-b", "8", "-j", "0", "--device", "cpu"]
    with pytest.raises(GCPError, match=message):
        main(list(map(str, [*given, "--output", tmp_path, "--optimal-lr", *more])))
