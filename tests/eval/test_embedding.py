"""Measurements of embeddings, on a miniature of the grocery data set."""

import timm

from eval import embedding
from eval.record import read_cells
from timm_gcp.models.folder import save_folder


def test_rows_and_tables(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "KINDS", (("sketch", 16), ("pca", 4)))
    save_folder(timm.create_model("test_resnet", num_classes=2), tmp_path / "plain")
    argv = [photographs, "--dataset", "grocery", "--model", tmp_path / "plain", "--img-size", "64", "-j", "0"]
    argv += ["--components", "8", "--device", "cpu", "--results", tmp_path / "embedding.csv"]
    embedding.main(list(map(str, argv)))
    rows = read_cells(tmp_path / "embedding.csv")
    neighbours, copies = (rows[rows["measure"] == each] for each in (embedding.NEIGHBOUR, embedding.COPY))
    assert list(neighbours["setting"]) == ["sketch of 16", "pca of 4", "mean of the map"]
    assert all(0 <= float(each) <= 100 for each in neighbours["median"])
    assert list(copies["setting"]) == [*embedding.CHANGES, embedding.OTHER]
    assert all(float(row["lowest"]) <= float(row["median"]) <= float(row["highest"]) for _, row in copies.iterrows())
    # compression changes a photograph less than cutting its border off
    mean = copies.set_index("setting")["median"].astype(float)
    assert mean["JPEG quality 60"] > mean["5 % cut off at each side"]
    text = embedding.section(tmp_path)
    assert "| sketch of 16 | " in text
    assert "| mirrored | " in text
