"""Saving a model replaces a model folder, and deletes nothing else."""

import json

import pytest
import timm

from timm_gcp import GCPError
from timm_gcp.__main__ import main
from timm_gcp.models.folder import save_folder

CONFIG = json.dumps({"architecture": "resnet18"})
OTHERS = {
    "photographs": {"a.jpg": "a"},
    "a folder in it": {"work/net.py": "mine"},
    "hidden": {".git/HEAD": "mine"},
    "weights alone": {"model.safetensors": "mine"},
    "another program's config": {"config.json": '{"architectures": ["BertModel"]}', "model.safetensors": "mine"},
    "no JSON": {"config.json": "architecture"},
    "a list": {"config.json": '["architecture"]'},
    "a model and more": {"config.json": CONFIG, "model.safetensors": "old", "notes.txt": "mine"},
}


def written(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text(errors="replace") for path in files}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_folder_that_holds_anything_else_stays(kind, tmp_path):
    folder = written(tmp_path / "mine", OTHERS[kind])
    with pytest.raises(GCPError, match=r"which would be deleted|is not a model folder"):
        save_folder(timm.create_model("test_resnet", num_classes=2), folder)
    assert contents(folder) == OTHERS[kind]


def test_a_link_to_such_a_folder_too(tmp_path):
    written(tmp_path / "mine", OTHERS["photographs"])
    (tmp_path / "link").symlink_to("mine")
    with pytest.raises(GCPError, match="is not a model folder"):
        save_folder(timm.create_model("test_resnet", num_classes=2), tmp_path / "link")


def test_new_empty_and_model_folders_are_written(tmp_path):
    model = timm.create_model("test_resnet", num_classes=2)
    (tmp_path / "empty").mkdir()
    written(tmp_path / "old", {"config.json": CONFIG, "model.safetensors": "old", "README.md": "old"})
    for name in ("new", "empty", "old", "old"):
        save_folder(model, tmp_path / name)
        assert set(contents(tmp_path / name)) == {"README.md", "config.json", "model.safetensors"}
        assert timm.create_model(f"local-dir:{tmp_path / name}", pretrained=True).num_classes == 2


def test_probe_refuses_it_before_the_backbone_is_read(tmp_path, capsys):
    folder = written(tmp_path / "out" / "model", OTHERS["photographs"])
    assert main(["probe", str(tmp_path), "--model", "no_such_model", "--output", str(tmp_path / "out")]) == 2
    assert f"The model folder {folder} exists and is not a model folder" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.slow
def test_train_refuses_it_before_it_goes_on(images, tmp_path, capsys):
    run = ["train", "--data-dir", str(images), "--model", "test_resnet_isqrt", "--output", str(tmp_path)]
    run += ["--experiment", "x", "--img-size", "64", "-j", "0", "-b", "8", "--device", "cpu", "--no-report"]
    assert main([*run, "--epochs", "1"]) == 0
    (tmp_path / "x" / "model" / "model.onnx").write_text("mine")
    assert main([*run, "--epochs", "1", "--resume", "auto"]) == 0  # nothing is left to train
    capsys.readouterr()
    assert main([*run, "--epochs", "2", "--resume", "auto"]) == 2
    assert "holds model.onnx beside the files of a model" in capsys.readouterr().err.replace("\n", " ")
