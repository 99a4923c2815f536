"""``timm_gcp.predict`` as a user calls it: files, folders and PIL images."""

import copy
import csv
import io

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import timm_gcp
from timm_gcp import GCPError
from timm_gcp.__main__ import main


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three JPEG files, one of them stored on its side; a 16-bit PNG, a palette with transparency."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)

    def noise(height, width, kind=np.uint8, most=256):
        return Image.fromarray(rng.integers(0, most, (height, width, 3)[: 3 if kind is np.uint8 else 2], dtype=kind))

    turned = Image.Exif()
    turned[0x0112] = 6
    noise(80, 60).save(folder / "a.jpg")
    noise(64, 90).save(folder / "b.jpg", exif=turned)
    noise(70, 70, np.uint16, 65536).save(folder / "c.png")
    (folder / "deep").mkdir()
    noise(60, 60).convert("P").save(folder / "deep" / "d.png", transparency=3)
    return folder


def test_as_the_command(photos, run, capsys):
    found = timm_gcp.predict(photos, model=run, top=2, device="cpu")
    assert main(["predict", str(photos), "--model", str(run), "--top", "2", "--device", "cpu", "--csv", "-"]) == 0
    text = capsys.readouterr().out
    assert found.csv_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [str(image) for image, _, _ in found] == [row["image"] for row in rows]
    assert [label for _, label, _ in found] == [row["class_1"] for row in rows]
    for entry, row in zip(found, rows, strict=True):
        assert entry.probability == pytest.approx(float(row["probability_1"]), abs=1e-6)
        assert [name for name, _ in entry.classes] == [row["class_1"], row["class_2"]]


def test_pil_images_are_read_as_files_are(photos, run):
    files = sorted(file for file in photos.rglob("*") if file.is_file())
    images = [Image.open(file) for file in files]
    before = [(image.size, image.mode) for image in images]
    from_files, from_images = (timm_gcp.predict(each, model=run, device="cpu") for each in (files, images))
    for one, other in zip(from_files, from_images, strict=True):
        assert one.classes == other.classes
        assert one.name == other.name
    assert [entry.image for entry in from_images] == images
    assert [(image.size, image.mode) for image in images] == before
    lying = timm_gcp.predict(images[1], model=run, device="cpu", ignore_exif_orientation=True)
    assert lying[0].classes != from_images[1].classes


def test_a_mixture_of_images(photos, run):
    plain = Image.new("L", (50, 40), 90)
    found = timm_gcp.predict([plain, photos / "deep", str(photos / "deep" / "d.png"), plain], model=run, device="cpu")
    assert [entry.name for entry in found] == ["image 1", str(photos / "deep" / "d.png"), "image 4"]
    network = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True)
    (alone,) = timm_gcp.predict(plain, model=network, device="cpu")  # rounded otherwise than in a batch
    assert [name for name, _ in alone.classes] == [name for name, _ in found[0].classes]
    assert alone.probability == pytest.approx(found[0].probability, abs=1e-5)


def test_it_prints_a_table(photos, run):
    found = timm_gcp.predict([photos / "a.jpg"] + [Image.new("RGB", (9, 9), (k, 0, 0)) for k in range(30)], model=run)
    assert str(found).count("image ") == 31  # and the heading
    assert "11 more are not shown." in repr(found)
    assert f"{found[0].probability:.1%}" in repr(found)
    html = found._repr_html_()
    assert html.count("<img ") == 24
    assert "7 more are not shown." in html


def test_unreadable_images(photos, run, tmp_path, caplog):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    found = timm_gcp.predict([photos / "a.jpg", tmp_path / "bad.jpg", Image.new("F", (8, 8), 9e9)], model=run)
    assert len(found) == 1
    assert len(found.unreadable) == 2
    assert "bad.jpg cannot be read" in caplog.text
    assert "image 3 cannot be read (its values reach" in caplog.text
    assert "2 could not be read." in found._repr_html_()
    with pytest.raises(GCPError, match="None of 1 images can be read"):
        timm_gcp.predict(tmp_path / "bad.jpg", model=run)


def test_files_that_it_writes(photos, run, tmp_path):
    images = [photos / "a.jpg", Image.new("RGB", (64, 64), (9, 200, 9))]
    found = timm_gcp.predict(images, model=run, explain=tmp_path / "why", csv=tmp_path / "p.csv", device="cpu")
    assert (tmp_path / "p.csv").read_text() == found.csv_text()
    assert {file.name for file in (tmp_path / "why").glob("*.png")} == {"0001-a.png", "0002-image 2.png"}
    assert "image 2" in (tmp_path / "why" / "totals.csv").read_text()


class Counting(nn.Module):
    """A wrapper as that of DDP."""

    def __init__(self, model):
        super().__init__()
        self.module, self.calls = model, 0

    def forward(self, images):
        self.calls += 1
        return self.module(images)


@pytest.fixture
def eager():
    """The wrapper of ``torch.compile`` without its compiler."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.usefixtures("eager")
def test_compiled_and_low_precision_models(photos, images, tmp_path):
    """Configuration and names are those of the model within; the wrapper is what runs."""
    model = timm.create_model("test_resnet_isqrt", num_classes=3)
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": ["coarse", "fine", "middle"]}
    given = {"device": "cpu", "img_size": 64}
    predicted = timm_gcp.predict(photos, model=model, **given)
    evaluated = timm_gcp.evaluate(model, images, workers=0, **given)
    low, counting = copy.deepcopy(model).bfloat16(), Counting(model)
    for other, tolerance in ((torch.compile(model), 1e-5), (low, 0.1), (counting, 1e-5)):
        found = timm_gcp.predict(photos, model=other, **given)
        for one, two in zip(found, predicted, strict=True):
            shares = dict(two.classes)
            assert set(shares) <= {"coarse", "fine", "middle"}
            assert all(share == pytest.approx(shares[name], abs=tolerance) for name, share in one.classes)
        again = timm_gcp.evaluate(other, images, workers=0, **given)
        assert again.loss == pytest.approx(evaluated.loss, abs=3 * tolerance)
        assert again.row["model"] == evaluated.row["model"]
        assert again.row["method"] == "isqrt"
    assert counting.calls >= 2
    assert next(low.parameters()).dtype == torch.bfloat16
    timm_gcp.predict(photos / "a.jpg", model=low, explain=tmp_path / "why", **given)
    assert (tmp_path / "why" / "0001-a.png").is_file()


def test_the_model_in_the_package(photos):
    (entry,) = timm_gcp.predict(photos / "a.jpg", top=3)
    assert len(entry.classes) == 3
    assert entry.label in timm.create_model("test_resnet_svdpade", pretrained=True).pretrained_cfg["label_names"]


@pytest.mark.parametrize(
    ("images", "given", "message"),
    [
        (np.zeros((4, 4, 3)), {}, "not as ndarray"),
        ([np.zeros((4, 4, 3))], {}, "Image 1 is of type ndarray"),
        (3, {}, "not as int"),
        ([], {}, "no image to predict"),
        ("a.jpg", {"top": 0}, "`top`: must be at least 1"),
        ("a.jpg", {"topk": 3}, "did you mean `top`"),
        ("a.jpg", {"model": nn.Linear(2, 3)}, "Linear is not a classification model of timm: it lacks num_classes"),
        ("a.jpg", {"model": "resnet5_svdpade"}, "did you mean resnet50_svdpade"),
    ],
)
def test_refused(images, given, message):
    with pytest.raises(GCPError, match=message):
        timm_gcp.predict(images, **given)
