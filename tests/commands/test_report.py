"""Reports of validate, train and probe, and timm-gcp compare, on JPEG files as a user runs them."""

import csv
import json
import os
import re
import shutil

import numpy as np
import pytest
import timm
import torch

from tests.reports.made_up import made_up, random_predictions
from tests.support.page import chromium, in_chromium, page
from tests.support.tools import MODEL, torchrun, write_images
from timm_gcp import GCPError
from timm_gcp.__main__ import main
from timm_gcp.api.train_result import TrainResult
from timm_gcp.commands.compare import main as compare_main
from timm_gcp.models.folder import save_folder
from timm_gcp.predictions import read_predictions
from timm_gcp.reports.report import Subject, write_report

SHORT = [
    *("--img-size", "64", "-b", "8", "--epochs", "1", "--warmup-epochs", "0", "--lr", "0.05", "-j", "0"),
    *("--no-hybrid", "--device", "cpu"),
]
TABLES = ("metrics.csv", "classes.csv", "confusion.csv", "calibration.csv")


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def validate(*argv):
    return main(["validate", *map(str, argv), "-j", "0", "--device", "cpu"])


def test_report_of_validate(run, images, tmp_path, capsys):
    out = tmp_path / "deep" / "report"
    assert validate(images, "--model", run, "--report", out) == 0
    assert f"Report: {out / 'report.html'}" in capsys.readouterr().out
    assert sorted(os.listdir(out)) == sorted(["report.html", "predictions.csv", "result.json", *TABLES])
    found = page(out / "report.html")
    assert {"coarse", "fine", "middle", "Training curves", "svdpade"} <= set(found.texts)
    metrics = {row["metric"]: row for row in read(out / "metrics.csv")}
    result = json.loads((out / "result.json").read_text())
    assert 100 * float(metrics["top1"]["value"]) == pytest.approx(result["top1"], abs=1e-3)
    assert float(metrics["top1"]["low"]) < float(metrics["top1"]["value"]) < float(metrics["top1"]["high"])
    assert float(metrics["loss"]["value"]) == pytest.approx(result["loss"], abs=1e-5)
    predictions = read(out / "predictions.csv")
    assert len(predictions) == 36
    assert all(row["image"].split("/")[-2] == row["class"] for row in predictions)
    mistakes = sum(row["class"] != row["predicted_class"] for row in predictions)
    off = [int(row["images"]) for row in read(out / "confusion.csv") if row["label"] != row["prediction"]]
    assert sum(off) == mistakes
    assert sum(int(row["images"]) for row in read(out / "classes.csv")) == 36
    assert sum(int(row["images"]) for row in read(out / "calibration.csv")) == 36
    assert found.pictures >= min(mistakes, 24) > 0
    # The predictions are those of the run itself, which took the same model on the same images.
    again = read_predictions(run / "predictions.csv")
    np.testing.assert_array_equal(again.predicted, [int(row["prediction"]) for row in predictions])


def test_place_of_a_report_is_checked_first(run, images, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert validate(images, "--model", run, "--report", tmp_path / "file") == 2
    assert re.search(r"--report .* is a file; name a folder", capsys.readouterr().err)


def test_report_of_a_run(run):
    assert sorted(os.listdir(run / "report")) == sorted(["report.html", *TABLES])
    found = page(run / "report" / "report.html")
    assert "Training curves" in found.texts
    result = json.loads((run / "result.json").read_text())
    metrics = {row["metric"]: row["value"] for row in read(run / "report" / "metrics.csv")}
    assert 100 * float(metrics["top1"]) == pytest.approx(result["top1"], abs=1e-3)
    assert "Report: " in (run / "log.txt").read_text()


def train(images, output, name, *more):
    given = ["train", images, "--model", MODEL, *SHORT, "--output", output, "--experiment", name, *more]
    return main(list(map(str, given)))


def test_run_without_report(images, tmp_path):
    assert train(images, tmp_path, "plain", "--no-report") == 0
    assert (tmp_path / "plain" / "predictions.csv").is_file()
    assert not (tmp_path / "plain" / "report").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_run_that_goes_on_leaves_no_earlier_report(fails, images, tmp_path, monkeypatch):
    assert train(images, tmp_path, "on") == 0
    result = TrainResult(tmp_path / "on")
    assert result.report == tmp_path / "on" / "report" / "report.html"
    if fails:
        monkeypatch.setattr("timm_gcp.reports.report.metrics_of", lambda _: 1 / 0)
    assert train(images, tmp_path, "on", *(() if fails else ["--no-report"]), "--epochs", "2", "--resume", "auto") == 0
    assert not list((tmp_path / "on" / "report").glob("*"))
    assert TrainResult(tmp_path / "on").report is None


def test_run_that_has_nothing_to_train_keeps_its_report(images, tmp_path):
    assert train(images, tmp_path, "done") == 0
    assert train(images, tmp_path, "done", "--no-report", "--resume", "auto") == 0
    assert TrainResult(tmp_path / "done").report is not None


def test_run_without_evaluation(images, tmp_path):
    assert train(images, tmp_path, "blind", "--val-split", "", "--val-fraction", "0") == 0
    assert not (tmp_path / "blind" / "predictions.csv").exists()
    assert not (tmp_path / "blind" / "report").exists()
    # It has curves to compare, and no predictions.
    assert train(images, tmp_path, "seen", "--no-report") == 0
    assert main(["compare", str(tmp_path / "blind"), str(tmp_path / "seen"), "--out", str(tmp_path / "c")]) == 0
    assert "Curves" in page(tmp_path / "c" / "compare.html").texts
    assert read(tmp_path / "c" / "pairs.csv") == []


def test_a_report_that_fails_does_not_fail_the_run(images, tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("timm_gcp.reports.report.metrics_of", fail)
    assert train(images, tmp_path, "run") == 0
    assert (tmp_path / "run" / "result.json").is_file()
    assert "The report could not be written (ZeroDivisionError: a bug)" in caplog.text


@pytest.mark.slow
def test_two_processes_write_one_report(images, tmp_path):
    given = ["--model", MODEL, *SHORT, "--output", tmp_path, "--experiment", "run"]
    done = torchrun("timm_gcp", "train", images, *given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Report: ") == 1
    page(tmp_path / "run" / "report" / "report.html")
    assert len(read(tmp_path / "run" / "predictions.csv")) == 36


def test_a_data_set_that_makes_its_images(tmp_path):
    torch.manual_seed(0)
    save_folder(timm.create_model("test_resnet", num_classes=8), tmp_path / "model")
    out = tmp_path / "report"
    assert validate("--dataset", "textures", "--model", tmp_path / "model", "--img-size", "64", "--report", out) == 0
    assert page(out / "report.html").pictures > 20
    assert "grey-warp-gold-weft" in page(out / "report.html").texts


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("backbone") / "model"
    save_folder(timm.create_model("test_resnet", num_classes=4), folder)
    return folder


def probe(images, backbone, output, *more):
    given = ["--model", backbone, "--img-size", "64", "-j", "0", "--device", "cpu", "--components", "16"]
    return main(["probe", *map(str, [images, *given, "--output", output, *more])])


def test_report_of_a_probe(images, backbone, tmp_path):
    assert probe(images, backbone, tmp_path / "p", "--compare") == 0
    result = json.loads((tmp_path / "p" / "result.json").read_text())
    found = page(tmp_path / "p" / "report" / "report.html")
    assert "Heads of the probe" in found.texts
    predictions = read_predictions(tmp_path / "p" / "predictions.csv")
    assert len(predictions) == 36
    assert 100 * predictions.right.mean() == pytest.approx(result["heads"][0]["validation"], abs=1e-3)
    # The probabilities are those of the saved model.
    out = tmp_path / "validated"
    assert validate(images, "--model", tmp_path / "p" / "model", "--img-size", "64", "--report", out) == 0
    np.testing.assert_allclose(read_predictions(out / "predictions.csv").loss, predictions.loss, rtol=1e-2, atol=1e-3)


def test_probe_without_evaluation_reports_left_out_images(images, backbone, tmp_path):
    assert probe(images, backbone, tmp_path / "p", "--val-split", "", "--val-fraction", "0") == 0
    result = json.loads((tmp_path / "p" / "result.json").read_text())
    predictions = read_predictions(tmp_path / "p" / "predictions.csv")
    assert 100 * predictions.right.mean() == pytest.approx(result["heads"][0]["left_out"], abs=1e-3)
    assert any("fitted to all the others" in text for text in page(tmp_path / "p" / "report" / "report.html").texts)


def test_probe_without_predictions_or_report(images, backbone, tmp_path):
    without = ["--val-split", "", "--val-fraction", "0", "--classifier", "logistic"]
    assert probe(images, backbone, tmp_path / "a") == 0
    assert probe(images, backbone, tmp_path / "a", *without) == 0  # what the first one wrote is not of this one
    assert not (tmp_path / "a" / "report").exists()
    assert not (tmp_path / "a" / "predictions.csv").exists()
    assert probe(images, backbone, tmp_path / "a") == 0
    (tmp_path / "a" / "report" / "note.txt").write_text("of the user")
    assert probe(images, backbone, tmp_path / "a", "--no-report") == 0
    assert os.listdir(tmp_path / "a" / "report") == ["note.txt"]
    assert probe(images, backbone, tmp_path / "b", "--no-report") == 0
    assert (tmp_path / "b" / "predictions.csv").is_file()
    assert not (tmp_path / "b" / "report").exists()


@pytest.fixture(scope="module")
def other(run, images, tmp_path_factory):
    """The same model under another method, without its training."""
    out = tmp_path_factory.mktemp("other") / "polar"
    assert validate(images, "--model", run, "--method", "cov", "--report", out) == 0
    return out


def test_compare(run, other, images, tmp_path, capsys):
    train_part = tmp_path / "train-part"
    assert validate(images, "--model", run, "--split", "train", "--report", train_part) == 0
    out = tmp_path / "c"
    assert main(["compare", *map(str, (run, other, train_part)), "--out", str(out)]) == 0
    assert "p (McNemar)" in capsys.readouterr().out
    assert sorted(os.listdir(out)) == ["classes.csv", "compare.html", "pairs.csv", "runs.csv"]
    found = page(out / "compare.html")
    assert {"base", "polar", "train-part", "Curves"} <= set(found.texts)
    (pair,) = read(out / "pairs.csv")  # the training images are other images
    first, second = read_predictions(run / "predictions.csv"), read_predictions(other / "predictions.csv")
    assert (pair["first"], pair["second"], pair["images"]) == ("base", "polar", "36")
    assert int(pair["only_first"]) == (first.right & ~second.right).sum()
    assert float(pair["difference"]) == pytest.approx(first.right.mean() - second.right.mean(), abs=1e-5)
    assert any("different images" in text for text in found.texts)
    assert [row["run"] for row in read(out / "runs.csv")] == ["base", "polar", "train-part"]
    assert len(read(out / "classes.csv")) == 3


def test_names_of_runs_are_no_formulas(run, tmp_path):
    for name in ("a$_{b", "x<y>&z"):
        shutil.copytree(run, tmp_path / name, ignore=shutil.ignore_patterns("*.tar", "model"))
    argv = [str(tmp_path / name) for name in ("a$_{b", "x<y>&z")]
    assert main(["compare", *argv, "--out", str(tmp_path / "c")]) == 0
    texts = page(tmp_path / "c" / "compare.html").texts
    assert "a$_{b" in texts
    assert any(text.startswith("x<y>&z (last: ") for text in texts)


def test_a_summary_of_another_program_costs_the_curves_only(run, images, tmp_path, caplog):
    shutil.copytree(run / "model", tmp_path / "model")
    (tmp_path / "summary.csv").write_text("a,b\n1,2\n")
    assert validate(images, "--model", tmp_path / "model", "--report", tmp_path / "r") == 0
    assert "The report has no curves" in caplog.text
    assert "Training curves" not in page(tmp_path / "r" / "report.html").texts


@pytest.mark.parametrize("case", ["one", "twice", "none", "images", "broken"])
def test_compare_refuses_what_is_no_run(case, run, images, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "predictions.csv").write_text("x\n")
    argv, message = {
        "one": ([run], "one run only"),
        "twice": ([run, run / ".." / run.name], "given twice"),
        "none": ([run, tmp_path / "absent"], "does not exist: give folders of timm-gcp train"),
        "images": ([run, images], "is no run: give folders"),
        "broken": ([run, tmp_path / "broken"], "Cannot read the predictions"),
    }[case]
    with pytest.raises(GCPError, match=message):
        compare_main([*map(str, argv), "--out", str(tmp_path / "c")])
    assert not (tmp_path / "c").exists()


def test_names_are_shown_as_text(tmp_path):
    names = ["<script>alert(1)</script>", "</script>", 'a "quoted" & b', "plain"]
    found = made_up([0, 1, 2, 3, 0], [1, 0, 3, 2, 0], names, images=[f"<b>{k}</b>" for k in range(5)])
    write_report(tmp_path, found, object(), Subject(title="<i>title</i>", facts={"A": "<u>x</u>"}))
    text = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    shown = page(tmp_path / "report.html").texts
    assert {"<script>alert(1)</script>", "<i>title</i>", "<u>x</u>"} <= set(shown)
    inside = re.search(r'id="confusion-data">(.*?)</script>', text)[1]
    assert json.loads(inside)["names"] == names


def test_no_mistake_and_a_single_class(tmp_path):
    write_report(tmp_path, made_up([0, 0], [0, 0], ["a"]), object(), Subject(title="t", facts={}))
    assert "There is no mistake." in page(tmp_path / "report.html").texts


@pytest.mark.slow
def test_a_large_data_set_gives_a_page_of_a_few_megabytes(tmp_path):
    found = random_predictions(50_000, 1000, skill=0.7)
    write_report(tmp_path, found, object(), Subject(title="t", facts={}))
    assert (tmp_path / "report.html").stat().st_size < 2e6
    page(tmp_path / "report.html")


@pytest.mark.slow
@chromium
def test_report_in_chromium(tmp_path):
    """The script runs without an error; headings sort, the filter filters, the matrix is drawn and can be zoomed."""
    found = random_predictions(400, 30)
    write_report(tmp_path, found, object(), Subject(title="t", facts={}))
    script = """
    const texts = (column) => [...document.querySelectorAll("#class-table tbody tr")].filter((row) => !row.hidden)
      .map((row) => row.cells[column].textContent);
    const head = (n) => document.querySelectorAll("#class-table th button")[n].click();
    const told = {};
    head(1); told.images = texts(1); head(1); told.ascending = texts(1); head(0); told.names = texts(0);
    const input = document.querySelector("input[type=search]");
    input.value = "SS 2"; input.dispatchEvent(new Event("input")); told.filtered = texts(0);
    const canvas = document.getElementById("confusion");
    const inked = () => {
      const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      let sum = 0;
      for (let i = 3; i < pixels.length; i += 4) sum += pixels[i] > 0;
      return sum / (pixels.length / 4);
    };
    told.inked = [inked()];
    for (let i = 0; i < 3; i++) document.querySelector("button[data-zoom='1.6']").click();
    told.inked.push(inked());
    document.querySelector("button[data-zoom='0']").click();
    told.inked.push(inked());
    const { right, bottom } = canvas.getBoundingClientRect();
    canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: right - 4, clientY: bottom - 4 }));
    told.cell = document.getElementById("cell").textContent;
    document.title = JSON.stringify(told);
    """
    dom, errors = in_chromium(tmp_path / "report.html", tmp_path, script)
    assert not errors
    told = json.loads(re.search(r"<title>(\{.*?)</title>", dom)[1])
    images = [int(row["images"]) for row in read(tmp_path / "classes.csv")]
    assert [int(text) for text in told["images"]] == sorted(images, reverse=True)
    assert [int(text) for text in told["ascending"]] == sorted(images)
    names = [row["class"] for row in read(tmp_path / "classes.csv")]
    assert told["names"] == names  # in natural order
    assert told["filtered"] == [name for name in names if name.startswith("class 2")]
    whole, zoomed, again = told["inked"]
    assert zoomed > 1.2 * whole > 0
    assert again == whole
    assert re.fullmatch(r"class \d+: \d+ of \d+ images recognised, [\d.]+ %", told["cell"])


@pytest.mark.slow
@chromium
def test_comparison_in_chromium(run, other, tmp_path):
    assert main(["compare", str(run), str(other), "--out", str(tmp_path)]) == 0
    dom, errors = in_chromium(tmp_path / "compare.html", tmp_path)
    assert not errors
    assert '<th class="n"><button type="button">' in dom


def test_a_class_without_evaluation_images(tmp_path):
    """A folder with a class that is never evaluated: the report has the classes that are."""
    folder = write_images(tmp_path / "images", per_class=4)
    assert train(folder, tmp_path, "run", "-b", "4") == 0
    shutil.rmtree(folder / "validation" / "middle")
    out = tmp_path / "report"
    assert validate(folder, "--model", tmp_path / "run", "--report", out) == 0
    assert {row["class"] for row in read(out / "predictions.csv")} == {"coarse", "fine"}
    page(out / "report.html")
