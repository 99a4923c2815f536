"""Results are not written into the folder of a run, of a model, or of another command's results."""

import shutil

import pytest

from tests.support.tools import COMMON, MODEL
from timm_gcp.__main__ import main


@pytest.fixture(scope="module")
def folders(images, tmp_path_factory):
    """A training run, and a report of its model."""
    root = tmp_path_factory.mktemp("folders")
    argv = ["train", "--data-dir", str(images), "--model", MODEL, *COMMON, "-j", "0", "--epochs", "2"]
    assert main([*argv, "--switch-epoch", "1", "--output", str(root), "--experiment", "run"]) == 0
    argv = ["validate", "--data-dir", str(images), "--model", str(root / "run"), "--img-size", "64", "-j", "0"]
    assert main([*argv, "--device", "cpu", "--report", str(root / "page")]) == 0
    return root


RUNS, PAGES = ("run", "run/model"), ("run/report", "page")
CASES = [
    *((command, folder) for command in ("validate", "predict", "embed", "doctor") for folder in RUNS),
    *((command, folder) for command in ("compare", "probe") for folder in (*RUNS, *PAGES)),
]


@pytest.mark.parametrize(("command", "folder"), CASES)
def test_refused(command, folder, folders, images, tmp_path, capsys):
    root = shutil.copytree(folders, tmp_path / "copy")
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    place = str(root / folder)
    argv = {
        "validate": [str(images), "--model", MODEL, "--report", place],
        "predict": [str(images), "--model", str(root / "run"), "--explain", place],
        "embed": [str(images), "--model", "test_resnet", "--out", str(tmp_path / "v.npz"), "--report", place],
        "doctor": [str(images), "--report", place],
        "compare": [str(root / "run"), str(root / "page"), "--out", place],
        "probe": [str(images), "--model", "test_resnet", "--output", place],
    }[command]
    assert main([command, *argv]) == 2
    error = capsys.readouterr().err
    assert f"{place} is the folder of " in error
    assert "choose another, such as" in error
    assert {file: file.read_bytes() for file in root.rglob("*") if file.is_file()} == before
