"""Multi-label data as a user works with it, on JPEG files: train, resume, validate, predict, report and the rest."""

import csv
import json
import os
import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from tests.support.multi_label_images import CLASSES, write_multi_label
from tests.support.resumed_runs import same_runs, stopping_after
from tests.support.tools import MODEL, rows_of, torchrun
from timm_gcp.__main__ import main
from timm_gcp.models.folder import save_folder
from timm_gcp.models.named import ModelChoice, load_model
from timm_gcp.tasks import MULTI_LABEL, SINGLE_LABEL, task_of_model
from timm_gcp.training import trainer
from timm_gcp.training.evaluate import EvaluationOptions, evaluate_model

SHORT = [
    *("--img-size", "64", "-b", "8", "--warmup-epochs", "0", "--opt", "adamw", "--lr", "0.01", "-j", "0"),
    *("--device", "cpu", "--no-aug", "--log-interval", "1"),
]
NAMES = sorted(CLASSES)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_multi_label(tmp_path_factory.mktemp("multi") / "data", (("train", 32), ("val", 20), ("test", 12)))


def train(photos, output, *more):
    data = ["--dataset", "multilabel", "--data-dir", photos, "--model", MODEL]
    return main(["train", *map(str, [*data, *SHORT, "--output", output, "--experiment", "run", *more])])


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """A run that has learned something."""
    output = tmp_path_factory.mktemp("runs")
    assert train(photos, output, "--epochs", "6", "--switch-epoch", "3") == 0
    return output / "run"


def refused(argv, said, capsys):
    """A command that ends with a sentence."""
    assert main([str(each) for each in argv]) != 0
    assert re.search(said, capsys.readouterr().err)


def result_of(run):
    return json.loads((run / "result.json").read_text())


def test_training(finished, photos):
    rows, result = rows_of(finished), result_of(finished)
    assert "train_top1" not in rows[0]
    assert [row["method"] for row in rows] == ["isqrt"] * 3 + ["svdpade"] * 3
    best = max(rows[3:], key=lambda row: float(row["eval_map"]))
    assert result["epoch"] == int(best["epoch"])
    assert result["map"] == pytest.approx(float(best["eval_map"]))
    assert result["map"] > 90
    assert result["without_positives"] == 0
    assert (result["count"], "top1" in result) == (20, False)
    config = json.loads((finished / "model" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["label_names"] == NAMES
    card = (finished / "model" / "README.md").read_text()
    assert ".sigmoid()" in card
    assert "softmax" not in card
    assert "| map |" in card


def test_the_saved_predictions(finished):
    with open(finished / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    targets = np.array([[name in row["labels"].split(";") for name in NAMES] for row in rows])
    shares = np.array([[float(row[f"p:{name}"]) for name in NAMES] for row in rows])
    assert 100 * average_precision_score(targets, shares, average="macro") == pytest.approx(result_of(finished)["map"])
    assert rows[0]["image"] == "data/photos/val-0.jpg"
    for row, share in zip(rows, shares, strict=True):
        above = [name for name, each in zip(NAMES, share, strict=True) if each > 0.5]
        assert row["predicted"] == ";".join(above)


def test_validate_and_report(finished, photos, tmp_path, capsys):
    given = ["--dataset", "multilabel", "--data-dir", photos, "--model", finished, "-j", "0", "--device", "cpu"]
    places = ["--results-file", tmp_path / "results.csv", "--report", tmp_path / "report"]
    assert main(["validate", *map(str, [*given, "--split", "val", *places])]) == 0
    assert "mAP" in capsys.readouterr().out
    with open(tmp_path / "results.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    result = result_of(finished)
    for key in ("map", "micro_f1", "macro_f1", "loss"):
        assert float(row[key]) == pytest.approx(result[key], abs=1e-3)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Missed labels" in page
    assert "confusion" not in page.lower().split("</style>")[1].split("<script>")[0]
    with open(tmp_path / "report" / "classes.csv", newline="") as file:
        classes = list(csv.DictReader(file))
    assert [row["class"] for row in classes] == NAMES
    mean = np.mean([float(row["average_precision"]) for row in classes])
    assert 100 * mean == pytest.approx(result["map"], abs=1e-3)
    # the same by the checkpoint, and from Python
    assert task_of_model(load_model(ModelChoice(checkpoint=str(finished / "model_best.pth.tar")))) is MULTI_LABEL
    evaluation = evaluate_model(
        timm.create_model(f"local-dir:{finished / 'model'}", pretrained=True),
        EvaluationOptions(dataset="multilabel", data_dir=str(photos), split="val", workers=0, device="cpu"),
    )
    assert evaluation.metrics["map"] == pytest.approx(result["map"])
    assert np.isnan(evaluation.top1)
    # a results file of one label per image
    (tmp_path / "other.csv").write_text("model,weights\n")
    refused(["validate", *given, "--results-file", tmp_path / "other.csv"], "kind of data", capsys)


def test_compare(finished, photos, run, tmp_path, capsys):
    given = ["--dataset", "multilabel", "--data-dir", photos, "--model", finished, "-j", "0", "--device", "cpu"]
    assert main(["validate", *map(str, [*given, "--split", "test", "--report", tmp_path / "test"])]) == 0
    capsys.readouterr()
    assert main(["compare", str(finished), str(tmp_path / "test"), "--out", str(tmp_path / "compare")]) == 0
    assert "no paired test" in capsys.readouterr().out
    page = (tmp_path / "compare" / "compare.html").read_text()
    assert "mAP" in page
    assert "Top-1" not in page
    assert "evaluation mAP" in page
    with open(tmp_path / "compare" / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["map"]) == pytest.approx(result_of(finished)["map"], rel=1e-5)
    assert not (tmp_path / "compare" / "pairs.csv").exists()
    said = "no metric in common; compare runs of one kind"
    refused(["compare", finished, run, "--out", tmp_path / "both"], said, capsys)


def test_no_file_of_a_single_label_call_stays(finished, photos, run, images, tmp_path):
    def contents(command, first, second):
        """What the second call leaves in the folder of the first one, and in one of its own."""
        option = {"validate": "--report", "compare": "--out"}[command]
        for given, folder in ((first, "both"), (second, "both"), (second, "own")):
            assert main([command, *map(str, given), option, str(tmp_path / command / folder)]) == 0
            (tmp_path / command / folder / "note.txt").write_text("of the user")
        return [sorted(os.listdir(tmp_path / command / folder)) for folder in ("both", "own")]

    common = ["-j", "0", "--device", "cpu"]
    single = [images, "--model", run, *common]
    several = ["--dataset", "multilabel", "--data-dir", photos, "--model", finished, "--split", "test", *common]
    both, own = contents("validate", single, several)
    assert both == own
    assert "note.txt" in both
    assert main(["validate", *map(str, single), "--report", str(tmp_path / "single")]) == 0
    both, own = contents("compare", [run, tmp_path / "single"], [finished, tmp_path / "validate" / "own"])
    assert both == own
    assert "note.txt" in both


def test_the_report_of_the_run(finished):
    page = (finished / "report" / "report.html").read_text()
    assert "mAP" in page
    assert page.count("<svg") >= 3


def test_predict(finished, photos, tmp_path, capsys):
    image = photos / "photos" / "test-3.jpg"  # red and green
    given = ["predict", str(image), "--model", str(finished), "--device", "cpu"]
    assert main([*given, "--csv", str(tmp_path / "out.csv"), "--top", "2"]) == 0
    with open(tmp_path / "out.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    model = timm.create_model(f"local-dir:{finished / 'model'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        shares = model(transform(Image.open(image))[None]).sigmoid()[0]
    order = shares.argsort(descending=True).tolist()
    assert [row["class_1"], row["class_2"]] == [NAMES[label] for label in order[:2]]
    assert float(row["probability_2"]) == pytest.approx(shares[order[1]].item(), abs=1e-5)
    assert row["labels"].split(";") == [NAMES[label] for label in order if shares[label] > 0.5]
    capsys.readouterr()
    assert main([*given, "--csv", "-", "--threshold", "0", "--top", "1"]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert row["labels"].split(";") == [NAMES[label] for label in order]
    assert main([*given, "--top", "1", "--threshold", "0.0"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)
    assert shown.count("yes") == 3
    assert main([*given, "--explain", str(tmp_path / "why"), "--csv", str(tmp_path / "why.csv")]) == 0
    with open(tmp_path / "why.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["probability_1"]) == pytest.approx(shares.max().item(), abs=1e-4)
    refused(["predict", image, "--threshold", "0.3", "--device", "cpu"], "--threshold is for multi-label", capsys)


def test_other_kind_of_data(finished, images, tmp_path, capsys):
    given = ["--data-dir", images, "-j", "0", "--device", "cpu"]
    refused(["validate", *given, "--model", finished], "multi-label, and this data has one label", capsys)
    given = ["train", "--data-dir", images, "--model", MODEL, *SHORT, "--epochs", "1", "--output", tmp_path]
    said = "of a multi-label run, and this data is single-label"
    refused([*given, "--resume", finished / "last.pth.tar"], said, capsys)


def test_a_new_kind_of_data_takes_the_mark_away(finished, images, tmp_path):
    given = ["--data-dir", str(images), "--model", str(finished / "model"), *SHORT, "--epochs", "1", "--no-hybrid"]
    assert main(["train", *given, "--output", str(tmp_path), "--experiment", "run", "--no-report"]) == 0
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert "problem_type" not in config
    assert task_of_model(timm.create_model(f"local-dir:{tmp_path / 'run' / 'model'}")) is SINGLE_LABEL


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--balanced-sampling"], "give --class-weights balanced"),
        (["--logit-adjustment"], "--class-weights balanced"),
        (["--init-head", "probe", "--pretrained"], "one label per image"),
        (["--bce-pos-weight", "2", "--class-weights", "balanced"], "both weigh the positives"),
        (["--eval-metric", "top1"], "not measured on multi-label data; there are map, micro_f1, macro_f1 and loss"),
    ],
)
def test_what_does_not_apply(photos, tmp_path, more, said, capsys):
    refused(["train", "--dataset", "multilabel", photos, "--model", MODEL, "--output", tmp_path, *more], said, capsys)
    assert not list(tmp_path.iterdir())


def test_an_evaluation_split_without_a_label_is_refused_before_training(photos, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "photos").symlink_to(photos / "photos")
    (folder / "train.csv").write_text((photos / "train.csv").read_text())
    (folder / "val.csv").write_text("image,labels\n" + "".join(f"photos/val-{i}.jpg,\n" for i in range(4)))
    given = ["train", "--dataset", "multilabel", folder, "--model", MODEL, "--val-split", "val", "--device", "cpu"]
    refused([*given, "--output", tmp_path / "out"], "No image of split 'val' has a label", capsys)
    assert not (tmp_path / "out").exists()


def test_measures_of_the_other_kind(images, tmp_path, capsys):
    said = "not measured on single-label data; there are top1, top5 and loss"
    refused(["train", images, "--model", MODEL, "--eval-metric", "map", "--output", tmp_path], said, capsys)


def test_probe_and_embed(finished, photos, tmp_path, capsys):
    given = [str(photos), "--dataset", "multilabel", "--model", str(finished), "-j", "0", "--device", "cpu"]
    refused(["probe", *given, "--output", tmp_path / "probe"], "one label per image", capsys)
    out = ["--out", str(tmp_path / "vectors.npz"), "--report", str(tmp_path / "pages"), "--split", "val"]
    assert main(["embed", *given, *out]) == 0
    assert "only where an image has one label" in capsys.readouterr().out
    assert len(np.load(tmp_path / "vectors.npz")["vectors"]) == 20
    assert not (tmp_path / "pages" / "label-errors.html").exists()


def test_class_weights(photos, tmp_path, capsys):
    lines = ["image,labels", *(f"photos/train-{i}.jpg,{'red' if i < 8 else ''};green" for i in range(32))]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "photos").symlink_to(photos / "photos")
    (folder / "train.csv").write_text("\n".join(lines))
    common = ("--epochs", "1", "--val-split", "", "--no-hybrid", "--class-weights")
    assert train(folder, tmp_path, *common, "balanced") != 0
    assert "with and without each label, and all have 'green'" in capsys.readouterr().err
    (folder / "train.csv").write_text("\n".join(lines).replace(";green", ""))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_fit", lambda run, _: seen.append(run.optimisation.stepper.loss.loss.pos_weight) or 130)
        train(folder, tmp_path, *common, "balanced")
        (tmp_path / "weights.csv").write_text("class,weight\nred,2.5\n")
        train(folder, tmp_path, *common, tmp_path / "weights.csv")
    assert [each.tolist() for each in seen] == [[3.0], [2.5]]  # 24 without it to 8 with it


@pytest.mark.slow
def test_resumed_within_an_epoch(photos, tmp_path, monkeypatch):
    """With averaged weights, mixing, smoothing and a switch; stopped within the second epoch, and two updates later."""
    more = ["--epochs", "3", "--switch-epoch", "1", "--model-ema", "--model-ema-decay", "0.8", "--mixup", "0.3"]
    more += ["--cutmix", "0.5", "--smoothing", "0.1", "--drop", "0.2", "--checkpoint-hist", "1", "--resume", "auto"]
    assert train(photos, tmp_path / "whole", *more) == 0
    with stopping_after(monkeypatch, 6, 8):
        for _ in range(2):
            assert train(photos, tmp_path / "stopped", *more) == 143
    assert train(photos, tmp_path / "stopped", *more) == 0
    same_runs(tmp_path / "whole" / "run", tmp_path / "stopped" / "run")


@pytest.mark.slow
def test_without_the_prefetcher(photos, tmp_path):
    given = ["--epochs", "1", "--no-hybrid", "--no-report"]
    for name, more in (("with", []), ("without", ["--no-prefetcher", "--mixup", "0.2"])):
        assert train(photos, tmp_path / name, *given, *more) == 0
    assert len(rows_of(tmp_path / "without" / "run")) == 1


@pytest.mark.slow
def test_two_processes_measure_all_rows(photos, tmp_path):
    """An odd number of images to evaluate, so one process has an image more; the last epoch is evaluated again."""
    lines = (photos / "val.csv").read_text().splitlines()
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "photos").symlink_to(photos / "photos")
    (folder / "train.csv").write_text((photos / "train.csv").read_text())
    (folder / "val.csv").write_text("\n".join(lines[:-1]))
    given = ["train", "--dataset", "multilabel", "--data-dir", folder, "--model", MODEL, *SHORT, "--epochs", "1"]
    done = torchrun("timm_gcp", *given, "--no-hybrid", "-b", "4", "--output", tmp_path, "--experiment", "run")
    assert done.returncode == 0, done.stderr
    (row,), result = rows_of(tmp_path / "run"), result_of(tmp_path / "run")
    # batch norm's statistics are reduced at the end of the epoch, so one process evaluates the same model
    for key in ("map", "micro_f1", "macro_f1", "loss"):
        assert float(row[f"eval_{key}"]) == pytest.approx(result[key], rel=1e-6)
    assert result["count"] == 19


@pytest.mark.slow
def test_export(finished, tmp_path):
    onnx = pytest.importorskip("onnx")
    assert main(["export", str(finished), "--out", str(tmp_path / "model.onnx")]) == 0
    entries = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert entries["problem_type"] == "multi_label_classification"


def test_a_folder_of_a_plain_network(tmp_path):
    model = timm.create_model("test_resnet", num_classes=2)
    save_folder(model, tmp_path / "one")
    assert "problem_type" not in json.loads((tmp_path / "one" / "config.json").read_text())
