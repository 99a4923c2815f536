"""timm-gcp embed as a user runs it."""

import csv
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.tools import write_images
from timm_gcp.__main__ import main

GIVEN = ["--model", "test_resnet_svdpade.grocery", "--device", "cpu", "-j", "0", "--img-size", "64"]


def embed(*argv):
    return main(["embed", *map(str, argv), *GIVEN])


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three classes; a copy of an image of the first one lies in the second, in another quality."""
    folder = write_images(tmp_path_factory.mktemp("photographs"), splits=("",))
    Image.open(folder / "coarse" / "3.jpg").save(folder / "fine" / "copy <i>.jpg", quality=90)
    return folder


def test_vectors_and_pages_of_labelled_images(photographs, tmp_path, capsys):
    out, report, cache = tmp_path / "new" / "folder" / "v.npz", tmp_path / "report", tmp_path / "cache"
    assert embed(photographs, "--out", out, "--report", report, "--cache", cache, "--size", "200") == 0
    shown = capsys.readouterr().out
    assert f"37 vectors of length 200: {out}" in shown
    with np.load(out, allow_pickle=False) as stored:
        vectors, files, labels = stored["vectors"], stored["files"].tolist(), stored["labels"]
        assert stored["class_names"].tolist() == ["coarse", "fine", "middle"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    original, copy = files.index("coarse/3.jpg"), files.index("fine/copy <i>.jpg")
    assert (vectors @ vectors[original]).argsort()[-2] == copy
    assert [labels[original], labels[copy]] == [0, 1]

    pairs = rows_of(report / "duplicates.csv")
    assert {pairs[0]["image"], pairs[0]["other"]} == {"coarse/3.jpg", "fine/copy <i>.jpg"}
    assert float(pairs[0]["similarity"]) > 0.8
    page = (report / "neighbours.html").read_text(encoding="utf-8")
    assert "Their labels differ" in page
    doubtful = rows_of(report / "label-errors.csv")
    assert doubtful[0]["image"] == "fine/copy <i>.jpg"
    assert (doubtful[0]["label"], doubtful[0]["suggested"]) == ("fine", "coarse")
    errors = (report / "label-errors.html").read_text(encoding="utf-8")
    assert "fine → coarse?" in errors
    for text in (page, errors):
        assert "copy &lt;i&gt;.jpg" in text
        assert "<i>.jpg" not in text
        assert not re.search(r'(src|href)="(?!data:|#)|url\(|@import', text)

    plain = tmp_path / "plain"  # the pages of another data set replace all of these
    plain.mkdir()
    for image in (photographs / "coarse").glob("*.jpg"):
        shutil.copy(image, plain)
    assert embed(plain, "--out", tmp_path / "u.npz", "--report", report, "--size", "200") == 0
    assert not list(report.glob("label-errors.*"))

    features = sorted(cache.rglob("*.npy"))
    before = [file.stat().st_mtime_ns for file in features]
    assert embed(photographs, "--out", tmp_path / "w.npz", "--cache", cache, "--compact", "pca") == 0
    assert [file.stat().st_mtime_ns for file in features] == before
    with np.load(tmp_path / "w.npz") as stored:
        assert stored["vectors"].shape == (37, 36)


def test_photographs_without_classes(photographs, tmp_path, capsys):
    folder = tmp_path / "photos"
    shutil.copytree(photographs, folder)
    for number in range(3):
        shutil.copy(photographs / "coarse" / f"{number}.jpg", folder / f"{number}.jpg")
    out, report = tmp_path / "v.npz", tmp_path / "report"
    assert embed("--data-dir", folder, "--out", out, "--report", report, "--components", "8") == 0
    assert sorted(file.name for file in report.iterdir()) == ["duplicates.csv", "neighbours.html"]
    with np.load(out) as stored:
        assert "labels" not in stored
        assert len(stored["files"]) == 40
        assert stored["vectors"].shape == (40, 36)
    exact = [row for row in rows_of(report / "duplicates.csv") if float(row["similarity"]) > 0.9999]
    assert {(row["image"], row["other"]) for row in exact} >= {(f"{i}.jpg", f"coarse/{i}.jpg") for i in range(3)}
    assert "Their labels differ" not in (report / "neighbours.html").read_text(encoding="utf-8")


def test_images_alone_in_their_class_are_not_judged(photographs, tmp_path, capsys):
    folder = tmp_path / "photos"
    shutil.copytree(photographs, folder)
    for image in (folder / "middle").glob("[1-9]*.jpg"):
        image.unlink()
    report = tmp_path / "report"
    assert embed(folder, "--out", tmp_path / "v.npz", "--report", report, "--size", "200") == 0
    assert "Not judged, since they are the only images of their class: 1." in capsys.readouterr().out
    page = (report / "label-errors.html").read_text(encoding="utf-8")
    assert (
        "of 25 images in another class than their label says. 1 more is the only image of its class and was not" in page
    )


def test_bad_input_is_refused_before_the_backbone_runs(photographs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.nn.Conv2d, "forward", None)
    out = ("--out", tmp_path / "v.npz")
    for argv, message in (
        ([photographs], "--out FILE"),
        ([photographs, "--out", tmp_path / "v.txt"], "vectors are written as .npz or .parquet"),
        ([photographs, *out, "--size", "0"], "--size: must be at least 1"),
        ([photographs, *out, "--method", "bcnn"], "no function of the covariance"),
        ([tmp_path / "nowhere", *out], "nowhere"),
    ):
        assert embed(*argv) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("")
    assert embed(tmp_path / "text", *out) == 2
    assert "text" in capsys.readouterr().err


def test_splits_are_embedded_together(tmp_path, capsys):
    """A photograph of the training part lies compressed anew in the validation part: the page shows it first."""
    folder = write_images(tmp_path / "photographs", per_class=4)
    Image.open(folder / "train" / "fine" / "2.jpg").save(folder / "validation" / "fine" / "leak.jpg", quality=90)
    shutil.copy(folder / "train" / "coarse" / "1.jpg", folder / "train" / "coarse" / "again.jpg")
    out, report = tmp_path / "v.npz", tmp_path / "report"
    assert embed(folder, "--out", out, "--report", report) == 0
    shown = capsys.readouterr().out
    assert "26 vectors" in shown
    assert "In several splits: 1 of them." in shown
    leak = ("train/fine/2.jpg", "validation/fine/leak.jpg")
    with np.load(out, allow_pickle=False) as stored:
        files, splits = stored["files"].tolist(), stored["splits"].tolist()
        assert stored["class_names"].tolist() == ["coarse", "fine", "middle"]
        assert len(set(stored["labels"][[files.index(each) for each in leak]])) == 1
    assert [file.split("/")[0] for file in files] == splits
    first, *others = rows_of(report / "duplicates.csv")
    assert (first["image"], first["other"]) == leak
    assert (first["split"], first["other_split"]) == ("train", "validation")
    assert ("train/coarse/1.jpg", "train/coarse/again.jpg") in {
        (row["image"], row["other"]) for row in others if float(row["similarity"]) > 0.9999
    }
    page = (report / "neighbours.html").read_text(encoding="utf-8")
    assert page.count("In several splits: train, validation") == 1

    assert embed(folder, "--splits", "validation", "--out", out, "--report", report, "--components", "4") == 0
    assert "In several splits" not in capsys.readouterr().out
    with np.load(out) as stored:
        assert "splits" not in stored
        assert "fine/leak.jpg" in stored["files"]
    assert embed(folder, "--splits", "val", "validation", "--out", out) == 2
    assert "'val' and 'validation' are the same images; give one of them" in capsys.readouterr().err


def test_splits_of_lists(tmp_path):
    """File names are relative to the data set, also where the splits are lists of one folder."""
    folder = write_images(tmp_path / "photographs", splits=("",), per_class=4)
    names = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*.jpg"))]
    for split, chosen in (("train", names[::2]), ("test", names[1::2])):
        (folder / f"{split}.txt").write_text("".join(f"{name}, {'cfm'.index(name[0])}\n" for name in chosen))
    out = tmp_path / "v.npz"
    assert embed(folder, "--dataset", "list", "--splits", "train", "test", "--out", out, "--components", "4") == 0
    with np.load(out) as stored:
        assert stored["files"].tolist() == names[::2] + names[1::2]
        assert stored["splits"].tolist() == ["train"] * 6 + ["test"] * 6
