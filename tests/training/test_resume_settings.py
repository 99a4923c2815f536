"""Resuming with other settings: applied or refused by name, and recorded as they ran."""

import json
import shutil
from argparse import Namespace

import pytest
import timm
import torch
import yaml

from tests.support.tools import COMMON, MODEL
from timm_gcp.__main__ import main
from timm_gcp.commands.train import parse_train_args
from timm_gcp.errors import GCPError
from timm_gcp.hybrid.rules import LearningRateFraction
from timm_gcp.hybrid.schedule import HybridSchedule
from timm_gcp.training.optimizer import make_optimizer
from timm_gcp.training.optimizer_state import load_optimizer
from timm_gcp.training.resume import Start, load_resumed
from timm_gcp.training.scheduler import make_scheduler, rate_ratio
from timm_gcp.weights.file import load_training_checkpoint


def train(images, output, *more):
    argv = ["train", "--data-dir", str(images), "--model", MODEL, *COMMON, "-j", "0", "--output", str(output)]
    return main([*argv, "--experiment", "run", *map(str, more)])


def settings(*argv):
    args, _ = parse_train_args(["--lr", "0.1", "--epochs", "9", "--warmup-epochs", "0", *map(str, argv)])
    args.resume = "last.pth.tar"
    return args


def trained(args, seed=0):
    """A model of a few layers with its optimiser and scheduler, three epochs into a run."""
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", num_classes=3)
    optimizer = make_optimizer(args, model)
    scheduler = make_scheduler(args, optimizer, 2).scheduler
    for epoch in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        if scheduler is not None:
            scheduler.step(epoch + 1, 50.0)
    return model, optimizer


def resumed(args, before, state, model):
    optimizer = make_optimizer(args, model)
    load_optimizer(args, vars(before), model, optimizer, state, "last.pth.tar")
    make_scheduler(args, optimizer, 2).go_to(3, 6)
    return optimizer


def by_name(model, optimizer):
    """The settings and the state of every parameter."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: ({k: v for k, v in group.items() if k != "params"}, optimizer.state_dict()["state"], p)
        for group in optimizer.param_groups
        for p in group["params"]
    }


ADAM = ("--opt", "adamw")
CHANGES = {
    "rate": ((), ("--lr", "0.002")),
    "rate of no schedule": (("--sched", "none"), ("--sched", "none", "--lr", "0.002")),
    "rate from the batch": ((), ("--lr-base", "0.3", "--lr", "0.15")),
    "weight decay": ((), ("--weight-decay", "0.01")),
    "weight decay for the first time": (("--weight-decay", "0"), ("--weight-decay", "0.01")),
    "no more weight decay": ((), ("--weight-decay", "0")),
    "momentum": ((), ("--momentum", "0.5")),
    "betas": (ADAM, (*ADAM, "--opt-betas", "0.8", "0.9")),
    "epsilon": (ADAM, (*ADAM, "--opt-eps", "1e-3")),
    "classifier": ((), ("--classifier-lr-mult", "5")),
    "a rate of the reduction's own": ((), ("--optimal-lr", "--classifier-lr-mult", "5")),
    "no more rate of its own": (("--optimal-lr",), ()),
    "layers": (ADAM, (*ADAM, "--layer-decay", "0.7")),
    "no more layers": ((*ADAM, "--layer-decay", "0.7"), ADAM),
    "no more rate of the classifier's own": (("--classifier-lr-mult", "5"), ()),
    "an own option": (ADAM, (*ADAM, "--opt-kwargs", "weight_decay=0.3")),
    "lookahead": (("--opt", "lookahead_sgd"), ("--opt", "lookahead_sgd", "--momentum", "0.5", "--lr", "0.01")),
    "several": ((), ("--lr", "0.3", "--momentum", "0.8", "--weight-decay", "0")),
}


@pytest.mark.parametrize(("old", "new"), CHANGES.values(), ids=CHANGES)
def test_what_is_given_anew_is_applied(old, new):
    """The groups are those of a run that had the new settings from the start; the state is that of the old one."""
    before, now = settings(*old), settings(*new)
    model, optimizer = trained(before)
    state = optimizer.state_dict()
    again = resumed(now, before, state, model)
    reference = by_name(*trained(now))
    was = {id(p): optimizer.state_dict()["state"][i] for i, p in enumerate(_parameters(optimizer))}
    for name, (group, _, _) in by_name(model, again).items():
        assert group == reference[name][0]
    for i, parameter in enumerate(_parameters(again)):
        for key, value in again.state_dict()["state"][i].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(was[id(parameter)][key]))
    assert any(torch.is_tensor(value) for value in was.popitem()[1].values())


def _parameters(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("options", [(), ADAM, ("--opt", "lookahead_sgd"), ("--sched", "none")])
def test_unchanged_settings_are_loaded_as_they_are(options):
    args = settings(*options)
    model, optimizer = trained(args)
    optimizer.param_groups[0]["of_its_own"] = 3  # some optimisers keep state here
    again = make_optimizer(args, model)
    load_optimizer(args, vars(settings(*options)), model, again, optimizer.state_dict(), "last.pth.tar")
    assert again.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ((), ("--opt", "adamw"), "--opt sgd"),
        (ADAM, (*ADAM, "--opt-kwargs", "amsgrad=True"), "amsgrad"),
    ],
)
def test_another_state_is_refused_by_name(old, new, name):
    before, now = settings(*old), settings(*new)
    model, optimizer = trained(before)
    with pytest.raises(GCPError, match=f"{name}.*--no-resume-opt"):
        load_optimizer(now, vars(before), model, make_optimizer(now, model), optimizer.state_dict(), "last.pth.tar")


@pytest.mark.parametrize("added", [False, True], ids=["fewer frozen", "more frozen"])
def test_other_trained_parameters_are_refused_by_name(added):
    every = (*ADAM, "--layer-decay", "0.5")
    few = (*every, "--layer-decay-no-opt-scale", "0.9")
    old, new, reason = (every, few, "groups differ") if added else (few, every, "trained now that were frozen before")
    before, now = settings(*old), settings(*new)
    model, optimizer = trained(before)
    state = optimizer.state_dict()
    for parameter in model.parameters():
        parameter.requires_grad = True
    with pytest.raises(GCPError, match=reason):
        load_optimizer(now, vars(before), model, make_optimizer(now, model), state, "last.pth.tar")


def test_a_checkpoint_that_does_not_tell_its_settings(caplog):
    args = settings("--momentum", "0.5")
    model, optimizer = trained(settings())
    again = make_optimizer(args, model)
    load_optimizer(args, None, model, again, optimizer.state_dict(), "last.pth.tar")
    assert again.param_groups[0]["momentum"] == 0.9
    assert "does not tell the settings" in caplog.text


def test_a_plateau_takes_the_new_settings():
    """What a metric has done to the rate stays; patience and factor are this run's."""
    before = settings("--sched", "plateau", "--patience-epochs", "0", "--decay-rate", "0.5")
    now = settings("--sched", "plateau", "--patience-epochs", "7", "--decay-rate", "0.2", "--lr", "0.01")
    model, _ = trained(before)
    optimizer = make_optimizer(before, model)
    scheduler = make_scheduler(before, optimizer, 2).scheduler
    for epoch in range(3):
        scheduler.step(epoch + 1, 50.0)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert max(rates) < 0.1
    saved = {"state": scheduler.lr_scheduler.state_dict(), "lrs": rates}
    again = make_optimizer(now, model)
    load_optimizer(now, vars(before), model, again, optimizer.state_dict(), "last.pth.tar")
    resumed_one = make_scheduler(now, again, 2)
    resumed_one.go_to(3, 6)
    resumed_one.load_state(saved, again, rate_ratio(now.lr, vars(before)))
    plateau = resumed_one.scheduler.lr_scheduler
    assert (plateau.patience, plateau.factor, plateau.best) == (7, 0.2, 50.0)
    assert [group["lr"] for group in again.param_groups] == pytest.approx([rate / 10 for rate in rates])


def test_a_plateau_with_noise_goes_on_as_an_unbroken_one():
    """The noise of an epoch is taken away before the next: what it was added to is in the checkpoint."""
    args = settings("--sched", "plateau", "--lr-noise", "0.1", "0.9", "--epochs", "40", "--patience-epochs", "1")

    def made():
        optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=args.lr)
        return make_scheduler(args, optimizer, 2), optimizer

    unbroken, optimizer = made()
    for epoch in range(1, 13):
        unbroken.after_epoch(epoch, 1.0)
    resumed_one, again = made()
    resumed_one.go_to(12, 24)
    resumed_one.load_state(unbroken.state(optimizer), again, 1.0)
    for epoch in range(13, 18):
        assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] < args.lr
        for each in (unbroken, resumed_one):
            each.after_epoch(epoch, 1.0)


def test_a_lower_rate_is_no_reason_to_switch():
    """The rule looks at the fall of the rate within the schedule, not from the old schedule to the new one."""
    before, now = settings("--sched", "plateau"), settings("--sched", "plateau", "--lr", "0.002")
    model = timm.create_model(MODEL, num_classes=3)
    first = HybridSchedule(model, warm="isqrt", switch=LearningRateFraction(0.1, latest_epoch=8))
    first.check(None, 9)
    assert not first.step(0.1, 0)
    optimizer = make_optimizer(before, model)
    checkpoint = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": Namespace(**vars(before)),
        "epoch": 0,
        "hybrid": first.state_dict(),
    }
    model.global_pool.method = "svdpade"
    second = HybridSchedule(model, warm="isqrt", switch=LearningRateFraction(0.1, latest_epoch=8))
    load_resumed(Start("last.pth.tar", checkpoint), now, model, make_optimizer(now, model), None, second)
    second.check(None, 9)
    assert not second.step(0.002, 1)
    assert second.step(0.0002, 2)


# ------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def half(images, tmp_path_factory):
    """Two epochs of four."""
    output = tmp_path_factory.mktemp("half")
    assert train(images, output, "--epochs", "2", "--switch-epoch", "1", "--lr", "0.04") == 0
    return output / "run"


@pytest.fixture
def copied(half, tmp_path):
    shutil.copytree(half, tmp_path / "run")
    return tmp_path / "run"


def recorded(folder):
    """Everything that a run records of its course."""
    names = ("args.yaml", "result.json", "history.json", "summary.csv", "last.pth.tar", "model/config.json")
    return {name: (folder / name).read_bytes() for name in names}


def test_what_is_recorded_is_what_ran(images, copied, tmp_path, capsys):
    more = ("--epochs", "3", "--switch-epoch", "1", "--lr", "0.01", "--weight-decay", "0.001", "--resume", "auto")
    assert train(images, tmp_path, *more) == 0
    out = capsys.readouterr().out
    assert "--lr 0.04 → 0.01" in out
    assert "--weight-decay 2e-05 → 0.001" in out
    assert "--epochs 2 → 3" in out
    groups = load_training_checkpoint(copied / "last.pth.tar")["optimizer"]["param_groups"]
    assert {group["initial_lr"] for group in groups} == {0.01}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.001}
    assert yaml.safe_load((copied / "args.yaml").read_text())["lr"] == 0.01
    result = json.loads((copied / "result.json").read_text())
    first, second = result["segments"]
    assert json.loads((copied / "history.json").read_text()) == [first, second]
    assert [(each["first_epoch"], each["last_epoch"]) for each in (first, second)] == [(0, 1), (2, 2)]
    assert "--lr 0.04" in first["command"]
    assert "--lr 0.01" in second["command"]
    assert second["command"] == result["command"]
    assert second["differences"]["lr"] == [0.04, 0.01]
    assert set(second["differences"]) == {"lr", "weight_decay", "epochs"}
    assert first["differences"] == {}
    assert first["versions"]["torch"] == torch.__version__


def test_a_run_that_trains_nothing_changes_nothing(images, copied, tmp_path, capsys):
    before = recorded(copied)
    more = ("--epochs", "2", "--switch-epoch", "1", "--lr", "0.5", "-b", "4", "--resume", "auto")
    assert train(images, tmp_path, *more) == 0
    out = capsys.readouterr().out
    assert "All 2 epochs" in out
    assert "--lr 0.04 → 0.5" in out
    assert "has no effect" in out
    assert recorded(copied) == before


@pytest.mark.parametrize("lost", ["result.json", "model"])
def test_what_a_killed_run_could_not_write_is_written(lost, images, copied, tmp_path):
    """After the last epoch, so there is nothing to train: it says what trained, not what was typed last."""
    before = recorded(copied)
    if lost == "model":
        shutil.rmtree(copied / lost)
    else:
        (copied / lost).unlink()
    more = ("--epochs", "2", "--switch-epoch", "1", "--lr", "0.5", "--seed", "7", "--resume", "auto")
    assert train(images, tmp_path, *more) == 0
    assert recorded(copied) == before


def test_a_copy_of_a_finished_run_keeps_its_history(images, half, tmp_path):
    more = ("--epochs", "2", "--switch-epoch", "1", "--lr", "0.5", "--resume", half / "last.pth.tar")
    assert train(images, tmp_path, *more) == 0
    copy = tmp_path / "run"
    for name in ("args.yaml", "history.json", "summary.csv"):
        assert (copy / name).read_bytes() == (half / name).read_bytes()
    assert (
        json.loads((copy / "result.json").read_text())["command"]
        == json.loads((half / "result.json").read_text())["command"]
    )


def test_a_checkpoint_without_a_history(images, copied, tmp_path):
    """Of an earlier version."""
    for name in ("last", "previous"):
        checkpoint = load_training_checkpoint(copied / f"{name}.pth.tar")
        del checkpoint["gcp"]["segments"]
        torch.save(checkpoint, copied / f"{name}.pth.tar")
    assert train(images, tmp_path, "--epochs", "3", "--switch-epoch", "1", "--resume", "auto") == 0
    first, second = json.loads((copied / "history.json").read_text())
    assert first == {"first_epoch": 0, "first_batch": 0, "command": None, "last_epoch": 1}
    assert (second["first_epoch"], second["last_epoch"]) == (2, 2)


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (("--opt", "adamw"), "--opt sgd"),
        (("--eval-metric", "loss"), "--eval-metric 'top1'"),
        (("--val-split", "train"), "--val-split 'validation', and this command gives 'train'"),
        (("--val-split", ""), "--val-split 'validation', and this command gives ''"),
        (("--train-only", "head"), "--train-only None"),
        (("--no-hybrid",), "--no-hybrid"),
        (("--switch-epoch", "2"), "--switch-epoch 1, and this command gives 2: the method switched after epoch 1"),
    ],
)
def test_what_cannot_change_is_refused_by_name(more, name, images, copied, tmp_path, capsys):
    before = recorded(copied)
    protocol = () if "--no-hybrid" in more else ("--switch-epoch", "1")
    argv = [a for a in COMMON if protocol or a not in ("--switch-epoch",)]
    if not protocol:
        argv.remove("2")
    command = ["train", str(images), "--model", MODEL, *argv, "--output", str(tmp_path), "--experiment", "run"]
    assert main([*command, "--epochs", "3", "-j", "0", "--resume", "auto", *protocol, *more]) == 2
    assert name in capsys.readouterr().err
    assert recorded(copied) == before


def test_the_advice_after_a_loss_that_is_not_finite_helps(images, copied, tmp_path, capsys):
    more = ("--epochs", "4", "--switch-epoch", "1", "--resume", "auto")
    assert train(images, tmp_path, *more, "--lr", "1e9") == 2
    err = capsys.readouterr().err
    assert "lower --lr" in err
    assert "--resume" in err
    assert train(images, tmp_path, *more, "--lr", "0.001") == 0
    result = json.loads((copied / "result.json").read_text())
    # The attempt that failed has trained nothing of what is there now.
    assert [each["last_epoch"] for each in result["segments"]] == [1, 3]
    assert result["segments"][-1]["differences"]["lr"] == [0.04, 0.001]
