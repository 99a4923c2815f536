"""A probe with few training images, on a miniature of the grocery data set."""

from collections import Counter

import timm

from eval import probe_images
from eval.folds import draw_per_class
from eval.record import read_cells
from timm_gcp.models.folder import save_folder


def test_rows_table_and_figure(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(probe_images, "DRAWS", 2)
    save_folder(timm.create_model("test_resnet", num_classes=2), tmp_path / "plain")
    given = ["--dataset", "grocery", "--data-dir", photographs, "--val-split", "test", "--model", tmp_path / "plain"]
    argv = ["--name", "mini", "--cache", tmp_path / "cache", "--results", tmp_path / "probe_images.csv"]
    argv = list(map(str, [*argv, *given, "--img-size", "64", "-j", "0", "--components", "8", "--device", "cpu"]))
    probe_images.main(argv)
    rows = read_cells(tmp_path / "probe_images.csv")
    assert len(rows) == 2 * (2 * 3 + 1)
    assert set(rows["training_images"]) == {"10", "20", "40"}
    probe_images.main(argv)
    assert len(read_cells(tmp_path / "probe_images.csv")) == len(rows)
    argv[argv.index("--img-size") + 1] = "96"
    argv[argv.index("--cache") + 1] = str(tmp_path / "larger")
    probe_images.main(argv)
    assert Counter(read_cells(tmp_path / "probe_images.csv")["pixels"]) == {"64": len(rows), "96": len(rows)}
    text = probe_images.section(tmp_path)
    assert "| mini | 64 | 5 |" in text
    assert "| mini | 96 | all |" in text
    assert (tmp_path / "probe_images.png").is_file()


def test_draws():
    labels = [0, 1] * 10 + [2]
    few, more = (draw_per_class(labels, count, 0) for count in (2, 4))
    assert Counter(labels[index] for index in few) == {0: 2, 1: 2, 2: 1}
    assert set(few) < set(more)
    assert few != draw_per_class(labels, 2, 1)
    assert draw_per_class(labels, 21, 0) == list(range(21))
