"""The evidence commands, on a miniature of the grocery data set."""

import argparse
import csv
import subprocess
import sys

import pytest
import torch
from PIL import Image

from eval import accuracy, imagenet, memory
from eval.record import append_row, provenance, read_rows, read_values
from tests.support.tools import ROOT
from timm_gcp import GCPError
from timm_gcp.weights.manifest import Checkpoint


def test_rows_survive_and_columns_stay(tmp_path):
    append_row(tmp_path / "t.csv", {"a": 1, "b": "x, y"})
    append_row(tmp_path / "t.csv", {"a": 2, "b": ""})
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"a": "1", "b": "x, y"}, {"a": "2", "b": ""}]
    assert read_values(tmp_path / "t.csv") == [{"a": 1, "b": "x, y"}, {"a": 2, "b": ""}]
    assert set(provenance()) == {"date", "machine", "versions"}


def test_gradients(tmp_path):
    from eval import gradients

    torch.manual_seed(0)
    x = gradients.features(8, 5, 3, 2)
    centred = (x - x.mean(-1, keepdim=True)) / 5**0.5
    assert torch.allclose(torch.linalg.svdvals(centred)[:, :4], torch.logspace(0, -3, 4, dtype=torch.float64))
    g = torch.randn(2, 8, 8, dtype=torch.float64)
    for ours, truth in zip(gradients.through(x, g, "polar"), gradients.reference(x, g), strict=True):
        assert torch.allclose(ours, truth, atol=1e-9)
    gradients.main(["--results", str(tmp_path), "--batch", "1"])
    rows = read_rows(tmp_path / "gradients.csv")
    by = {(r["method"], r["positions"], r["decay"]): r for r in rows}
    assert float(by["polar", "49", "4"]["gradient_error"]) < 1e-8
    assert float(by["isqrt", "49", "4"]["gradient_error"]) > 1e-2
    assert all(float(r["gradient_gain"]) <= 2**0.5 for r in rows if r["method"] == "polar")
    with Image.open(tmp_path / "gradients.png") as image:
        assert min(image.size) > 600


def test_conditioning(run, tmp_path):
    from eval import conditioning

    conditioning.main([str(run), "--results", str(tmp_path)])
    rows = read_rows(tmp_path / "conditioning.csv")
    assert [row["method"] for row in rows] == ["isqrt", "isqrt", "svdpade", "svdpade"]
    assert all(float(row["kappa"]) >= 1 and row["lr"] for row in rows)
    assert (tmp_path / "conditioning.png").stat().st_size > 10_000
    with pytest.raises(GCPError, match=r"no summary\.csv"):
        conditioning.main([str(tmp_path), "--results", str(tmp_path)])


def test_the_command_line():
    def run(*argv):
        return subprocess.run([sys.executable, "-m", "eval", *argv], cwd=ROOT, capture_output=True, text=True)

    assert "experiment" in run("--help").stdout
    missing = run("experiment", "--data-dir", "nowhere")
    assert missing.returncode == 2
    assert missing.stderr.strip() == (
        "eval: error: No train.txt in nowhere; --data-dir takes the folder of the grocery data set."
    )


def test_memory(tmp_path):
    """Two settings of a small step, in this process; the command gives each its own."""
    args = argparse.Namespace(backbone="test_resnet", method="polar", img_size=32, batch_size=2, device="cpu")
    rows = []
    for setting in ("average pooling", "all recomputed, chunks of 1"):
        rows.append({"setting": setting, **memory.measure(args, **memory.SETTINGS[setting]), **vars(args)})
        assert rows[-1]["mib"] >= 0
    rows[0]["mib"] = 50.0
    assert "| average pooling | 50 | 1.00 |" in memory.table(rows)
    memory.draw(rows, tmp_path / "memory.png")
    assert Image.open(tmp_path / "memory.png").size[0] > 400


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
    line = {"top1": "50.0", "top5": "100.0", "count": "6", "weights": row.name}
    assert "| test_resnet_polar.tiny | 50.00 | 100.00 | 40.00 | +10.00 | 6 |" in imagenet.comparison([(row, line)])
    rows = {row.name: row}
    assert imagenet.chosen(rows, [row.name]) == [row]
    with pytest.raises(GCPError, match="by --models"):
        imagenet.chosen(rows, [])
    with pytest.raises(GCPError, match="has no 'resnet'"):
        imagenet.chosen(rows, ["resnet"])


def test_accuracy(images, run, tmp_path):
    """Two sources of one model; a line that is there is not made again; one that fails costs no other its line."""
    results, folder = tmp_path / "accuracy.csv", str(run / "model")
    given = ["--data-dir", str(images), "--device", "cpu", "-j", "0"]
    with pytest.raises(GCPError, match=r"Not evaluated: nowhere \(Unknown model"):
        accuracy.evaluate([folder, "nowhere"], given, results, jobs=2)
    (line,) = read_rows(results)
    assert (line["weights"], line["model"], float(line["top1"]) + float(line["top1_err"])) == (
        folder,
        "test_resnet_svdpade",
        100,
    )
    before = results.read_text()
    accuracy.evaluate([folder], given, results)
    assert results.read_text() == before
    assert f"| {folder} | svdpade |" in accuracy.table([line])
