"""A class folder whose name is no UTF-8: its images are read, and everything that names it can be written."""

import json
import os
import shutil

import pytest
import timm

from tests.support.tools import write_images
from timm_gcp.__main__ import main
from timm_gcp.data.class_names import check_classes, first_difference
from timm_gcp.data.factory import create_dataset
from timm_gcp.models.folder import save_folder

RAW, SHOWN = os.fsdecode(b"caf\xe9"), "caf\ufffd"
COMMON = ("--img-size", "64", "-j", "0", "-b", "8", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    try:
        return write_images(tmp_path_factory.mktemp("names"), per_class=4, classes=("bar", RAW, "pub"))
    except OSError:
        pytest.skip("this file system takes no such name")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that was saved with the name as the system gives it, as by earlier versions."""
    network = timm.create_model("test_resnet", num_classes=3)
    return save_folder(network, tmp_path_factory.mktemp("model") / "m", class_names=["bar", RAW, "pub"])


@pytest.mark.parametrize("class_map", ["", {"pub": 0, RAW: 1}])
def test_labels_are_those_of_the_folders(class_map, folder):
    dataset = create_dataset("", folder, "validation", class_map=class_map)
    assert dataset.class_names == (["pub", SHOWN] if class_map else ["bar", SHOWN, "pub"])
    for index, (path, label) in enumerate(dataset.reader.samples):
        assert os.path.isfile(path)
        assert dataset[index][1] == label
        assert dataset.class_names[label] == os.path.basename(os.path.dirname(path)).replace(RAW, SHOWN)


def test_a_model_of_an_earlier_version_has_the_same_classes(folder, model):
    check_classes(timm.create_model(f"local-dir:{model}"), create_dataset("", folder, "validation"))
    assert first_difference([SHOWN], ["bar"])


def test_doctor(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    for file in (broken / "validation" / RAW).iterdir():
        file.unlink()
    for place, status in ((folder, 0), (broken, 1)):
        given = ("--json", str(tmp_path / "d.json"), "--report", str(tmp_path / "report"), "-j", "0")
        assert main(["doctor", str(place), "--model", "", *given]) == status
        text = (tmp_path / "d.json").read_text(encoding="utf-8")
        assert SHOWN in json.loads(text)["splits"][0]["counts"]
        assert "\\udce9" not in text.replace("'caf\\\\udce9'", "")


@pytest.mark.slow
def test_doctor_names_such_files(folder, tmp_path):
    """A finding that shows pictures, of which one has such a name."""
    place = shutil.copytree(folder, tmp_path / "damaged")
    (place / "train" / RAW / f"{RAW}.jpg").write_bytes(b"no image")
    given = ("--json", str(tmp_path / "d.json"), "--report", str(tmp_path / "report"), "-j", "0")
    assert main(["doctor", str(place), "--model", "", *given]) == 1
    assert f"{SHOWN}.jpg" in (tmp_path / "report" / "doctor.html").read_text(encoding="utf-8")
    assert f"{SHOWN}.jpg" in str(json.loads((tmp_path / "d.json").read_text(encoding="utf-8")))


def test_probe_validate_predict_and_embed(folder, model, tmp_path):
    assert main(["probe", str(folder), "--model", str(model), "--output", str(tmp_path / "p"), *COMMON]) == 0
    for number, each in enumerate((model, tmp_path / "p" / "model")):
        report = ("--report", str(tmp_path / f"report{number}"))
        assert main(["validate", str(folder), "--model", str(each), *report, *COMMON]) == 0
        csv = tmp_path / f"p{number}.csv"
        predict = ["predict", str(folder / "validation"), "--model", str(each), "--csv", str(csv), "--device", "cpu"]
        assert main(predict) == 0
        assert SHOWN in csv.read_text(encoding="utf-8")
    embed = ["--out", str(tmp_path / "v.npz"), "--report", str(tmp_path / "pages")]
    assert main(["embed", str(folder / "train"), "--model", str(model), *embed, *COMMON]) == 0
