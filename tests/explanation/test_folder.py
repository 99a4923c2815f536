"""timm-gcp predict --explain as a user runs it: pictures, page and numbers."""

import base64
import csv
import io
import os
import re
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import timm_gcp
from timm_gcp.__main__ import main
from timm_gcp.explanation.heat_map import heat_map, photograph
from timm_gcp.models.folder import save_folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b <i>&.jpg", "c.jpg"):
        Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(folder / name)
    (folder / "bad.jpg").write_bytes(b"no image")
    return folder


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_packaged_model(pictures, tmp_path, capsys):
    out, plain = tmp_path / "why", tmp_path / "plain.csv"
    given = ["predict", str(pictures), "--csv", "-", "--top", "2", "-b", "2", "--device", "cpu"]
    assert main([*given, "--explain", str(out)]) == 0
    captured = capsys.readouterr()
    assert f"explanation in {out / 'index.html'}" in captured.err
    assert "1 of 4 images could not be read" in captured.err
    assert main([*given[:2], "--csv", str(plain), *given[4:]]) == 0
    explained, usual = list(csv.DictReader(io.StringIO(captured.out))), rows_of(plain)
    assert [row["class_1"] for row in explained] == [row["class_1"] for row in usual]
    for row, other in zip(explained, usual, strict=True):
        assert float(row["probability_1"]) == pytest.approx(float(other["probability_1"]), abs=1e-5)

    names = ["0001-a.png", "0002-b <i>&.png", "0003-c.png"]
    assert sorted(file.name for file in out.iterdir()) == [*names, "contributions.npz", "index.html", "totals.csv"]
    assert all(Image.open(out / name).width > 400 for name in names)
    totals = rows_of(out / "totals.csv")
    assert len(totals) == 6
    with np.load(out / "contributions.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    assert arrays["covariance"].shape == (3, 2, 7, 7)
    assert [str(pictures / name) for name in ("a.jpg", "b <i>&.jpg", "c.jpg")] == arrays["files"].tolist()
    for index, row in enumerate(totals):
        at = divmod(index, 2)
        assert row["class"] == arrays["class_names"][arrays["classes"][at]]
        assert float(row["covariance"]) == pytest.approx(arrays["covariance"][at].sum(), abs=1e-5)
        assert float(row["logit"]) == pytest.approx(float(row["covariance"]) + float(row["bias"]), abs=1e-5)

    page = (out / "index.html").read_text(encoding="utf-8")
    assert "b &lt;i&gt;&amp;.jpg" in page
    assert "<i>&" not in page
    assert page.count("data:image/jpeg") == 3 * 3
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import', page)
    encoded = re.search(r"data:image/jpeg;base64,([^\"]+)", page)[1]
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (224, 224)


def test_a_second_call_into_the_same_folder_leaves_nothing_of_the_first(pictures, tmp_path):
    out = tmp_path / "why"
    out.mkdir()
    (out / "notes.png").write_bytes(b"of the user")
    given = ["--csv", str(tmp_path / "found.csv"), "--device", "cpu", "--explain", str(out)]
    assert main(["predict", str(pictures), *given]) == 0
    assert main(["predict", str(pictures / "c.jpg"), *given]) == 0
    names = ["0001-c.png", "contributions.npz", "index.html", "notes.png", "totals.csv"]
    assert sorted(file.name for file in out.iterdir()) == names


def test_a_mean_beside_the_covariance_and_a_token(pictures, tmp_path, capsys):
    for backbone, first, parts in (
        ("test_resnet", "mean", ["covariance", "mean", "bias"]),
        ("test_vit", "mean+class", ["covariance", "mean", "token", "bias"]),
    ):
        model = timm_gcp.graft(timm.create_model(backbone, num_classes=3), "cov", first_order=first)
        save_folder(model, tmp_path / backbone, class_names=["one", "two-three", "four $ to $"])
        out = tmp_path / f"why-{backbone}"
        photo = str(pictures / "a.jpg")
        assert main(["predict", photo, "--model", f"local-dir:{tmp_path / backbone}", "--explain", str(out)]) == 0
        totals = rows_of(out / "totals.csv")
        assert list(totals[0]) == ["image", "rank", "class", "probability", "logit", *parts]
        for row in totals:
            assert float(row["logit"]) == pytest.approx(sum(float(row[part]) for part in parts), abs=1e-5)
        page = (out / "index.html").read_text(encoding="utf-8")
        assert page.count("data:image/jpeg") == 1 + 2 * 3
        assert "<b>two-three</b>, mean" in page


def test_a_name_whose_bytes_are_no_text(pictures, tmp_path, capsys):
    photo = tmp_path / os.fsdecode(b"\xff.jpg")
    try:
        shutil.copy(pictures / "a.jpg", photo)
    except OSError:
        pytest.skip("this file system takes text only")
    out, table = tmp_path / "why", tmp_path / "table.csv"
    assert main(["predict", str(photo), "--csv", str(table), "--top", "1", "--explain", str(out)]) == 0
    assert rows_of(table)[0]["image"].endswith("\ufffd.jpg")
    assert "\ufffd.jpg" in (out / "index.html").read_text(encoding="utf-8")


def test_refusals_come_before_any_image_is_read(pictures, tmp_path, capsys):
    photo = str(pictures / "a.jpg")
    assert main(["predict", photo, "--method", "logm", "--explain", str(tmp_path / "x")]) != 0
    assert "cannot be explained" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("")
    assert main(["predict", photo, "--explain", str(tmp_path / "file")]) != 0
    assert "--explain" in capsys.readouterr().err


def test_colours_and_places_of_a_heat_map():
    """Red above zero, blue below, nothing at zero, at the place of the position."""
    grey = np.full((40, 60, 3), 128, dtype=np.uint8)
    shares = torch.zeros(4, 6)
    shares[0, 5], shares[3, 0] = 2.0, -1.0
    drawn = heat_map(grey, shares, 2.0).astype(int)
    assert drawn.shape == grey.shape
    assert drawn[5, 55, 0] > drawn[5, 55, 2] + 80
    assert drawn[35, 5, 2] > drawn[35, 5, 0] + 30
    assert np.ptp(drawn[20, 30]) == 0
    assert np.array_equal(heat_map(grey, torch.zeros(4, 6), 0.0)[0, 0], drawn[20, 30])


def test_the_photograph_is_what_the_model_saw():
    pixels = torch.randint(0, 256, (3, 8, 6))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    image = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert np.array_equal(photograph(image, mean, std), pixels.permute(1, 2, 0).numpy())
    assert photograph(image[:1], mean[:1], std[:1]).shape == (8, 6, 3)
