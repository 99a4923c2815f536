"""What is said of a model folder that cannot be loaded: the file at fault, and what to do."""

import json

import pytest
import timm
import torch

from timm_gcp import GCPError
from timm_gcp.__main__ import main
from timm_gcp.models.folder import save_folder
from timm_gcp.models.named import create_model


@pytest.fixture
def folder(tmp_path):
    model = timm.create_model("test_resnet_isqrt", num_classes=3, reduce=8)
    return save_folder(model, tmp_path / "m1", class_names=["a", "b", "c"])


def change(folder, **entries):
    """Replaces entries of the config.json; None takes one out."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **entries}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def refused(folder):
    with pytest.raises(GCPError) as error:
        create_model(str(folder), pretrained=True)
    message = str(error.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5])
def test_half_written_weights(kept, folder):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept if kept != 0.5 else kept * len(content))])
    message = refused(folder)
    assert message.startswith(f"{file} is damaged or cannot be read (")
    assert message.endswith("; copy it again.")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert refused(folder) == (
        f"{folder} has no file of weights; copy its model.safetensors again, or give another folder."
    )


def test_weights_of_timms_other_formats(folder):
    model = create_model(str(folder), pretrained=True)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    again = create_model(str(folder), pretrained=True)
    assert torch.equal(again.fc.weight, model.fc.weight)


def test_weights_that_do_not_fit(folder):
    change(folder, num_classes=5, label_names=None)
    message = refused(folder)
    assert "its weights do not fit its config.json" in message
    assert "size mismatch for fc.weight" in message


@pytest.mark.parametrize("entry", ["pretrained_cfg", "architecture"])
def test_a_configuration_that_lacks_an_entry(entry, folder):
    change(folder, **{entry: None})
    assert refused(folder).startswith(f"{folder / 'config.json'} lacks the entry '{entry}'; copy the folder again")


def test_a_pretrained_cfg_of_another_type(folder):
    change(folder, pretrained_cfg=[1])
    assert "lacks the entry 'pretrained_cfg'" in refused(folder)


def test_a_configuration_of_old_timm(folder):
    """The entries of the cfg at the top, and few others."""
    model = timm.create_model("test_resnet", num_classes=3)
    save_folder(model, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    old = {**config["pretrained_cfg"], "architecture": "test_resnet", "num_classes": 3, "num_features": 96}
    file.write_text(json.dumps(old))
    assert create_model(str(folder), pretrained=True).num_classes == 3


@pytest.mark.parametrize("name", ["resnetxx", "test_resnet_mine"])
def test_an_unknown_architecture(name, folder):
    change(folder, architecture=name)
    message = refused(folder)
    assert f"has the architecture '{name}', which timm {timm.__version__} lacks; update timm, or register it" in message


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c", "d"]])
@pytest.mark.parametrize("command", ["predict", "push", "validate"])
def test_class_names_of_another_number(command, names, folder, images, tmp_path, capsys):
    change(folder, label_names=names)
    argv = {
        "predict": ["predict", str(next(images.rglob("*.jpg"))), "--model", str(folder)],
        "push": ["push", str(folder), "--to", "jane/birds", "--license", "mit", "--out", str(tmp_path / "out")],
        "validate": ["validate", str(images), "--model", str(folder)],
    }[command]
    assert main(argv) == 2
    shown = f"{folder / 'config.json'} has {len(names)} entries in 'label_names' for 3 classes; give a name for each"
    assert shown in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_fault_can_be_replaced(folder):
    """It is a model folder all the same."""
    change(folder, label_names=["a"])
    model = timm.create_model("test_resnet_isqrt", num_classes=3, reduce=8)
    save_folder(model, folder, class_names=["a", "b", "c"])
    assert create_model(str(folder), pretrained=True).pretrained_cfg["label_names"] == ["a", "b", "c"]
