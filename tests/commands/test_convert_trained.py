"""Any training checkpoint becomes a model folder with class names; validate, predict and export take run folders."""

import csv
import json
from argparse import Namespace

import pytest
import timm
import torch

from timm_gcp import GCPError
from timm_gcp.__main__ import main
from timm_gcp.commands import convert

CLASSES = ("coarse", "fine", "middle")


def timms_run(folder, name="test_resnet_svdpade", **arguments):
    """What timm's train.py, also by ``timm-gcp wrap``, leaves of a model."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **arguments).eval()
    args = Namespace(model=name, num_classes=3, img_size=64, model_kwargs=arguments, crop_pct=0.9, mean=None)
    folder.mkdir(parents=True)
    torch.save({"epoch": 1, "arch": name, "args": args, "state_dict": model.state_dict()}, folder / "last.pth.tar")
    return model


@pytest.mark.parametrize("given", ["file", "run folder"])
@pytest.mark.parametrize("names", ["list", "images", "none"])
def test_a_run_of_timms_script_becomes_a_folder(given, names, images, tmp_path, capsys):
    model = timms_run(tmp_path / "run", reduce=32)
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    source = tmp_path / "run" if given == "run folder" else tmp_path / "run" / "last.pth.tar"
    named = {
        "list": ["--class-names", tmp_path / "names.txt"],
        "images": ["--class-names", images / "train"],
        "none": [],
    }
    argv = [source, "--out", tmp_path / "m", *named[names]]
    assert convert.main([str(word) for word in argv]) == 0
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert tuple(config.get("label_names", ())) == (() if names == "none" else CLASSES)
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 64]
    assert config["pretrained_cfg"]["crop_pct"] == 0.9
    assert ("--class-names FILE or DIR" in capsys.readouterr().out) == (names == "none")
    again = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(image), model(image))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_other_networks_and_bare_weights(name, tmp_path):
    model = timms_run(tmp_path / "run", name)
    torch.save({"model_state_dict": model.state_dict()}, tmp_path / "bare.pth")
    convert.main([str(tmp_path / "bare.pth"), "--model", name, "--out", str(tmp_path / "m")])
    again = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True)
    assert torch.equal(again.get_classifier().weight, model.get_classifier().weight)


def test_what_cannot_become_a_folder_is_refused(tmp_path):
    model = timms_run(tmp_path / "run", "test_resnet")
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    (tmp_path / "two.txt").write_text("a\nb\n")
    out = ["--out", str(tmp_path / "m")]
    for arguments, message in [
        ([str(tmp_path / "bare.pth"), *out], "does not tell its model; give --model"),
        ([str(tmp_path / "run"), *out, "--class-names", str(tmp_path / "two.txt")], "has 2 classes, and .* 3"),
        ([str(tmp_path / "run"), *out, "--last-stride", "1"], "gives other logits.*use the checkpoint itself"),
        ([str(tmp_path / "run"), *out, "--sha256", "0000"], "has the SHA-256"),
    ]:
        with pytest.raises(GCPError, match=message):
            convert.main(arguments)
        assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("option", ["--model", "--checkpoint"])
def test_predict_and_validate_take_a_run_folder(option, run, images, tmp_path):
    photo, out = str(images / "validation" / "fine" / "0.jpg"), tmp_path / "p.csv"
    assert main(["predict", photo, option, str(run), "--csv", str(out)]) == 0
    with open(out, newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["class_1"] in CLASSES
    argv = ["--data-dir", str(images), "--device", "cpu", "-j", "0", "--results-file", str(tmp_path / "r.csv")]
    assert main(["validate", option, str(run), *argv]) == 0
    with open(tmp_path / "r.csv", newline="") as file:
        (found,) = csv.DictReader(file)
    assert float(found["top1"]) == pytest.approx(json.loads((run / "result.json").read_text())["top1"], abs=1e-3)


@pytest.mark.parametrize("option", ["--model", "--checkpoint"])
def test_predict_takes_a_run_folder_of_timms_script(option, images, tmp_path):
    timms_run(tmp_path / "run")
    photo, out = str(images / "validation" / "fine" / "0.jpg"), tmp_path / "p.csv"
    assert main(["predict", photo, option, str(tmp_path / "run"), "--csv", str(out)]) == 0
    assert "class_3" in out.read_text()


def test_a_folder_without_a_checkpoint_is_no_run(images, tmp_path, capsys):
    assert main(["predict", str(images / "validation"), "--model", str(tmp_path)]) == 2
    assert "not a model folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "is a folder, and no checkpoint is in it; give a checkpoint file."),
        (("notes.txt",), "is a folder, and no checkpoint is in it; give a checkpoint file."),
        (("checkpoint-1.pth.tar", "notes.txt"), "is a folder; give a checkpoint file in it, such as "),
        (("weights.safetensors",), "is a folder; give a checkpoint file in it, such as "),
        (("config.json", "model.safetensors"), "is a model folder already, not a checkpoint; validate, predict and"),
        (("result.json", "model/config.json"), "is a folder; the model folder "),
    ],
)
@pytest.mark.parametrize("command", ["convert", "validate"])
def test_a_folder_in_place_of_a_checkpoint(command, files, message, images, tmp_path, capsys):
    """A file is named only if it is there."""
    folder = tmp_path / "given"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    folder.mkdir(exist_ok=True)
    argv = {
        "convert": ["convert", str(folder), "--out", str(tmp_path / "m")],
        "validate": ["validate", str(images), "--checkpoint", str(folder)],
    }[command]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert f"{folder} {message}" in error
    assert "last.pth.tar" not in error
    if "such as" in message:
        assert f"{folder / files[0]}." in error
