"""A trained folder records its own training, and nothing of the published weights of its name."""

import hashlib
import json
import shutil

import pytest
import timm
import torch

from tests.support.tools import MODEL, write_images
from timm_gcp.__main__ import main
from timm_gcp.commands.train import parse_train_args
from timm_gcp.models.cfgs import _CHECKPOINTS
from timm_gcp.models.folder import save_folder
from timm_gcp.training import provenance
from timm_gcp.training.network import build_model
from timm_gcp.weights.manifest import read_manifest
from timm_gcp.weights.resolve import resolve

FOREIGN = ("groceries", "Grocery Store", "ImageNet", "Apache", "MIT", "in1k", "jiangtaoxie", "arXiv")


def train(data, output, *more, model=MODEL, epochs="1"):
    argv = ["train", str(data), "--model", model, "--img-size", "64", "-b", "8", "-j", "0", "--device", "cpu"]
    argv += ["--epochs", epochs, "--warmup-epochs", "0", "--output", str(output), *map(str, more)]
    if "_" in model and "--no-hybrid" not in more and model != "test_resnet":
        argv += ["--no-hybrid"]
    return main(argv)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "meadow", per_class=8, classes=("ash", "birch"))


@pytest.fixture(scope="module")
def scratch(photos, tmp_path_factory):
    output = tmp_path_factory.mktemp("scratch")
    assert train(photos, output, "--experiment", "run", "--seed", "3") == 0
    return output / "run"


def config_of(run):
    return json.loads((run / "model" / "config.json").read_text())


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_run_from_random_weights_claims_nobody_elses_origin(scratch):
    config, card = config_of(scratch), (scratch / "model" / "README.md").read_text()
    assert 'ImageOps.exif_transpose(Image.open("image.jpg"))' in card
    assert not {"tag", "license", "origin_url", "paper_ids", "paper_name", "notes"} & config["pretrained_cfg"].keys()
    for text in (json.dumps(config), card):
        assert [word for word in FOREIGN if word in text] == []
    training = config["training"]
    assert training["started_from"] == "random weights"
    assert training["data"] == {
        "name": "meadow",
        "kind": "image folders",
        "classes": 2,
        "images": {"train": 16, "validation": 16},
    }
    assert training["command"].startswith("timm-gcp train meadow --model")
    assert "/" not in training["command"]
    assert len(training["date"]) == len("2026-01-01")
    assert training["versions"]["timm"] == timm.__version__
    assert "meadow (2 classes, 16 images in 'train'" in config["pretrained_cfg"]["description"]
    for said in ("Started from random weights", "meadow (2 classes", training["date"], "No licence is recorded"):
        assert said in card
    # timm reads it, and has no tag or licence to show.
    loaded = timm.create_model(f"local-dir:{scratch / 'model'}", pretrained=True).pretrained_cfg
    assert (loaded.get("tag") or None, loaded.get("license")) == (None, None)
    result = json.loads((scratch / "result.json").read_text())
    assert (result["started_from"], result["data"]) == (training["started_from"], training["data"])


@pytest.mark.parametrize("name", ["resnet50_isqrt", "test_resnet_svdpade", "test_resnet", "resnet18"])
def test_a_saved_folder_inherits_nothing_of_the_name(name, tmp_path):
    """The cfg of a name describes weights that somebody published; a model without them is not theirs."""
    with torch.device("meta"):
        cfg = timm.create_model(name, num_classes=3).pretrained_cfg
    assert cfg.get("tag")
    assert cfg.get("license")
    model = timm.create_model(MODEL, num_classes=3)
    own = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes")
    model.pretrained_cfg = {**model.pretrained_cfg, **{key: cfg[key] for key in own if key in cfg}}
    written = json.loads((save_folder(model, tmp_path / "m") / "config.json").read_text())["pretrained_cfg"]
    assert not set(own) & written.keys()
    said = {"tag": "mine", "license": "CC0-1.0", "description": "Trees."}
    written = json.loads((save_folder(model, tmp_path / "m", about=said) / "config.json").read_text())
    assert {key: written["pretrained_cfg"][key] for key in said} == said


def test_labels_of_the_name_are_not_those_of_a_training_without(tmp_path):
    row = read_manifest()[f"{MODEL}.grocery"]
    model = timm.create_model(MODEL, num_classes=row.num_classes)
    folder = save_folder(model, tmp_path / "m", about={"training": {"data": {"name": "other"}}})
    config = json.loads((folder / "config.json").read_text())
    assert "label_names" not in config
    assert "label_names" not in config["pretrained_cfg"]


def started(*argv, model=MODEL):
    args, _ = parse_train_args(["--model", str(model), *map(str, argv)])
    return provenance.started_from(args, build_model(args, num_classes=2))


def test_started_from_published_weights():
    row = _CHECKPOINTS[f"{MODEL}.grocery"]
    start = started("--pretrained")
    assert start == {
        "name": row.name,
        "tag": "grocery",
        "license": "Apache-2.0",
        "sha256": row.sha256,
        "source": row.origin_url,
    }
    assert started() == "random weights"


def test_started_from_weights_of_the_hub(tmp_path, monkeypatch):
    """Of the file in the Hub's cache, which timm loaded."""
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    asked = []

    def cached(repository, name, revision=None):
        asked.append((repository, name, revision))
        return str(file) if name == "model.safetensors" else None

    monkeypatch.setattr(provenance, "try_to_load_from_cache", cached)
    args, _ = parse_train_args(["--model", "resnet18", "--pretrained"])
    model = torch.nn.Identity()
    model.pretrained_cfg = timm.models.get_pretrained_cfg("resnet18").to_dict()
    start = provenance.started_from(args, model)
    assert start["name"] == f"resnet18.{model.pretrained_cfg['tag']}"
    assert (start["sha256"], start["source"]) == (sha256(file), model.pretrained_cfg["hf_hub_id"])
    assert start["license"] == model.pretrained_cfg["license"]
    assert ("timm/resnet18.a1_in1k", "model.safetensors", None) in asked


@pytest.mark.parametrize("option", ["--initial-checkpoint", "--pretrained-path"])
def test_started_from_a_file(option, scratch, tmp_path):
    """Of ours with what it tells of its own beginning, of others the name and checksum."""
    file = scratch / "last.pth.tar"
    start = started(option, file)
    assert (start["name"], start["sha256"]) == ("last.pth.tar", sha256(file))
    assert (start["data"]["name"], start["started_from"]) == ("meadow", "random weights")
    weights = resolve(read_manifest()[f"{MODEL}.grocery"])
    shutil.copy(weights, tmp_path / "mine.safetensors")
    if option == "--pretrained-path":
        start = started(option, tmp_path / "mine.safetensors", "--pretrained")
        assert start == {"name": "mine.safetensors", "sha256": sha256(weights)}


@pytest.mark.slow
def test_two_stages_tell_where_the_first_began(photos, tmp_path, capsys):
    """Published weights, then a folder, then its checkpoint resumed: the licence of the first is still told."""
    assert train(photos, tmp_path, "--experiment", "one", "--pretrained", "--train-only", "head") == 0
    folder = tmp_path / "one" / "model"
    assert train(photos, tmp_path, "--experiment", "two", model=str(folder)) == 0
    config = config_of(tmp_path / "two")
    start = config["training"]["started_from"]
    assert (start["name"], start["architecture"]) == ("model", MODEL)
    assert start["sha256"] == sha256(folder / "model.safetensors")
    assert start["data"]["name"] == "meadow"
    assert "license" not in start
    assert start["started_from"]["license"] == "Apache-2.0"
    assert not {"tag", "license"} & config["pretrained_cfg"].keys()
    card = (tmp_path / "two" / "model" / "README.md").read_text()
    assert "which started from `test_resnet_svdpade.grocery`" in card
    assert "licence Apache-2.0" in card
    more = ("--experiment", "two", "--resume", "auto")
    assert train(photos, tmp_path, *more, model=str(folder), epochs="2") == 0
    again = config_of(tmp_path / "two")["training"]
    assert again["started_from"] == start
    assert [each["last_epoch"] for each in again["segments"]] == [0, 1]


def test_all_images_without_evaluation_are_counted(photos, tmp_path, capsys):
    """Neither split has a name then."""
    none = ("--train-split", "", "--val-split", "", "--val-fraction", "0")
    assert train(photos / "train", tmp_path, "--experiment", "run", *none) == 0
    assert "Images: 2 classes (ash, birch); 16 images" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["data"]["images"] == {"": 16}
    assert "on train (2 classes, 16 images)" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_a_run_of_another_model_is_named(scratch, photos, tmp_path, capsys):
    """Whatever else differs, the remedy is to give the model of the run."""
    shutil.copytree(scratch, tmp_path / "run")
    argv = ["--experiment", "run", "--resume", "auto", "--hybrid"]
    given = ["train", str(photos), "--model", "test_resnet_polar", "--img-size", "64", "-b", "8", "-j", "0"]
    assert main([*given, "--device", "cpu", "--epochs", "2", "--output", str(tmp_path), *argv]) == 2
    err = capsys.readouterr().err
    assert f"is of a run of {MODEL}, and this command trains test_resnet_polar: give --model {MODEL}" in err


def test_a_checkpoint_that_does_not_tell_its_beginning(photos, scratch, tmp_path):
    shutil.copytree(scratch, tmp_path / "run")
    for file in (tmp_path / "run").glob("*.pth.tar"):
        checkpoint = torch.load(file, weights_only=False)
        del checkpoint["gcp"]["started_from"]
        torch.save(checkpoint, file)
    assert train(photos, tmp_path, "--experiment", "run", "--resume", "auto", "--seed", "3", epochs="2") == 0
    assert config_of(tmp_path / "run")["training"]["started_from"] == "not recorded"
    assert "weights that are not recorded" in (tmp_path / "run" / "model" / "README.md").read_text()


@pytest.mark.slow
def test_the_demo_does_not_claim_to_know_groceries(tmp_path):
    assert main(["demo", "--output", str(tmp_path / "d"), "--epochs", "2", "--images", "6"]) == 0
    for head in ("average", "svdpade"):
        for file in (tmp_path / "d" / head).rglob("config.json"):
            text = file.read_text()
            assert [word for word in (*FOREIGN, "grocery") if word in text] == []
            assert json.loads(text)["training"]["data"]["name"] == "textures"
