"""``python -m eval accuracy`` and ``imagenet``."""

import pandas as pd
import pytest

from eval import accuracy, imagenet
from eval.record import read_cells
from timm_gcp import GCPError
from timm_gcp.weights.manifest import Checkpoint


@pytest.mark.slow
def test_accuracy(images, run, tmp_path):
    """Two sources of one model; a line that is there is not made again; one that fails costs no other its line."""
    results, folder = tmp_path / "accuracy.csv", str(run / "model")
    given = ["--data-dir", str(images), "--device", "cpu", "-j", "0"]
    with pytest.raises(GCPError, match=r"Not evaluated: nowhere \(Unknown model"):
        accuracy.evaluate([folder, "nowhere"], given, results, jobs=2)
    (line,) = read_cells(results).to_dict("records")
    assert (line["weights"], line["model"], float(line["top1"]) + float(line["top1_err"])) == (
        folder,
        "test_resnet_svdpade",
        100,
    )
    before = results.read_text()
    accuracy.evaluate([folder], given, results)
    assert results.read_text() == before
    assert f"| {folder} | svdpade |" in accuracy.table(pd.DataFrame([line]))
    with pytest.raises(GCPError, match="--no-such-option"):
        accuracy.evaluate(["another"], [*given, "--no-such-option"], results)


def test_imagenet_compares_with_what_the_authors_printed():
    row = Checkpoint(
        name="test_resnet_polar.tiny",
        description="A test.",
        hub=f"nobody/nothing@{'0' * 40}",
        sha256="0" * 64,
        num_classes=2,
        input_size=(3, 64, 64),
        metrics=({"data": "photographs", "top1": 40.0, "by": "upstream"},),
    )
    measured = pd.DataFrame([{"top1": 50.0, "top5": 100.0, "count": 6, "weights": row.name}])
    assert "| test_resnet_polar.tiny | 50.00 | 100.00 | 40.00 | +10.00 | 6 |" in imagenet.comparison([row], measured)
    rows = {row.name: row}
    assert imagenet.chosen(rows, [row.name]) == [row]
    with pytest.raises(GCPError, match="with --models"):
        imagenet.chosen(rows, [])
    with pytest.raises(GCPError, match="has no 'resnet'"):
        imagenet.chosen(rows, ["resnet"])
