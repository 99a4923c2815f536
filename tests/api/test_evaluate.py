"""``timm_gcp.evaluate`` as a user calls it."""

import json

import pytest
import timm
from torch import nn

import timm_gcp
from timm_gcp import GCPError
from timm_gcp.__main__ import main

LOCAL = {"device": "cpu", "workers": 0}


@pytest.fixture(scope="module")
def found(images, run):
    return timm_gcp.evaluate(run, images, **LOCAL)


def test_it_measures_what_the_command_measures(found, images, run, tmp_path):
    file = tmp_path / "r.json"
    given = ["--model", run, "--data-dir", images, "--device", "cpu", "-j", "0", "--results-file", file]
    assert main(["validate", *map(str, given)]) == 0
    theirs = json.loads(file.read_text())
    timed = {"images_per_second": 0}
    assert {**found.row, **timed} == {**theirs, **timed}
    assert round(found.top1, 4) == theirs["top1"]
    assert (found.count, round(found.loss, 6)) == (theirs["count"], theirs["loss"])


def test_interval_and_classes(found):
    low, high = found.interval
    assert low < found.top1 < high
    right = found.predictions.right.sum()
    n, z = found.count, 1.959963984540054
    assert (right / n - low / 100) ** 2 == pytest.approx(z * z * low / 100 * (1 - low / 100) / n)  # Wilson's equation
    rows = found.per_class()
    assert {row["class"] for row in rows} == {"coarse", "fine", "middle"}
    assert [row["f1"] for row in rows] == sorted(row["f1"] for row in rows)
    assert sum(row["right"] for row in rows) == right
    text = repr(found)
    assert f"{found.top1:.2f} %" in text
    assert f"95 % interval {low:.1f} to {high:.1f}" in text
    assert "top-5" not in text  # there are three classes


def test_a_network_that_is_there(found, images, run):
    model = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True)
    again = timm_gcp.evaluate(model, images, **LOCAL)
    assert (again.top1, again.loss) == (found.top1, found.loss)
    assert again.row["model"] == found.row["model"]
    with pytest.raises(GCPError, match="`checkpoint` goes with the name of a model"):
        timm_gcp.evaluate(model, images, checkpoint=run, **LOCAL)


def test_report(images, run, tmp_path):
    found = timm_gcp.evaluate(run, images, report=tmp_path / "page", **LOCAL)
    assert found.report == tmp_path / "page" / "report.html"
    assert str(found.report) in repr(found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give `model` NAME"),
        ({"model": "test_resnet_svdpade", "splt": "x"}, "did you mean `split`"),
        ({"model": "test_resnet_svdpade", "batch_size": 0}, "`batch_size`: must be at least 1"),
        ({"model": "test_resnet_svdpade", "data_dir": "nowhere"}, "`data_dir` 'nowhere' does not exist"),
        ({"model": "test_resnet_svdpade", "tta": "flip"}, "`tta` cannot be 'flip'"),
        (
            {"model": nn.Linear(2, 3)},
            "Linear is not a classification model of timm: it lacks num_classes and pretrained",
        ),
    ],
)
def test_refused(given, message):
    with pytest.raises(GCPError, match=message):
        timm_gcp.evaluate(**given, device="cpu")
