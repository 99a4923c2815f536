"""timm-gcp validate: a run's checkpoint, its model folder and a registered name give the recorded numbers."""

import csv
import json
import shutil
from argparse import Namespace

import pytest
import timm
import torch

from tests.support.tools import MODEL, timm_gcp_command, write_images
from timm_gcp.__main__ import main
from timm_gcp.commands.train_options import train_parser
from timm_gcp.models.folder import save_folder
from timm_gcp.models.named import ModelChoice, load_model, model_from_checkpoint


@pytest.fixture(scope="module")
def result(run):
    return json.loads((run / "result.json").read_text())


def validate(*argv):
    return main(["validate", *map(str, argv), "-j", "0", "--device", "cpu"])


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_checkpoint_alone(run, images, result, tmp_path):
    """In a process of its own: model, classes, size and method come from the checkpoint."""
    done = timm_gcp_command(
        *("validate", "--checkpoint", run / "model_best.pth.tar", "--data-dir", images, "-b", "7", "-j", "1"),
        *("--device", "cpu", "--results-file", tmp_path / "r.csv"),
    )
    assert done.returncode == 0, done.stderr
    assert "top-1" in done.stdout
    assert "svdpade" in done.stdout
    (row,) = read(tmp_path / "r.csv")
    assert float(row["top1"]) == pytest.approx(result["top1"], abs=1e-3)
    assert float(row["loss"]) == pytest.approx(result["loss"], abs=1e-5)
    assert (row["count"], row["method"], row["img_size"]) == ("36", "svdpade", "64")
    assert float(row["images_per_second"]) > 0


def test_folder_and_appended_rows(run, images, result, tmp_path):
    table = tmp_path / "deep" / "r.csv"
    for more in ([], ["--method", "polar"], ["--tta", "mirror"], ["--channels-last"], ["--split", "train"]):
        assert validate("--model", run / "model", "--data-dir", images, "-b", "11", "--results-file", table, *more) == 0
    rows = read(table)
    assert [row["method"] for row in rows] == ["svdpade", "polar", "svdpade", "svdpade", "svdpade"]
    for row in (rows[0], rows[1], rows[3]):
        assert float(row["loss"]) == pytest.approx(result["loss"], abs=1e-4)
    assert rows[2]["tta"] == "mirror"
    assert float(rows[2]["loss"]) != pytest.approx(result["loss"], abs=1e-6)
    folder = f"local-dir:{run / 'model'}"
    assert validate("--model", folder, "--data-dir", images, "--results-file", tmp_path / "r.json") == 0
    assert json.loads((tmp_path / "r.json").read_text())["loss"] == pytest.approx(result["loss"], abs=1e-5)


def test_records_of_a_run_are_not_replaced(run, images, tmp_path, capsys):
    """By a report in the folder of the run, or by a results file in the place of a record."""
    copied = shutil.copytree(run, tmp_path / "run")
    before = {file: file.read_bytes() for file in copied.rglob("*") if file.is_file()}
    given = ("--model", copied, "--data-dir", images)
    assert validate(*given, "--report", copied) == 2
    assert f"choose another, such as {copied / 'validation'}" in capsys.readouterr().err
    for name in ("result.json", "history.json", "model/config.json"):
        assert validate(*given, "--results-file", copied / name) == 2
        assert "is not a results file of this command" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in copied.rglob("*") if file.is_file()} == before
    own = tmp_path / "r.json"
    assert validate(*given, "--results-file", own) == 0
    assert validate(*given, "--results-file", own) == 0


@pytest.mark.parametrize("command", ["validate", "predict"])
def test_one_channel_at_the_size_of_the_model(command, run, images, capsys):
    given = ["--model", str(run / "model"), "--in-chans", "1", "--device", "cpu"]
    data = ["--data-dir", str(images), "-j", "0"] if command == "validate" else [str(images)]
    assert main([command, *given, *data]) == 0


@pytest.mark.slow
def test_a_hub_model_from_the_cache(run, images, result, tmp_path):
    """As after a download, without a network: the Hub's cache layout."""
    repo = tmp_path / "hub" / "models--someone--birds"
    shutil.copytree(run / "model", repo / "snapshots" / "0123abc")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123abc")
    offline = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    argv = ("--data-dir", images, "-j", "0", "--device", "cpu", "--results-file", tmp_path / "r.json")
    done = timm_gcp_command("validate", "--model", "hf-hub:someone/birds", *argv, env=offline)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["loss"] == pytest.approx(result["loss"], abs=1e-5)
    config = repo / "snapshots" / "0123abc" / "config.json"
    held = json.loads(config.read_text())
    held["training"]["data"]["held_out"] = {"fraction": 0.2, "seed": 0, "split": "validation"}
    held["training"]["data"]["name"] = images.name
    config.write_text(json.dumps(held))
    refused = timm_gcp_command(
        *("validate", "--model", "hf-hub:someone/birds", "--val-fraction", "0.3", "--split", "train", *argv),
        env=offline,
    )
    assert refused.returncode == 2
    assert "hf-hub:someone/birds was trained with --val-fraction 0.2" in refused.stderr
    missing = timm_gcp_command("validate", "--model", "hf-hub:someone/fish", *argv, env=offline)
    assert missing.returncode == 2
    assert missing.stderr.startswith("timm-gcp: error: hf-hub:someone/fish cannot be built")
    assert missing.stderr.count("\n") == 1


def test_warm_checkpoint_is_evaluated_under_its_method(run, images, tmp_path):
    argv = ("--checkpoint", run / "checkpoint-0.pth.tar", "--data-dir", images, "--results-file", tmp_path / "r.csv")
    assert validate(*argv) == 0
    assert validate(*argv, "--model", "test_resnet_svd") == 0
    first, second = read(tmp_path / "r.csv")
    assert first["method"] == "isqrt"
    assert second["method"] == "svd"
    with open(run / "summary.csv", newline="") as file:
        assert float(first["loss"]) == pytest.approx(float(next(csv.DictReader(file))["eval_loss"]), abs=1e-5)


def test_bare_weights_and_checkpoints_of_timm(images, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    argv = ("--data-dir", images, "--img-size", "64", "--results-file", tmp_path / "r.csv")
    assert validate("--model", "test_resnet", "--num-classes", "3", "--checkpoint", tmp_path / "bare.pth", *argv) == 0
    args = train_parser().parse_args(["--model", "test_resnet", "--num-classes", "3", "--img-size", "64"])
    torch.save({"epoch": 0, "args": args, "state_dict": model.state_dict()}, tmp_path / "timm.pth.tar")
    assert validate("--checkpoint", tmp_path / "timm.pth.tar", *argv) == 0
    first, second = read(tmp_path / "r.csv")
    assert first["loss"] == second["loss"]
    assert first["method"] == ""


def test_refused(run, images, tmp_path, capsys):
    def error_of(*argv):
        assert validate(*argv) == 2
        error = capsys.readouterr().err
        assert error.startswith("timm-gcp: error: ")
        assert error.count("\n") == 1
        return error

    data = ("--data-dir", images)
    best = run / "model_best.pth.tar"
    assert "Nothing to evaluate" in error_of(*data)
    assert "did you mean" in error_of("--model", "resnet5_polar", *data)
    assert "no pretrained weights" in error_of("--model", "test_resnet_svdlyap", *data)
    assert "There is no checkpoint" in error_of("--checkpoint", tmp_path / "none.pth.tar", *data)
    keys = error_of("--model", "resnet10t_polar", "--checkpoint", best, *data)
    assert "unexpected layer3.0.conv3.weight" in keys
    assert "3 more" in keys
    assert "5×2080" in error_of("--checkpoint", best, "--num-classes", "5", *data)
    assert "did you mean polar" in error_of("--checkpoint", best, "--method", "pola", *data)
    assert ".csv or .json" in error_of("--checkpoint", best, "--results-file", "r.txt", *data)
    (tmp_path / "r.csv").write_text("something,else\n")
    assert "not a results file" in error_of("--checkpoint", best, "--results-file", tmp_path / "r.csv", *data)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "epoch": 1}, tmp_path / "nameless.pth.tar")
    assert "give --model" in error_of("--checkpoint", tmp_path / "nameless.pth.tar", *data)
    renamed = write_images(tmp_path / "renamed", per_class=1, classes=("coarse", "other", "middle"))
    assert "'middle' in the data set and 'fine' in the weights" in error_of("--checkpoint", best, "--data-dir", renamed)
    more = write_images(tmp_path / "more", per_class=1, classes=("coarse", "fine", "middle", "none"))
    assert "4 classes and the model 3" in error_of("--checkpoint", best, "--data-dir", more)


def test_names_of_registered_weights_are_not_a_checkpoints_own(tmp_path):
    """timm's script saves no names of classes; the registry's are those of the grocery weights."""
    model = timm.create_model(MODEL, num_classes=81)
    assert model.pretrained_cfg["label_names"]
    state = {"epoch": 0, "state_dict": model.state_dict(), "args": Namespace(model=MODEL, num_classes=81)}
    torch.save(state, tmp_path / "last.pth.tar")
    assert model_from_checkpoint(tmp_path / "last.pth.tar").pretrained_cfg["label_names"] is None


@pytest.mark.parametrize("classes", [3, 0])
def test_a_number_of_classes_that_is_not_that_of_the_weights(classes, images, tmp_path, capsys):
    """timm makes a new classifier then, with random weights: for fine-tuning, not for these commands."""
    folder = str(tmp_path / "model")
    save_folder(timm.create_model("test_resnet_isqrt", num_classes=classes), folder)
    found = "3 classes" if classes else "no classifier"
    for command in (
        ["predict", str(images / "validation"), "--model", folder, "--device", "cpu"],
        ["validate", str(images), "--model", folder, "--device", "cpu", "-j", "0"],
        ["export", folder, "--out", str(tmp_path / "x.onnx")],
    ):
        assert main([*command, "--num-classes", "5"]) == 2
        error = capsys.readouterr().err
        assert "--num-classes 5 would give" in error
        assert f"the weights have {found}; leave --num-classes out." in error
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=5).num_classes == 5
    assert load_model(ModelChoice(model=folder, num_classes=classes)).num_classes == classes
