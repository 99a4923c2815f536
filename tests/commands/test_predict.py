"""timm-gcp predict as a user runs it: image files and folders, a table or a CSV file."""

import csv
import io

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tests.support.tools import timm_gcp_command
from timm_gcp.__main__ import main
from timm_gcp.models.folder import save_folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five photographs of odd sizes and modes, two of them in a folder of their own, one with brackets in its name."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, (height, width) in {"a.jpg": (121, 97), "b[bold].png": (60, 150), "deep/c.JPG": (97, 97)}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)
    Image.fromarray(rng.integers(0, 256, (80, 80), dtype=np.uint8)).save(folder / "deep" / "grey.png")
    Image.new("RGBA", (40, 50), (200, 30, 30, 128)).save(folder / "see-through.png")
    return folder


def rows_of_text(text):
    return list(csv.DictReader(io.StringIO(text)))


def over_white(path):
    image = Image.open(path).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def expected(paths, name="test_resnet_svdpade", **args):
    """Probabilities by timm alone."""
    model = timm.create_model(name, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model, use_test_size=True))
    with torch.no_grad():
        return model(torch.stack([transform(over_white(path)) for path in paths])).softmax(-1), model


def test_csv_in_a_process_of_its_own(pictures, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    done = timm_gcp_command("predict", pictures, tmp_path, tmp_path / "none.png", "--csv", "-", "-b", "2", "--top", "3")
    assert done.returncode == 0, done.stderr
    rows = rows_of_text(done.stdout)
    ranks = [f"{column}_{rank}" for rank in (1, 2, 3) for column in ("class", "probability")]
    assert list(rows[0]) == ["image", *ranks]
    paths = sorted(path for path in pictures.rglob("*") if path.is_file())
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    probabilities, model = expected(paths, "tf_efficientnet_lite0_isqrt")
    values, labels = probabilities.topk(3)
    for row, value, label in zip(rows, values, labels, strict=True):
        for rank in range(3):
            assert row[f"class_{rank + 1}"] == model.pretrained_cfg["label_names"][label[rank]]
            assert float(row[f"probability_{rank + 1}"]) == pytest.approx(value[rank].item(), abs=2e-6)
    assert f"timm-gcp: {tmp_path / 'bad.jpg'} cannot be read" in done.stderr
    assert f"timm-gcp: {tmp_path / 'none.png'} cannot be read" in done.stderr
    assert "2 of 7 images could not be read" in done.stderr


def test_table(pictures, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["predict", str(pictures / "b[bold].png"), str(pictures / "deep")]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"{pictures / 'b[bold].png'} " in captured.out
    assert captured.out.count("%") == 15
    assert len([line for line in captured.out.splitlines() if str(pictures) in line]) == 3


def test_file_and_models(pictures, run, tmp_path, capsys):
    """A checkpoint brings its names; a model without names, its numbers, of which there may be less than --top."""
    out = tmp_path / "p.csv"
    photo = str(pictures / "a.jpg")
    assert main(["predict", photo, "--checkpoint", str(run / "model_best.pth.tar"), "--csv", str(out)]) == 0
    (row,) = rows_of_text(out.read_text())
    assert {row[f"class_{rank}"] for rank in (1, 2, 3)} == {"coarse", "fine", "middle"}
    assert "class_4" not in row
    assert sum(float(row[f"probability_{rank}"]) for rank in (1, 2, 3)) == pytest.approx(1, abs=1e-5)
    first = out.read_text()
    assert main(["predict", photo, "--model", str(run / "model"), "--csv", str(out)]) == 0
    assert out.read_text() == first

    model = timm.create_model("test_resnet_polar", num_classes=4, in_chans=1)
    save_folder(model, tmp_path / "m", data_config={"input_size": (1, 64, 64)})
    assert main(["predict", photo, photo, "-m", str(tmp_path / "m"), "--csv", str(out), "-b", "1"]) == 0
    (row,) = rows_of_text(out.read_text())  # an image that is named twice is one image
    assert {row[f"class_{rank}"] for rank in (1, 2, 3, 4)} == set("0123")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert capsys.readouterr().out == ""


def test_refused(pictures, tmp_path, capsys):
    def error_of(*argv):
        assert main(["predict", *map(str, argv)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("timm-gcp: error: ")
        assert error.count("\n") == 1
        return error

    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    assert "has no images in it" in error_of(pictures, tmp_path / "empty")
    assert "None of 2 images can be read" in error_of(tmp_path / "bad.jpg", tmp_path / "none.jpg")
    assert "is a folder" in error_of(pictures, "--csv", tmp_path)
    assert "is a file, not a folder" in error_of(pictures, "--csv", pictures / "a.jpg" / "p.csv")
    before = (pictures / "a.jpg").read_bytes()
    assert "ends in .csv" in error_of(pictures, "--csv", pictures / "a.jpg")
    assert (pictures / "a.jpg").read_bytes() == before
    assert "--top: must be at least 1" in error_of(pictures, "--top", "0")
    assert "required: IMAGE" in error_of()
    assert "did you mean resnet50_svdpade" in error_of(pictures, "--model", "resnet5_svdpade")
    assert "Unknown device" in error_of(pictures, "--device", "abacus")


def test_a_model_of_one_channel_at_another_size(pictures, tmp_path, capsys):
    model = timm.create_model("test_resnet_polar", num_classes=2, reduce=8, in_chans=1)
    folder = save_folder(model, tmp_path / "m", class_names=["ash", "birch"])
    assert main(["predict", str(pictures / "a.jpg"), "--model", str(folder), "--img-size", "64", "--csv", "-"]) == 0
    (row,) = rows_of_text(capsys.readouterr().out)
    assert row["class_1"] in ("ash", "birch")
