"""timm-gcp doctor as a user runs it, on files that have what it looks for."""

import csv
import json
import re
import shutil

import pytest

from tests.support.multi_label_images import write_multi_label
from tests.support.tools import write_images
from tests.support.troubled_images import write_troubled
from timm_gcp import GCPError
from timm_gcp.__main__ import main
from timm_gcp.diagnosis import DiagnosisOptions, diagnose

QUIET = ["--device", "cpu", "-j", "0", "--model", ""]


def doctor(*argv):
    return main(["doctor", *map(str, argv)])


def diagnosis(out):
    found = json.loads(out.read_text(encoding="utf-8"))
    return found, {each["kind"]: each for each in found["findings"]}


def files_of(finding):
    return {each["file"] for group in finding["groups"] for each in group}


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    return write_troubled(tmp_path_factory.mktemp("troubled"))


def test_everything_that_is_wrong_is_found(troubled, tmp_path, capsys):
    out, report = tmp_path / "d.json", tmp_path / "report"
    assert doctor(troubled, *QUIET, "--json", out, "--report", report) == 1
    shown = capsys.readouterr().out
    found, kinds = diagnosis(out)
    assert found["breaks_a_training"]
    assert files_of(kinds["unreadable"]) == {"coarse/truncated.jpg", "coarse/text.jpg"}
    assert kinds["unreadable"]["severity"] == "error"
    assert files_of(kinds["blank"]) == {"coarse/blank.jpg"}
    assert files_of(kinds["wrong suffix"]) == {"coarse/really.png"}
    assert files_of(kinds["rotated"]) == {"fine/turned.jpg"}
    assert files_of(kinds["tiny"]) == files_of(kinds["long"]) == {"fine/narrow.png"}
    assert "1 of mode CMYK (CMYK), 1 of mode L (grey)" in kinds["modes"]["text"]
    assert "1 file is not read as images: 1 .txt" in kinds["other files"]["text"]
    assert files_of(kinds["equal files, two labels"]) == {"coarse/3.jpg", "fine/copy <i>.jpg"}
    assert files_of(kinds["equal files, two splits"]) == {"coarse/2.jpg", "coarse/leak.jpg"}
    near = [files_of(each) for kind, each in kinds.items() if kind.startswith("near-duplicates")]
    assert any({"coarse/1.jpg", "coarse/really.png"} <= each for each in near)
    assert found["speed"] is None
    assert found["splits"][0]["counts"] == {"coarse": 13, "fine": 14, "middle": 9}
    assert [each["option"] for each in found["suggestions"]][-1] == "--skip-bad-images"
    assert "An error above would break a training." in shown

    page = (report / "doctor.html").read_text(encoding="utf-8")
    assert "copy &lt;i&gt;.jpg" in page
    assert "<i>.jpg" not in page
    assert "data:image/jpeg" in page
    assert not re.search(r'(src|href)="(?!data:|#)|url\(|@import', page)
    with open(report / "findings.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"] for row in rows if row["finding"] == "unreadable"} == files_of(kinds["unreadable"])


def test_a_sound_folder_has_advice_only_and_an_epoch_is_timed(tmp_path, capsys):
    folder = write_images(tmp_path / "images", per_class=6)
    out = tmp_path / "d.json"
    given = ["--device", "cpu", "-j", "0", "--model", "test_resnet_isqrt", "--img-size", "64", "-b", "4"]
    assert doctor(folder, *given, "--seconds", "0.1", "--json", out) == 0
    found, kinds = diagnosis(out)
    assert not any(each["severity"] == "error" for each in kinds.values())
    speed = found["speed"]
    assert (speed["images"], speed["batch_size"], speed["img_size"]) == (18, 4, 64)
    assert speed["epoch_seconds"] == pytest.approx(18 / speed["loader"] + 18 / speed["step"])
    slower = min(("loader", "step"), key=lambda part: speed[part])
    assert speed["bottleneck"] == {"loader": "loader", "step": "training step"}[slower]
    assert "is the bottleneck" in capsys.readouterr().out
    options = [each["option"] for each in found["suggestions"]]
    assert {"timm-gcp probe", "--recipe finetune"} <= set(options)
    assert options[-1] == "--no-check-images"
    assert "--img-size 64" in options  # 40 pixels are the shorter side; 64 is the least


def test_empty_classes_and_classes_of_one_split_break_a_training(tmp_path):
    folder = write_images(tmp_path / "images", per_class=4)
    (folder / "train" / "empty").mkdir()
    shutil.rmtree(folder / "train" / "middle")
    shutil.rmtree(folder / "validation" / "fine")
    out = tmp_path / "d.json"
    assert doctor(folder, *QUIET, "--json", out) == 1
    _, kinds = diagnosis(out)
    assert kinds["empty class"]["classes"] in (["empty"], ["middle"])
    assert kinds["unseen class"]["classes"] == ["middle"]
    assert kinds["missing class"]["classes"] == ["fine"]
    assert kinds["small class"]["classes"] == ["coarse", "fine"]


def test_what_breaks_a_training_is_an_error_and_nothing_else(tmp_path):
    """A split to train on is missing; one class in the split to evaluate; one class to train on."""
    out = tmp_path / "d.json"
    folder = write_images(tmp_path / "images", per_class=6, splits=("test", "validation"))
    assert doctor(folder, *QUIET, "--json", out) == 1
    assert "no split to train on, only validation, test" in diagnosis(out)[1]["split"]["text"]
    (folder / "test").rename(folder / "train")
    for name in ("fine", "middle"):
        shutil.rmtree(folder / "validation" / name)
    assert doctor(folder, *QUIET, "--json", out) == 0
    for name in ("fine", "middle"):
        shutil.rmtree(folder / "train" / name)
    assert doctor(folder, *QUIET, "--json", out) == 1
    assert diagnosis(out)[1]["one class"]["severity"] == "error"
    argv = ["--model", "test_resnet", "--img-size", "64", "-b", "2", "-j", "0", "--output", str(tmp_path / "runs")]
    assert main(["train", str(folder), *argv]) == 2


def test_classes_that_differ_by_capital_letters(tmp_path):
    folder = write_images(tmp_path / "images", per_class=6, splits=("",))
    (folder / "fine").rename(folder / "Coarse")
    out = tmp_path / "d.json"
    assert doctor(folder, *QUIET, "--json", out) == 0
    assert diagnosis(out)[1]["capital letters"]["classes"] == ["Coarse", "coarse"]


def test_a_folder_without_splits_is_looked_at_whole(tmp_path):
    folder = write_images(tmp_path / "images", per_class=6, splits=("",))
    for number in range(6, 18):
        shutil.copy(folder / "coarse" / "0.jpg", folder / "coarse" / f"{number}.jpg")
    out = tmp_path / "new" / "folder" / "d.json"
    assert doctor(folder, *QUIET, "--json", out) == 0
    found, kinds = diagnosis(out)
    assert [split["name"] for split in found["splits"]] == ["all"]
    assert len(kinds["equal files, repeated"]["groups"][0]) == 13
    options = [each["option"] for each in found["suggestions"]]
    assert "--val-fraction 0.2" in options
    assert "--balanced-sampling" in options


def test_data_sets_that_are_no_files_are_counted_and_said_to_be_not_scanned(tmp_path):
    out = tmp_path / "d.json"
    assert doctor("--dataset", "textures", "--splits", "train", *QUIET, "--json", out) == 0
    _, kinds = diagnosis(out)
    assert "not scanned" in kinds


def test_no_images_and_no_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "d.json"
    assert doctor(tmp_path / "empty", *QUIET, "--json", out) == 1
    assert set(diagnosis(out)[1]) == {"no images"}
    with pytest.raises(GCPError, match="does not exist"):
        diagnose(DiagnosisOptions(data_dir=str(tmp_path / "nowhere")))
    assert doctor(tmp_path / "nowhere", *QUIET) == 2


def test_images_with_several_labels(tmp_path):
    folder = write_multi_label(tmp_path / "images")
    out = tmp_path / "d.json"
    given = ["--device", "cpu", "-j", "0", "--model", "test_resnet_isqrt", "--img-size", "64", "--seconds", "0.1"]
    assert doctor(folder, "--dataset", "multilabel", *given, "--json", out, "--report", tmp_path / "report") == 0
    found, _ = diagnosis(out)
    train = found["splits"][0]
    assert train["images"] == train["balance"]["images"] == 24
    assert train["counts"] == {"green": 12, "red": 12, "striped": 12}
    assert found["speed"]["step"] > 0
    options = [each["option"] for each in found["suggestions"]]
    assert "--recipe finetune --opt adamw --lr 0.001" in options
    assert not any("timm-gcp probe" in text for each in found["suggestions"] for text in each.values())


def test_a_class_map_leaves_classes_out_and_says_so(tmp_path):
    folder = write_images(tmp_path / "images", per_class=6)
    (tmp_path / "classes.txt").write_text("middle\ncoarse\nabsent\n")
    out = tmp_path / "d.json"
    assert doctor(folder, *QUIET, "--class-map", tmp_path / "classes.txt", "--json", out) == 1
    found, kinds = diagnosis(out)
    assert found["splits"][0]["counts"] == {"middle": 6, "coarse": 6, "absent": 0}
    assert kinds["left out"]["classes"] == ["fine"]
    assert kinds["empty class"]["classes"] == ["absent"]
