"""Predictions of images: what is recorded, and its file."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.reports.made_up import made_up
from timm_gcp import GCPError
from timm_gcp.data.factory import create_dataset
from timm_gcp.predictions import PredictionRecorder, image_names, read_predictions, save_predictions
from timm_gcp.reports.calibration import calibration_of
from timm_gcp.reports.metrics import metrics_of
from timm_gcp.tasks import SINGLE_LABEL


class Named:
    class_names = ["a", "b", "c", "d", "e", "f", "g"]  # noqa: RUF012

    def filename(self, index):
        return f"{index}.jpg"


def test_what_is_recorded():
    logits, labels = torch.randn(50, 7, dtype=torch.float64) * 3, torch.randint(0, 7, (50,))
    recorder = PredictionRecorder()
    for part, own in zip(logits.split(12), labels.split(12), strict=True):
        recorder.add(part, own)
    found = recorder.predictions(Named(), "val")
    probabilities = logits.softmax(1)
    np.testing.assert_array_equal(found.predicted, logits.argmax(1))
    np.testing.assert_allclose(found.confidence, probabilities.max(1).values)
    np.testing.assert_allclose(found.loss, F.cross_entropy(logits, labels, reduction="none"))
    place = 1 + (logits > logits.gather(1, labels[:, None])).sum(1)
    np.testing.assert_array_equal(found.rank, torch.where(place > 5, 0, place))
    assert found.images[49] == "val/49.jpg"
    assert found.class_names == Named.class_names


def test_names_that_are_not_there():
    recorder = PredictionRecorder()
    recorder.add(torch.eye(3), torch.arange(3))
    found = recorder.predictions(object(), "", ["only one"])
    assert found.images == ["0", "1", "2"]
    assert found.class_names == ["only one", "1", "2"]

    class Same:
        def filename(self, index):
            return "x.jpg"

    assert image_names(Same(), 2, "test") == ["test/0", "test/1"]


def test_file_gives_the_same_predictions(tmp_path):
    names = ['with "quotes", commas', "two\nlines", "日本", ""]
    found = made_up([0, 1, 2, 3], [0, 2, 2, 1], names, images=["a,b.jpg", 'c"d.jpg', "ü.jpg", "x/y.jpg"])
    save_predictions(found, tmp_path / "p.csv")
    again = read_predictions(tmp_path / "p.csv")
    assert (again.images, again.class_names) == (found.images, names)
    for name in ("labels", "predicted", "rank"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    np.testing.assert_allclose(again.confidence, found.confidence, atol=1e-6)
    np.testing.assert_allclose(again.loss, found.loss, rtol=1e-5)
    assert list(tmp_path.iterdir()) == [tmp_path / "p.csv"]


def test_undecodable_file_names(tmp_path):
    class Latin:
        def filename(self, index):
            return f"caf\udce9{index}.jpg"

    recorder = PredictionRecorder()
    recorder.add(torch.eye(2), torch.arange(2))
    save_predictions(recorder.predictions(Latin(), ""), tmp_path / "p.csv")
    assert read_predictions(tmp_path / "p.csv").images == ["caf\ufffd0.jpg", "caf\ufffd1.jpg"]


def test_numbers_that_are_not_finite_are_kept(tmp_path):
    recorder = PredictionRecorder()
    recorder.add(torch.tensor([[math.nan, 0.0], [math.inf, 0.0]]), torch.tensor([0, 1]))
    save_predictions(recorder.predictions(None, ""), tmp_path / "p.csv")
    assert len(read_predictions(tmp_path / "p.csv")) == 2


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "HEADER", "HEADER\nx.jpg,0,a\n", "HEADER\nx,-1,a,0,a,1,1,1\n"])
def test_other_files_are_refused(content, tmp_path):
    header = "image,label,class,prediction,predicted_class,confidence,loss,rank"
    (tmp_path / "p.csv").write_text(content.replace("HEADER", header))
    with pytest.raises(GCPError, match=r"Cannot read the predictions .*--report DIR\.$"):
        read_predictions(tmp_path / "p.csv")
    with pytest.raises(GCPError, match="No such file"):
        read_predictions(tmp_path / "absent.csv")


def test_images_of_two_splits_have_different_names(images):
    splits = [create_dataset("", images, split) for split in ("train", "validation")]
    assert splits[0].filename(0) == splits[1].filename(0)
    names = [image_names(dataset, 36, "") for dataset in splits]
    assert not set(names[0]) & set(names[1])
    assert names[1][0] == "validation/coarse/0.jpg"
    textures = [create_dataset("textures", split=split) for split in ("train", "test")]
    assert not set(image_names(textures[0], 9, "train")) & set(image_names(textures[1], 9, "test"))


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("classes", [2, 7])
def test_logits_that_are_not_finite_are_wrong(odd, classes):
    """topk ranks NaN and +inf first: an untested model would recognise these images."""
    labels = torch.arange(classes)
    for place in (0, classes - 1):  # where the odd logit is
        logits = torch.eye(classes)
        logits[1, place] = odd
        recorder, meter = PredictionRecorder(), SINGLE_LABEL.meter(torch.device("cpu"))
        recorder.add(logits, labels)
        meter.add(logits, labels)
        found, metrics = recorder.predictions(Named(), "val"), meter.result(torch.device("cpu"))
        assert found.right.tolist() == [k != 1 for k in range(classes)]
        assert found.rank.tolist() == [int(k != 1) for k in range(classes)]
        assert found.confidence[1] == 0
        assert metrics["top1"] == pytest.approx(100 * (classes - 1) / classes)
        assert metrics["top5"] == metrics["top1"]
        assert metrics_of(found).top1.value == pytest.approx((classes - 1) / classes)
        assert math.isfinite(calibration_of(found).error)
