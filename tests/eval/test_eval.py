"""The evidence commands, on a miniature of the grocery data set."""

import argparse
import subprocess
import sys

import pandas as pd
import pytest
import torch
from PIL import Image

from eval import accuracy, imagenet, memory
from eval.__main__ import main
from eval.record import append_row, provenance, read_cells, read_table, write_table
from tests.support.tools import ROOT
from timm_gcp import GCPError
from timm_gcp.weights.manifest import Checkpoint


def test_rows_survive_and_columns_stay(tmp_path):
    append_row(tmp_path / "t.csv", {"a": 1, "b": "x, y", "c": 0.1 + 0.2})
    append_row(tmp_path / "t.csv", {"a": 2, "b": "", "c": None})
    assert (tmp_path / "t.csv").read_bytes() == b'a,b,c\r\n1,"x, y",0.30000000000000004\r\n2,,\r\n'
    table = read_table(tmp_path / "t.csv")
    assert (list(table["a"]), table["c"][0], list(table["b"].isna())) == ([1, 2], pytest.approx(0.3), [False, True])
    assert read_table(tmp_path / "none.csv", ["a"]).empty
    assert set(provenance()) == {"date", "machine", "versions"}


@pytest.mark.parametrize("path", sorted((ROOT / "eval" / "results").glob("*.csv")), ids=lambda path: path.stem)
def test_recorded_files_are_written_again_byte_for_byte(path, tmp_path):
    *rows, last = read_cells(path).to_dict("records")
    write_table(tmp_path / "t.csv", rows)
    append_row(tmp_path / "t.csv", last)
    assert (tmp_path / "t.csv").read_bytes() == path.read_bytes()


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
    rows = read_table(tmp_path / "gradients.csv").set_index(["method", "positions", "decay"])
    assert rows.loc["polar", 49, 4]["gradient_error"] < 1e-8
    assert rows.loc["isqrt", 49, 4]["gradient_error"] > 1e-2
    assert (rows.loc["polar"]["gradient_gain"] <= 2**0.5).all()
    with Image.open(tmp_path / "gradients.png") as image:
        assert min(image.size) > 600


def test_conditioning(run, tmp_path):
    from eval import conditioning

    conditioning.main([str(run), "--results", str(tmp_path)])
    rows = read_table(tmp_path / "conditioning.csv")
    assert list(rows.columns[:7]) == ["run", "epoch", "lr", "method", "kappa", "rank", "under_eps"]
    assert list(rows["method"]) == ["isqrt", "isqrt", "svdpade", "svdpade"]
    assert ((rows["kappa"] >= 1) & rows["lr"].notna() & (rows["run"] == run.name)).all()
    assert (tmp_path / "conditioning.png").stat().st_size > 10_000
    with pytest.raises(GCPError, match=r"no summary\.csv"):
        conditioning.main([str(tmp_path), "--results", str(tmp_path)])


def test_the_command_line(monkeypatch, capsys):
    shown = subprocess.run([sys.executable, "-m", "eval", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "experiment" in shown.stdout
    monkeypatch.setattr(sys, "argv", ["eval", "experiment", "--data-dir", "nowhere"])
    assert main() == 2
    assert capsys.readouterr().err.strip() == (
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
    rows = pd.DataFrame(rows)
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
    measured = pd.DataFrame([{"top1": 50.0, "top5": 100.0, "count": 6, "weights": row.name}])
    assert "| test_resnet_polar.tiny | 50.00 | 100.00 | 40.00 | +10.00 | 6 |" in imagenet.comparison([row], measured)
    rows = {row.name: row}
    assert imagenet.chosen(rows, [row.name]) == [row]
    with pytest.raises(GCPError, match="with --models"):
        imagenet.chosen(rows, [])
    with pytest.raises(GCPError, match="has no 'resnet'"):
        imagenet.chosen(rows, ["resnet"])


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
