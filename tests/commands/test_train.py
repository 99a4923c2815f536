"""timm-gcp train: real runs on small JPEG folders, resume, and everything that is refused at the door."""

import dataclasses
import json
import math
import random
import re
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import timm_gcp
from tests.support.tools import COMMON, MODEL, rows_of, timm_gcp_command, torchrun, write_images
from timm_gcp.__main__ import main
from timm_gcp.commands.train import parse_train_args
from timm_gcp.errors import GCPError
from timm_gcp.models.folder import save_folder
from timm_gcp.models.named import model_from_checkpoint
from timm_gcp.pooling import find_pools
from timm_gcp.training import trainer as train
from timm_gcp.training.checkpoint import RunSaver
from timm_gcp.training.evaluate import evaluate
from timm_gcp.training.network import build_model
from timm_gcp.training.optimizer import make_optimizer
from timm_gcp.training.scheduler import make_scheduler
from timm_gcp.weights.file import load_training_checkpoint, load_weights, read_weights


def in_process(images, tmp_path, name, *more, model=MODEL):
    return main(
        [
            *("train", "--data-dir", str(images), "--model", model, *COMMON, "-j", "0"),
            *("--output", str(tmp_path), "--experiment", name, *map(str, more)),
        ]
    )


def test_run_folder(run, images):
    rows = rows_of(run)
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["method"] for row in rows] == ["isqrt", "isqrt", "svdpade", "svdpade"]
    for key in ("train_loss", "train_top1", "eval_loss", "eval_top1", "eval_top5", "lr", "kappa", "rank", "under_eps"):
        assert all(math.isfinite(float(row[key])) for row in rows)
    assert all(float(row["kappa"]) >= 1 and float(row["rank"]) >= 1 for row in rows)
    log = (run / "log.txt").read_text()
    assert "epoch 3: method isqrt → svdpade" in log
    assert "left: epoch 0:00:" in log

    result = json.loads((run / "result.json").read_text())
    best = max(rows[2:], key=lambda row: float(row["eval_top1"]))
    assert result["method"] == "svdpade"
    assert result["epoch"] >= 2
    assert result["top1"] == pytest.approx(float(best["eval_top1"]))
    assert result["count"] == 36
    assert result["switched_at"]["epoch"] == 2
    assert result["seed"] == 42
    assert result["command"].startswith("timm-gcp train")
    assert load_training_checkpoint(run / "model_best.pth.tar")["epoch"] == result["epoch"]
    with Image.open(run / "curves.png") as picture:
        assert min(picture.size) > 100
    # Nothing temporary is left behind.
    assert not [path.name for path in run.iterdir() if path.name.startswith((".", "tmp"))]


def test_model_folder_gives_the_logits_of_the_best_checkpoint(run):
    folder = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True).eval()
    best = model_from_checkpoint(run / "model_best.pth.tar").eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert [pool.method for pool in find_pools(best)] == ["svdpade"]
    assert torch.equal(folder(x), best(x))
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["label_names"] == ["coarse", "fine", "middle"]
    assert config["model_args"]["last_stride"] == 1
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 64]
    card = (run / "model" / "README.md").read_text()
    assert "```python\nimport timm_gcp\n" in card


@pytest.mark.slow
def test_resumed_run_equals_the_uninterrupted_one(run, images, tmp_path):
    """Resumed in the warm phase, with loader workers and augmentation: the switch comes after the resume."""
    done = timm_gcp_command(
        *("train", "--data-dir", images, "--model", MODEL, *COMMON, "--output", tmp_path, "--experiment", "again"),
        *("--resume", run / "checkpoint-0.pth.tar"),
    )
    assert done.returncode == 0, done.stderr
    first, second = rows_of(run), rows_of(tmp_path / "again")
    assert len(second) == 4
    for a, b in zip(first, second, strict=True):
        assert a["method"] == b["method"]
        for key in ("train_loss", "train_top1", "eval_loss", "eval_top1", "lr", "kappa"):
            assert float(a[key]) == pytest.approx(float(b[key]), abs=1e-6)
    results = [json.loads((folder / "result.json").read_text()) for folder in (run, tmp_path / "again")]
    assert results[0]["epoch"] == results[1]["epoch"]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], abs=1e-6)


@pytest.mark.slow
def test_stopped_run_goes_on_in_its_folder(images, tmp_path, monkeypatch, capsys):
    """Ctrl-C in the third epoch, with averaged weights and a rate that falls with every update."""
    more = ("--model-ema", "--model-ema-decay", "0.5", "--sched-on-updates", "--mixup", "0.2", "--reprob", "0.5")
    assert in_process(images, tmp_path, "whole", *more) == 0
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(train, "evaluate", interrupted)
    assert in_process(images, tmp_path, "stopped", *more) == 130
    last = tmp_path / "stopped" / "last.pth.tar"
    assert f"--resume {last}" in capsys.readouterr().out
    assert not (tmp_path / "stopped" / "model_best.pth.tar").exists()
    monkeypatch.undo()
    assert in_process(images, tmp_path, "stopped", *more, "--resume", last) == 0
    whole, stopped = rows_of(tmp_path / "whole"), rows_of(tmp_path / "stopped")
    assert [row["epoch"] for row in stopped] == ["0", "1", "2", "3"]
    for a, b in zip(whole, stopped, strict=True):
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), abs=1e-6)
        assert float(a["eval_loss"]) == pytest.approx(float(b["eval_loss"]), abs=1e-6)
        assert a["train_top1"] == ""  # mixed targets have no accuracy

    # What is saved is the average, under the final method.
    checkpoint = load_training_checkpoint(tmp_path / "stopped" / "model_best.pth.tar")
    folder = timm.create_model(f"local-dir:{tmp_path / 'stopped' / 'model'}", pretrained=True)
    assert torch.equal(folder.fc.weight, checkpoint["state_dict_ema"]["fc.weight"])
    assert not torch.equal(folder.fc.weight, checkpoint["state_dict"]["fc.weight"])

    # A run that is complete is only evaluated again.
    assert in_process(images, tmp_path, "stopped", *more, "--resume", last) == 0
    assert rows_of(tmp_path / "stopped") == stopped


def test_average_pooling_trains_too(images, tmp_path, capsys):
    argv = ["train", "--data-dir", str(images), "--model", "test_resnet", "--last-stride", "1", "--img-size", "64"]
    argv += ["-b", "8", "--epochs", "1", "--warmup-epochs", "0", "-j", "0", "--channels-last", "--aa", "rand-m5"]
    assert main([*argv, "--output", str(tmp_path), "--experiment", "average"]) == 0
    assert rows_of(tmp_path / "average")[0]["method"] == ""
    # timm cannot build a stride of its own, so no folder would load as this network.
    assert not (tmp_path / "average" / "model").exists()
    model = model_from_checkpoint(tmp_path / "average" / "model_best.pth.tar")
    assert model.forward_features(torch.zeros(1, 3, 64, 64)).shape[-2:] == (4, 4)


def test_start_from_a_folder_with_other_classes(run, tmp_path):
    images = write_images(tmp_path / "images", per_class=8, classes=("x", "y"))
    code = in_process(images, tmp_path, "tuned", "--no-aug", "--epochs", "3", model=str(run / "model"))
    assert code == 0
    folder = timm.create_model(f"local-dir:{tmp_path / 'tuned' / 'model'}", pretrained=True)
    assert folder.num_classes == 2
    assert folder.pretrained_cfg["label_names"] == ["x", "y"]


def test_backbone_weights_without_a_head(images, tmp_path):
    plain = timm.create_model("test_resnet", num_classes=7)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    args, _ = parse_train_args(["--model", MODEL, "--pretrained-path", str(tmp_path / "plain.pth")])
    model = build_model(args, num_classes=3)
    assert torch.equal(model.layer1[0].conv1.weight, plain.layer1[0].conv1.weight)
    other = timm.create_model("resnet10t")
    torch.save(other.state_dict(), tmp_path / "other.pth")
    args.pretrained_path = str(tmp_path / "other.pth")
    with pytest.raises(GCPError, match="not a checkpoint of this test_resnet_svdpade"):
        build_model(args, num_classes=3)


@pytest.mark.slow
def test_distributed(images, tmp_path):
    done = torchrun(
        *("timm_gcp", "train", "--data-dir", images, "--model", MODEL, *COMMON, "-j", "0", "-b", "7"),
        *("--epochs", "2", "--switch-epoch", "1", "--output", tmp_path, "--experiment", "two"),
    )
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "two")
    assert [row["method"] for row in rows] == ["isqrt", "svdpade"]
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    # The evaluation inside the run, spread over processes, counts every image once, as the one at the end does.
    assert float(rows[1]["eval_loss"]) == pytest.approx(result["loss"], rel=1e-5)
    assert (tmp_path / "two" / "model" / "model.safetensors").is_file()


# ------------------------------------------------------------------------------------------------- parts of a run


@pytest.mark.parametrize("decay", [None, 0.5])
def test_classifier_has_its_own_rate(decay):
    argv = ["--lr", "0.1", "--classifier-lr-mult", "5", "--weight-decay", "0.01", "--warmup-epochs", "2"]
    args, _ = parse_train_args([*argv, "--epochs", "10", *(["--layer-decay", str(decay)] if decay else [])])
    model = timm.create_model(MODEL, num_classes=3)
    optimizer = make_optimizer(args, model)
    ids = {id(p) for p in model.fc.parameters()}
    groups = [g for g in optimizer.param_groups if any(id(p) in ids for p in g["params"])]
    assert all(id(p) in ids for g in groups for p in g["params"])
    assert {g["weight_decay"] for g in groups} == {0.0, 0.01}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    assert [g["lr"] for g in groups] == pytest.approx([0.5, 0.5])
    plain = make_optimizer(_without_groups(args), model)
    schedulers = [make_scheduler(args, each, 3).scheduler for each in (optimizer, plain)]
    for epoch in (0, 1, 2, 7):
        for scheduler in schedulers:
            scheduler.step(epoch)
        base = plain.param_groups[0]["lr"]
        assert [g["lr"] for g in groups] == pytest.approx([5 * base] * 2)
        rest = {g["lr"] for g in optimizer.param_groups if all(g is not other for other in groups)}
        assert max(rest) == pytest.approx(base)
        assert len(rest) == 1 if decay is None else len(rest) > 2


def _without_groups(args):
    return dataclasses.replace(args, classifier_lr_mult=1.0, layer_decay=None)


def test_saver_ranks_only_the_final_phase(tmp_path):
    args, _ = parse_train_args(["--checkpoint-hist", "3"])
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    saver = RunSaver(model, optimizer, args, tmp_path, lambda: {"mine": 1})

    def files():
        return sorted(path.name.removesuffix(".pth.tar") for path in tmp_path.iterdir())

    for epoch in range(4):
        assert saver.save_checkpoint(epoch) == (None, None)
    assert files() == ["checkpoint-1", "checkpoint-2", "checkpoint-3", "last", "previous"]
    before = (tmp_path / "checkpoint-3.pth.tar").read_bytes()
    assert saver.save_checkpoint(4, 10.0) == (10.0, 4)
    assert saver.save_checkpoint(5, 30.0) == (30.0, 5)
    assert files() == ["checkpoint-3", "checkpoint-4", "checkpoint-5", "last", "model_best", "previous"]
    assert (tmp_path / "checkpoint-3.pth.tar").read_bytes() == before
    assert saver.save_checkpoint(6, 20.0) == (30.0, 5)
    assert load_training_checkpoint(tmp_path / "last.pth.tar")["epoch"] == 6
    assert load_training_checkpoint(tmp_path / "model_best.pth.tar")["epoch"] == 5
    assert load_training_checkpoint(tmp_path / "last.pth.tar")["mine"] == 1

    resumed = RunSaver(model, optimizer, args, tmp_path, dict)
    resumed.resume(load_training_checkpoint(tmp_path / "last.pth.tar"), tmp_path / "last.pth.tar")
    assert (resumed.best_metric, resumed.best_epoch) == (30.0, 5)
    assert resumed.save_checkpoint(7, 25.0) == (30.0, 5)
    assert files() == ["checkpoint-5", "checkpoint-6", "checkpoint-7", "last", "model_best", "previous"]

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = RunSaver(model, optimizer, args, elsewhere, dict)
    moved.resume(load_training_checkpoint(tmp_path / "last.pth.tar"), tmp_path / "last.pth.tar")
    assert load_training_checkpoint(elsewhere / "model_best.pth.tar")["epoch"] == 5


def test_a_save_that_fails_leaves_the_last_one(tmp_path, monkeypatch):
    args, _ = parse_train_args([])
    model = torch.nn.Linear(2, 2)
    saver = RunSaver(model, torch.optim.SGD(model.parameters(), lr=1.0), args, tmp_path, dict)
    saver.save_checkpoint(0, 1.0)
    real = torch.save

    def torn(state, file):
        file.write(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(GCPError, match=r"disk full.*make room.*--resume auto"):
        saver.save_checkpoint(1, 2.0)
    monkeypatch.setattr(torch, "save", real)
    assert load_training_checkpoint(tmp_path / "last.pth.tar")["epoch"] == 0
    assert load_training_checkpoint(tmp_path / "model_best.pth.tar")["epoch"] == 0
    assert len(list(tmp_path.iterdir())) == 3


def test_epochs_are_seeded_by_themselves():
    def draw(*key):
        train.seed_epoch(*key)
        return [*torch.rand(3).tolist(), random.random()]

    assert draw(1, 2, 0) == draw(1, 2, 0)
    assert len({tuple(draw(*key)) for key in ((1, 2, 0), (1, 3, 0), (2, 2, 0), (1, 2, 1), (2, 1, 0))}) == 5


class _Loader(list):
    """Batches, with what ``evaluate`` asks a loader for."""

    def __init__(self, batches, dataset, sampler=None):
        super().__init__(batches)
        self.dataset, self.sampler = dataset, sampler


def test_evaluation_counts_every_image_once():
    torch.manual_seed(0)
    logits, labels = torch.randn(13, 3), torch.randint(3, (13,))
    whole = _Loader(zip(logits.split(4), labels.split(4), strict=True), range(13))
    metrics = evaluate(torch.nn.Identity(), whole, device=torch.device("cpu"))
    assert metrics["count"] == 13
    assert metrics["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)
    assert metrics["top1"] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
    assert metrics["top5"] == 100

    # timm pads the share of each process to the same length with the first images.
    total = torch.zeros(2)
    for rank in (0, 1):
        index = torch.tensor([*range(13), 0])[rank::2]
        sampler = type("Sampler", (), {"num_replicas": 2, "rank": rank})()
        part = _Loader(zip(logits[index].split(4), labels[index].split(4), strict=True), range(13), sampler)
        share = evaluate(torch.nn.Identity(), part, device=torch.device("cpu"))
        total += torch.tensor([share["count"], share["count"] * share["loss"]])
    assert total[0] == 13
    assert total[1].item() / 13 == pytest.approx(metrics["loss"], rel=1e-5)


def test_mirror_averages_logits():
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 6))
    labels = torch.arange(5)
    loader = _Loader([(images, labels)], range(5))
    metrics = evaluate(model, loader, device=torch.device("cpu"), tta="mirror")
    expected = (model(images) + model(images.flip(-1))) / 2
    assert metrics["loss"] == pytest.approx(torch.nn.functional.cross_entropy(expected, labels).item(), rel=1e-6)


def test_label_outside_the_classes():
    loader = _Loader([(torch.randn(2, 3), torch.tensor([0, 3]))], range(2))
    with pytest.raises(GCPError, match="Label 3 lies outside the model's 3 classes"):
        evaluate(torch.nn.Identity(), loader, device=torch.device("cpu"))


def test_folder_of_a_channels_last_model(tmp_path):
    model = timm.create_model("test_resnet_polar", num_classes=4, reduce=16, last_stride=2, in_chans=1)
    model = model.to(memory_format=torch.channels_last).eval()
    save_folder(model, tmp_path / "m", class_names=list("abcd"), metrics={"top1": 12.5})
    save_folder(model, tmp_path / "m", class_names=list("wxyz"))  # replaces
    loaded = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    x = torch.randn(2, 1, 64, 64)
    assert torch.allclose(loaded(x), model(x), atol=1e-5)
    assert loaded.pretrained_cfg["label_names"] == list("wxyz")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    with pytest.raises(GCPError, match="2 class names"):
        save_folder(model, tmp_path / "n", class_names=["a", "b"])
    find_pools(model)[0].method = "isqrt"
    save_folder(model, tmp_path / "i")
    assert json.loads((tmp_path / "i" / "config.json").read_text())["architecture"] == "test_resnet_isqrt"


# ------------------------------------------------------------------------------------------------ at the door


REFUSED = {
    "model": (["--model", "resnet5_svdpade"], "did you mean resnet50_svdpade"),
    "method": (["--model", "test_resnet_svdpad"], "Unknown method 'svdpad'.*did you mean svdpade"),
    "folder": (["--model", "local-dir:nowhere"], "no config.json"),
    "warm": (["--warm-method", "isqr"], "did you mean isqrt"),
    "scheduler": (["--sched", "cosin"], "did you mean cosine"),
    "optimizer": (["--opt", "sdg"], "did you mean sgd"),
    "optimizer argument": (["--opt-kwargs", "foo=1"], "foo"),
    "model argument": (["--model-kwargs", "foo=1"], "foo"),
    "never switches": (["--switch-epoch", "9"], "never switch.*--switch-epoch 3"),
    "no latest epoch": (["--sched", "plateau", "--switch-lr-fraction", "0.1", "--switch-epoch", "9"], "plateau"),
    "switch without hybrid": (["--no-hybrid"], "--no-hybrid"),
    "two rules": (["--switch-conditioning", "--switch-lr-fraction", "0.1"], "choose one"),
    "unmonitored": (["--switch-conditioning", "--monitor-every", "0"], "--monitor-every"),
    "plain model": (["--model", "test_resnet"], "covariance pooling"),
    "same method": (["--model", "test_resnet_isqrt"], "no effect"),
    "classes": (["--num-classes", "2"], "contradicts the data set's 3 classes"),
    "batch": (["-b", "100"], "smaller"),
    "odd mixup": (["--mixup", "1", "-b", "7"], "even --batch-size"),
    "image size": (["--img-size", "16"], "feature map of 1 position.*--img-size 32"),
    "checkpointing": (
        ["--model", "vgg11_svdpade", "--model-kwargs", "reduce=8", "--grad-checkpointing"],
        "does not support --grad-checkpointing",
    ),
    "no file": (["--resume", "nowhere.pth.tar"], "no checkpoint nowhere"),
    "argument": (["--bogus", "1"], "--bogus"),
    "value": (["--lr", "fast"], "fast"),
    "negative": (["--lr=-1"], "positive"),
    "policy": (["--aa", "foo"], "AA policy foo"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, images, tmp_path, capsys):
    more, message = REFUSED[case]
    assert in_process(images, tmp_path, "x", *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("timm-gcp: error: ")
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "x").exists()


def test_the_remedies_of_a_name_without_weights_work(images, tmp_path, capsys):
    names = {
        "test_resnet_isqrt": ["test_resnet_svdpade.grocery with --method isqrt", "'test_resnet_isqrt.init' starts"],
        "test_resnet_bcnn": ["'test_resnet_bcnn.init' starts"],  # its head is another than that of a root
        "alexnet_isqrt": ["start from random weights by --no-pretrained"],  # timm has no weights of it
    }
    small = ["--img-size", "64", "-j", "0", "--device", "cpu", "--output", str(tmp_path), "--no-hybrid"]
    given = ["train", str(images), "--recipe", "finetune", *small, "--model"]
    for name, remedies in names.items():
        assert main([*given, name]) == 2
        error = capsys.readouterr().err
        assert f"There are no pretrained weights for {name} yet; " in error
        assert all(remedy in error for remedy in remedies), error
    for name in ("test_resnet_isqrt", "test_resnet_bcnn"):
        assert f"{name}.init" in timm.list_pretrained(f"{name}*")
    predicted = ["--model", "test_resnet_svdpade.grocery", "--method", "isqrt", "--device", "cpu"]
    assert main(["predict", str(images / "validation" / "fine"), *predicted]) == 0
    assert main([*given, "test_resnet_isqrt", "--no-pretrained", "--epochs", "1", "--warmup-epochs", "0"]) == 0


def test_refused_data(images, tmp_path, capsys):
    def error_of(data, *more):
        assert in_process(data, tmp_path, "x", *more) == 2
        return capsys.readouterr().err

    assert "does not exist" in error_of(tmp_path / "nowhere")
    broken = write_images(tmp_path / "broken", per_class=8)
    (broken / "train" / "fine" / "3.jpg").write_bytes(b"no picture")
    assert "3.jpg" in error_of(broken)
    assert in_process(broken, tmp_path, "skips", "--skip-bad-images", "--epochs", "2", "--switch-epoch", "1") == 0
    (broken / "train" / "empty").mkdir()
    assert "no image of class 'empty'" in error_of(broken)


def test_refused_checkpoints(run, images, tmp_path, capsys):
    def error_of(*more, model=MODEL, name="x"):
        assert in_process(images, tmp_path, name, *more, model=model) == 2
        return capsys.readouterr().err

    last = run / "last.pth.tar"
    torn = tmp_path / "torn.pth.tar"
    torn.write_bytes(last.read_bytes()[:50000])
    assert "damaged" in error_of("--resume", torn)
    torch.save({"epoch": 0, "state_dict": {}, "path": Path("x")}, tmp_path / "pickled.pth.tar")
    assert "pickled Python objects" in error_of("--resume", tmp_path / "pickled.pth.tar")
    torch.save({"weights": 1}, tmp_path / "foreign.pth.tar")
    assert "no 'state_dict'" in error_of("--resume", tmp_path / "foreign.pth.tar")
    other = error_of("--resume", last, model="resnet10t_svdpade")
    assert "layer3.0.conv3.weight" in other
    assert "more" in other
    here = ["train", "--data-dir", str(images), *COMMON, "--output", str(run.parent), "--experiment", run.name]
    assert main(here) == 2
    assert f"is not empty; choose another --experiment, or continue it with --resume {last}" in capsys.readouterr().err
    assert main([*here, "--resume", str(torn)]) == 2
    assert "another run" in capsys.readouterr().err
    without = load_training_checkpoint(last)
    del without["hybrid"]
    torch.save(without, tmp_path / "without.pth.tar")
    assert "--no-hybrid" in error_of("--resume", tmp_path / "without.pth.tar")


def test_diverging_loss_says_where(images, tmp_path, capsys):
    assert in_process(images, tmp_path, "x", "--lr", "1e9") == 2
    error = capsys.readouterr().err
    assert "update" in error
    assert "under method 'isqrt'" in error
    assert "--clip-grad" in error
    # It left no checkpoint, so the folder is free.
    assert in_process(images, tmp_path, "x", "--epochs", "2", "--switch-epoch", "1") == 0


# ------------------------------------------------------------------------------------------------ the last decay


def by_last_decay(images, output, *more):
    at = COMMON.index("--switch-epoch")
    return main(
        [
            *("train", "--data-dir", str(images), "--model", MODEL, *COMMON[:at], *COMMON[at + 2 :], "-j", "0"),
            *("--output", str(output), "--experiment", "x", "--switch-last-decay", *more),
        ]
    )


@pytest.mark.slow
def test_switches_at_the_last_decay_and_takes_it_up_on_resume(images, tmp_path):
    """timm counts milestones from 1: the rate falls after one epoch and after three."""
    steps = ("--sched", "multistep", "--decay-milestones", "2", "4", "--epochs", "4")
    assert by_last_decay(images, tmp_path, *steps) == 0
    folder = tmp_path / "x"
    assert [row["method"] for row in rows_of(folder)] == ["isqrt"] * 3 + ["svdpade"]
    assert json.loads((folder / "result.json").read_text())["switched_at"]["epoch"] == 3
    log = (folder / "log.txt").read_text()
    assert "switches to svdpade at the last decay of the learning rate" in log
    # Its own settings file makes the same run.
    again, _ = parse_train_args(["-c", str(folder / "args.yaml")])
    assert again.switch_last_decay is True
    # Before the switch, in another folder: it comes at the same epoch.
    start = str(folder / "checkpoint-1.pth.tar")
    assert by_last_decay(images, tmp_path / "resumed", *steps, "--resume", start) == 0
    assert [row["method"] for row in rows_of(tmp_path / "resumed" / "x")][-2:] == ["isqrt", "svdpade"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--epochs", "9"), "falls all along and not in steps; give a schedule with steps.*--sched multistep"),
        (("--sched", "multistep", "--decay-milestones", "30"), "does not fall after its peak"),
        (("--sched", "plateau"), "a metric drives the schedule"),
        (("--switch-epoch", "2"), "--switch-last-decay and --switch-epoch are two rules"),
        (("--no-hybrid",), "--switch-last-decay has no effect with --no-hybrid"),
    ],
)
def test_no_last_decay_to_switch_at(more, message, images, tmp_path, capsys):
    assert by_last_decay(images, tmp_path, *more) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "x").exists()


def test_config_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("lr: 1e-2\nbatch-size: 16\nmodel_kwargs: {reduce: 32}\nhybrid: false\nscale: [0.5, 1]\n")
    args, text = parse_train_args(["-c", str(file), "-b", "4"])
    assert (args.lr, args.batch_size, args.model_kwargs, args.hybrid) == (0.01, 4, {"reduce": 32}, False)
    assert args.scale == [0.5, 1.0]
    file.write_text(text)
    assert parse_train_args(["-c", str(file)])[0] == args
    for content, message in {
        "learning_rat: 1": "unknown argument 'learning_rat'",
        "bach_size: 1": "did you mean batch_size",
        "epochs: many": "epochs",
        "amp: 3": "true or false",
        "eval_metric: f1": "eval_metric",
        "- 1": "holds no",
        "a: [": "not YAML",
    }.items():
        file.write_text(content)
        with pytest.raises(GCPError, match=message):
            parse_train_args(["-c", str(file)])


def test_read_weights(tmp_path):
    model = timm_gcp.graft(timm.create_model("test_resnet", num_classes=2))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    load_weights(model, read_weights(tmp_path / "w.safetensors"), "w")
    (tmp_path / "w.safetensors").write_bytes(b"torn")
    with pytest.raises(GCPError, match="damaged"):
        read_weights(tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pth")
    assert set(read_weights(tmp_path / "w.pth")) == set(model.state_dict())


def test_arguments_of_a_method_travel_into_the_folder(images, tmp_path):
    short = ("--epochs", "2", "--switch-epoch", "1", "--method-args", "degree=20")
    assert in_process(images, tmp_path, "taylor", *short, model="test_resnet_svdtaylor") == 0
    again = timm.create_model(f"local-dir:{tmp_path / 'taylor' / 'model'}", pretrained=True)
    assert (again.global_pool.method, again.global_pool.method_args) == ("svdtaylor", {"degree": 20})


def test_bilinear_pooling_has_no_warm_phase(images, tmp_path, capsys):
    plain = [*COMMON, "-j", "0", "--epochs", "1", "--model", "test_resnet_cbp", "--method-args", "sketch=128"]
    del plain[plain.index("--switch-epoch") : plain.index("--switch-epoch") + 2]
    where = ["--data-dir", str(images), "--output", str(tmp_path), "--experiment", "cbp"]
    assert main(["train", *plain, *where]) == 0
    assert rows_of(tmp_path / "cbp")[0]["method"] == "cbp"
    assert timm.create_model(f"local-dir:{tmp_path / 'cbp' / 'model'}", pretrained=True).fc.in_features == 128
    where[-1] = "hybrid"
    assert main(["train", *plain, *where, "--hybrid"]) == 2
    assert "would not fit" in capsys.readouterr().err
