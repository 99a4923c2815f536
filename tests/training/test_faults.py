"""Numerical faults: a loss or gradient that is not finite, and matrices on which the eigensolver gives up."""

import json
import math
import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import timm_gcp  # noqa: F401 (registers the models)
from tests.support.tools import COMMON, MODEL, rows_of
from timm_gcp.__main__ import main
from timm_gcp.commands.train import parse_train_args
from timm_gcp.distributed import Processes
from timm_gcp.errors import GCPError
from timm_gcp.hybrid.monitor import ConditioningMonitor, largest_k
from timm_gcp.models.named import create_model
from timm_gcp.pooling import GlobalCovariancePool
from timm_gcp.spectral import eigh as solver
from timm_gcp.spectral.eigh import eigh, take_retried
from timm_gcp.training.data import Loaders
from timm_gcp.training.epoch_position import Position
from timm_gcp.training.faults import IN_A_ROW, KEPT, Batch, Faults, Findings, examine
from timm_gcp.training.interrupt import Interrupt
from timm_gcp.training.optimisation import Optimisation
from timm_gcp.training.progress import Progress
from timm_gcp.training.protocol import Protocol
from timm_gcp.training.scheduler import Scheduler
from timm_gcp.training.step import Stepper
from timm_gcp.training.trainer import Trainer

LOSS = nn.CrossEntropyLoss()
CPU = torch.device("cpu")


def train(images, output, *more):
    return main(
        [
            *("train", "--data-dir", str(images), "--model", MODEL, *COMMON, "-j", "0", "--epochs", "2"),
            *("--switch-epoch", "1", "--output", str(output), "--experiment", "x", *map(str, more)),
        ]
    )


def poisoned(monkeypatch, updates, value=math.nan, gradient=False):
    """Makes the loss of some updates, by their number in the run, or only its gradient, not finite."""
    real, calls = nn.CrossEntropyLoss.forward, []

    def forward(self, logits, targets):
        loss = real(self, logits, targets)
        if logits.requires_grad and torch.is_grad_enabled():
            if len(calls) in updates:
                loss = _BadGradient.apply(loss) if gradient else loss * value
            calls.append(1)
        return loss

    monkeypatch.setattr(nn.CrossEntropyLoss, "forward", forward)


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * math.inf


@pytest.mark.parametrize("gradient", [False, True])
def test_stops_with_the_batch_saved(gradient, images, tmp_path, monkeypatch, capsys):
    poisoned(monkeypatch, {2}, gradient=gradient)
    assert train(images, tmp_path, "--smoothing", "0") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    what = "gradient became infinite or nan" if gradient else "loss became nan"
    assert re.search(
        rf"The {what} at update 3 \(epoch 1\) under method 'isqrt', batch 3 of the epoch \(\S+\.jpg, .* and 5 more\)",
        error,
    )
    assert re.search(r"largest κ \d.*, largest \|K\| \d", error)
    assert "--clip-grad 5" in error
    assert "--on-nonfinite skip" in error
    file = tmp_path / "x" / "nonfinite-3.safetensors"
    assert str(file) in error
    with safe_open(file, "pt") as content:
        assert content.get_tensor("images").shape == (8, 3, 64, 64)
        targets, files = content.get_tensor("targets"), json.loads(content.metadata()["files"])
        assert (content.metadata()["update"], content.metadata()["method"]) == ("3", "isqrt")
        assert content.get_tensor("kappa").shape == content.get_tensor("largest_k").shape == (8,)
    # The files are those of the batch: the folder of each is its label.
    classes = ["coarse", "fine", "middle"]
    assert [classes[label] for label in targets] == [file.split("/")[0] for file in files]
    assert not [path for path in (tmp_path / "x").iterdir() if path.name.startswith((".", "tmp"))]


@pytest.mark.slow
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_skips_and_counts(gradient, accumulate, images, tmp_path, monkeypatch, capsys, caplog):
    poisoned(monkeypatch, {1, 3}, math.inf, gradient)
    assert train(images, tmp_path, "--smoothing", "0", "--on-nonfinite", "skip", "--grad-accum-steps", accumulate) == 0
    # A second look at a batch is a call too: the third poisoned one may be such.
    rows = rows_of(tmp_path / "x")
    skipped = sum(int(row["skipped"]) for row in rows)
    assert skipped == len(list((tmp_path / "x").glob("nonfinite-*.safetensors"))) >= 1
    assert all(math.isfinite(float(row["train_loss"])) for row in rows)
    assert f"skipped updates {rows[0]['skipped']}" in capsys.readouterr().out
    assert json.loads((tmp_path / "x" / "result.json").read_text())["skipped_updates"] == skipped
    assert "; skipped" in caplog.text


class _Loader(list):
    """Batches, with what the trainer asks a loader for."""

    sampler = dataset = None


def one_epoch(model, batches, faults, monitor=None):
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), LOSS)
    options, _ = parse_train_args([])
    run = SimpleNamespace(
        options=options,
        processes=Processes(CPU),
        device=CPU,
        model=model,
        method=None,
        loaders=Loaders(_Loader(batches), None, None),
        optimisation=Optimisation(stepper, Scheduler(None, 1, None, None), None),
        protocol=Protocol(None, monitor),
        progress=Progress(0, 1, 1, enabled=False),
        faults=faults,
        position=Position(),
    )
    Trainer(run, Interrupt()).train_epoch(0)
    return run.position


def test_a_skipped_update_leaves_no_trace(tmp_path):
    """Weights and running statistics, through which one image spoils a batch, are those of a run without the batch."""
    torch.manual_seed(0)
    good = [(torch.randn(4, 3, 32, 32), torch.randint(3, (4,))) for _ in range(3)]
    bad = torch.randn(4, 3, 32, 32)
    bad[1, 2, 3, 4] = math.nan
    model = timm.create_model(MODEL, num_classes=3, pretrained=False)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    position = one_epoch(model, [good[0], (bad, good[0][1]), *good[1:]], Faults(tmp_path, skip=True))
    assert (position.skipped, position.batches) == (1, 4)
    after = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(start)
    alone = one_epoch(model, good, Faults(tmp_path))
    assert alone.loss == position.loss
    for key, value in model.state_dict().items():
        assert torch.equal(value, after[key]), key
    with pytest.raises(GCPError, match=r"first not finite is image 1 of the batch.*4 of 4 covariances without any"):
        one_epoch(model, [(bad, good[0][1])], Faults(tmp_path))


def test_the_second_look_is_not_measured(tmp_path):
    model = timm.create_model(MODEL, num_classes=3, pretrained=False)
    batches = [(torch.randn(4, 3, 32, 32), torch.randint(3, (4,))) for _ in range(3)]
    batches[1][0][1, 2, 3, 4] = math.nan
    with ConditioningMonitor(model, every=2) as monitor:
        position = one_epoch(model, batches, Faults(tmp_path, skip=True), monitor)
        assert position.skipped == 1
        state = monitor.state_dict()
    assert (state["forwards"], len(state["measured"])) == ([3], 8)


def test_the_second_look_meets_the_same_chance(tmp_path):
    drawn = []

    class Draws(nn.Module):
        def forward(self, x):
            drawn.append(torch.rand(()).item())
            return x

    model = nn.Sequential(Draws(), nn.Flatten(), nn.Linear(4, 2))
    batches = [(torch.full((2, 1, 2, 2), value), torch.tensor([0, 1])) for value in (1.0, 2.0, math.nan)]
    with pytest.raises(GCPError, match="The loss became nan at update 3"):
        one_epoch(model, batches, Faults(tmp_path))
    assert len(set(drawn[:3])) == 3
    assert drawn[3:] == drawn[2:3]


def test_a_run_of_faults_ends(tmp_path, caplog):
    faults = Faults(tmp_path, skip=True)
    batch, findings = Batch(0, torch.zeros(1), torch.zeros(1)), Findings("the images", torch.empty(0), torch.empty(0))

    def met(update):
        faults.met("The loss became nan", [batch], lambda _: findings, epoch=0, update=update, method=None)

    for update in range(IN_A_ROW - 1):
        met(update)
    assert len(list(tmp_path.iterdir())) == KEPT
    with pytest.raises(GCPError, match=r"in a row.*nothing is learned"):
        met(IN_A_ROW)
    faults.passed()
    met(0)


class _Spoiled(nn.Module):
    """Spoils one image of a batch, in the forward or in the backward."""

    def __init__(self, backward):
        super().__init__()
        self.backward = backward

    def forward(self, x):
        if self.backward:
            return _SpoiledBackward.apply(x)
        return torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) == 1, x * math.inf, x)


class _SpoiledBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.full_like(grad, math.nan)


@pytest.mark.parametrize("backward", [False, True])
def test_names_the_layer(backward):
    model = timm.create_model(MODEL, num_classes=3, pretrained=False).train()
    model.layer2[0].act2 = nn.Sequential(model.layer2[0].act2, _Spoiled(backward))
    batch = Batch(0, torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0]))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = examine(model, batch, LOSS, nullcontext, gradient=True)
    expected = "the gradient that leaves layer2.0.act2.1" if backward else "the output of layer2.0.act2.1"
    assert found.where == expected
    assert len(found.kappa) == 4
    assert found.kappa.isnan().any() == (not backward)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_names_the_pool_and_the_weights(monkeypatch):
    model = timm.create_model(MODEL, num_classes=3, pretrained=False).train()
    batch = Batch(0, torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0]))
    assert examine(model, batch, LOSS, nullcontext, gradient=True).where == ""
    real = type(model.global_pool)._vector
    monkeypatch.setattr(type(model.global_pool), "_vector", lambda self, x: real(self, _SpoiledBackward.apply(x)))
    assert examine(model, batch, LOSS, nullcontext, gradient=True).where == "the gradient that leaves global_pool"
    with torch.no_grad():
        model.fc.weight[0, 0] = math.inf
    assert examine(model, batch, LOSS, nullcontext).where == "the weights fc.weight"


def test_huge_gradients_are_no_fault():
    """Their squares overflow in float32, they do not."""
    weight = nn.Linear(1, 1, bias=False)
    batch = Batch(0, torch.ones(1, 1), torch.ones(1, 1))

    def update(factor):
        optimizer = torch.optim.SGD(weight.parameters(), lr=1e-30)
        stepper = Stepper(weight, optimizer, lambda logits, targets: factor * logits.sum())
        return stepper.update([batch], CPU, lambda _: None, lambda: False)

    assert not update(1e25).fault
    before = weight.weight.clone()
    assert update(math.inf).fault
    assert torch.equal(weight.weight, before)


def test_a_gradient_that_no_loss_scale_makes_finite_is_a_fault():
    """The scaler leaves such updates out without a word."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    scaler = torch.amp.GradScaler("cpu")
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), LOSS, scaler)
    batch = Batch(0, torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]))

    def faults(loss, updates):
        stepper.loss = loss
        return [stepper.update([batch], CPU, lambda _: None, lambda: False).fault for _ in range(updates)]

    def bad(logits, targets):
        return _BadGradient.apply(LOSS(logits, targets))

    assert not any(faults(LOSS, 3))
    before = model[1].weight.clone()
    found = faults(bad, 20)
    assert found[:16] == [""] * 16  # the scale falls from 65536
    assert all("even at a loss scale below 1" in fault for fault in found[16:])
    assert torch.equal(model[1].weight, before)
    assert not any(faults(LOSS, 3))  # a small scale alone is no fault
    assert not torch.equal(model[1].weight, before)


@pytest.mark.parametrize("name", ["test_resnet_isqrt", "test_convnext_isqrt", "test_vit_mp", "test_convnext"])
def test_adaptive_clipping_spares_the_classifier_alone(name):
    model, kept = create_model(name, num_classes=3), {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: kept.update({n: p.grad.norm() for n, p in model.named_parameters()}))
    stepper = Stepper(model, optimizer, lambda *given: 1e4 * LOSS(*given), clip_grad=1e-6, clip_mode="agc")
    batch = Batch(0, torch.randn(2, *model.pretrained_cfg["input_size"]), torch.tensor([0, 1]))
    assert not stepper.update([batch], CPU, lambda _: None, bool).fault
    classifier = {n for n, p in model.named_parameters() if any(p is q for q in model.get_classifier().parameters())}
    assert min(kept[n] for n in classifier) > 1
    assert max(kept[n] for n in kept.keys() - classifier) < 1e-3


def test_an_update_reads_the_device_once():
    """Whatever is read waits for the GPU: loss, accuracy, labels and gradient are read together."""

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._local_scalar_dense.default:
                reads.append(function)
            return function(*args, **(kwargs or {}))

    reads = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), LOSS)
    batches = [Batch(i, torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])) for i in range(2)]
    with Reads():
        made = stepper.update(batches, CPU, lambda _: None, lambda: False)
    assert not made.fault
    assert reads == []  # one ``tolist`` of the CPU tensor is no such read; ``item``, ``int`` and ``if`` are


def test_largest_k_against_numpy():
    x = torch.randn(3, 5, 20, dtype=torch.float64) * 100
    x[1] = 0
    values = torch.linalg.eigvalsh(torch.stack([torch.cov(each, correction=0) for each in x]))
    expected = 1 / values.diff(dim=1).amin(1)
    found = largest_k(x)
    assert found[[0, 2]].tolist() == pytest.approx(expected[[0, 2]].tolist(), rel=1e-9)
    assert found[1].isnan()


def test_a_grouped_pool_is_examined_group_by_group():
    """Two channels of κ = 1e2 and two of 1e4, a million times as large: the covariance of all four has κ of 1e14."""
    torch.manual_seed(0)
    model = nn.Sequential(GlobalCovariancePool(4, "polar", reduce=None, groups=2), nn.Linear(6, 3))
    # Orthonormal channels without a mean: the covariance is diagonal.
    columns = torch.cat([torch.ones(3, 16, 1), torch.randn(3, 16, 4)], -1).double()
    x = torch.linalg.qr(columns).Q[..., 1:].mT
    x = (x * torch.tensor([1.0, 0.1, 1e6, 1e4]).double()[:, None]).reshape(3, 4, 4, 4)
    batch = Batch(0, x, torch.tensor([0, 1, 2]))
    found = examine(model.double(), batch, LOSS, nullcontext)
    assert found.where == ""
    assert found.kappa.tolist() == pytest.approx([1e2, 1e4] * 3, rel=1e-6)
    small, large = 16 / (1 - 1e-2), 16 / (1e12 - 1e8)
    assert found.largest_k.tolist() == pytest.approx([small, large] * 3, rel=1e-6)


# ------------------------------------------------------------------------------------------------- eigensolver


def stubborn(monkeypatch, gives_up):
    """A solver that does not converge on a batch with a matrix for which ``gives_up`` holds."""
    real = torch.linalg.eigh

    def solve(a):
        if any(gives_up(matrix) for matrix in a.reshape(-1, *a.shape[-2:])):
            raise torch.linalg.LinAlgError("linalg.eigh: The algorithm failed to converge")
        return real(a)

    monkeypatch.setattr(solver.torch.linalg, "eigh", solve)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_matrix_falls_back_alone(dtype, monkeypatch):
    a = torch.randn(2, 3, 6, 6, dtype=dtype)
    a = a + a.mT
    a[0, 1, 0, 0] = 77
    a[1, 2] = math.nan
    expected = [torch.linalg.eigvalsh(matrix) for matrix in a.flatten(0, 1)[:5]]
    take_retried()
    tries = []

    def gives_up(matrix):
        if matrix[0, 0] != 77:
            return False
        tries.append(matrix.dtype)
        # The batch, the matrix by itself, and whatever is not the last resort.
        return len(tries) < 4

    stubborn(monkeypatch, gives_up)
    values, vectors = eigh(a)
    assert tries == [dtype, dtype, torch.float64, torch.float64]
    assert take_retried() == 1
    assert take_retried() == 0
    assert values.dtype == vectors.dtype == dtype
    assert values[1, 2].isnan().all()
    for value, reference in zip(values.flatten(0, 1), expected, strict=False):
        assert torch.allclose(value, reference, atol=1e-4 if dtype == torch.float32 else 1e-12)


def test_a_matrix_beyond_help_gives_nan(monkeypatch):
    a = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    a[1, 0, 0] = 77
    stubborn(monkeypatch, lambda matrix: matrix[0, 0] == 77)
    take_retried()
    values, vectors = eigh(a)
    assert values.isnan().any(1).tolist() == vectors.isnan().flatten(1).any(1).tolist() == [False, True, False]
    assert take_retried() == 1


def test_fallbacks_are_counted_in_the_log(images, tmp_path, monkeypatch, capsys):
    calls = []

    def gives_up(matrix):
        calls.append(1)
        # Two attempts in a row: the batch, and the matrix by itself.
        return len(calls) in (5, 6)

    stubborn(monkeypatch, gives_up)
    assert train(images, tmp_path, "--monitor-every", "0") == 0
    assert sorted(row["fallbacks"] for row in rows_of(tmp_path / "x"))[-2:] == ["0", "1"]
    assert "eigensolver fallbacks 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "x" / "result.json").read_text())["eigensolver_fallbacks"] == 1
