"""The functions on images with any number of labels."""

import pytest
from sklearn.metrics import average_precision_score

import timm_gcp
from tests.support.multi_label_images import CLASSES, write_multi_label
from tests.support.page import checked_html
from timm_gcp import GCPError


def test_train_and_evaluate(tmp_path):
    data = {"data_dir": write_multi_label(tmp_path / "data"), "dataset": "multilabel", "device": "cpu", "workers": 0}
    result = timm_gcp.train(
        "test_resnet_isqrt",
        **data,
        **{"val_split": "val", "img_size": 64, "batch_size": 8, "epochs": 2, "warmup_epochs": 0, "lr": 0.05},
        output=tmp_path,
        experiment="m",
    )
    assert set(result.metrics) == {"map", "micro_f1", "macro_f1", "loss"}
    assert f"mAP           {result.metrics['map']:.2f} %" in repr(result)
    assert result.predictions is None
    assert "<svg" in result._repr_html_()

    found = timm_gcp.evaluate(result, split="val", **data)
    assert found.metrics["map"] == pytest.approx(result.metrics["map"])
    rows = found.per_class()
    assert {row["class"] for row in rows} == set(CLASSES)
    for row in rows:
        targets, scores = (each[:, row["label"]] for each in (found.predictions.targets, found.predictions.logits))
        assert row["average_precision"] == pytest.approx(average_precision_score(targets, scores))
        assert row["images"] == targets.sum()
    assert sum(row["average_precision"] for row in rows) / 3 == pytest.approx(found.metrics["map"] / 100)
    assert f"{found.metrics['map']:.2f} %" in repr(found)
    assert "average precision" in checked_html(found._repr_html_()).texts
    entries = timm_gcp.predict(data["data_dir"] / "photos", model=result, top=1, threshold=0.4, device="cpu")
    html = entries._repr_html_()
    checked_html(html)
    assert html.count('class="strong"') == sum(len(entry.labels) for entry in entries[:24])
    with pytest.raises(GCPError, match="`top1` is for one label per image; `metrics` has map"):
        _ = found.top1
    low, high = found.interval
    assert low < found.metrics["map"] < high or low == high == 100
    assert f"95 % interval {low:.1f} to {high:.1f}" in repr(found)
