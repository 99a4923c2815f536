"""Checkpoints of other programs: which weights are taken, which entries are left, and what is refused."""

import logging

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from timm_gcp import GCPError
from timm_gcp.commands.train import parse_train_args
from timm_gcp.models.named import model_from_checkpoint
from timm_gcp.training.network import build_model
from timm_gcp.weights.file import read_weights

NAME = "test_resnet_svdpade"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return timm.create_model(NAME, num_classes=4).eval()


def under(prefix, state_dict):
    return {f"{prefix}{key}": value for key, value in state_dict.items()}


def profiled(model):
    counts = {f"{name}.total_ops": torch.zeros(1) for name, _ in model.named_modules() if name}
    return {**model.state_dict(), "total_ops": torch.zeros(1), "total_params": torch.zeros(1), **counts}


class Lightning(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.loss, self.metric = model, nn.Linear(2, 2), nn.BatchNorm1d(2)


FILES = {
    "bare": (lambda m: m.state_dict(), ""),
    "state_dict": (lambda m: {"state_dict": m.state_dict(), "epoch": 3}, ""),
    "model": (lambda m: {"model": m.state_dict(), "optimizer": {}}, ""),
    "model_state_dict": (lambda m: {"model_state_dict": m.state_dict(), "epoch": 1, "loss": 0.3}, ""),
    "params": (lambda m: {"params": m.state_dict()}, ""),
    "weights": (lambda m: {"weights": m.state_dict()}, ""),
    "net": (lambda m: {"net": m.state_dict(), "acc": 90.0}, ""),
    "DeepSpeed": (lambda m: {"module": m.state_dict()}, ""),
    "EMA alone": (lambda m: {"state_dict_ema": m.state_dict()}, "took the averaged weights 'state_dict_ema'"),
    "EMA in two levels": (lambda m: {"ema": {"module": m.state_dict()}}, "took the averaged weights 'ema'"),
    "ModelEmaV3": (lambda m: ModelEmaV3(m).state_dict(), ""),
    "DDP of a compiled model": (lambda m: under("module._orig_mod.", m.state_dict()), ""),
    "SWA": (lambda m: AveragedModel(m).state_dict(), "left out n_averaged"),
    "SWA of DDP": (lambda m: {"n_averaged": torch.ones(()), **under("module.module.", m.state_dict())}, "n_averaged"),
    "profiler": (profiled, "more, which count and are no weights"),
    "Lightning": (
        lambda m: {"state_dict": Lightning(m).state_dict()},
        "'model.', and left loss.weight",
    ),
    "net.": (lambda m: under("net.", m.state_dict()), "under 'net.'"),
    "backbone.": (lambda m: {"model": under("backbone.", m.state_dict())}, "under 'backbone.'"),
    "a name of one's own": (
        lambda m: under("module.my.net.", m.state_dict()),
        "under 'my.net.'",
    ),
    "student and model": (
        lambda m: {**under("student.", m.state_dict()), **under("model.", m.state_dict())},
        "under 'model.', and left student.",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_models_weights_are_found(kind, model, tmp_path, caplog):
    make, said = FILES[kind]
    torch.save(make(model), tmp_path / "file.pth")
    with caplog.at_level(logging.WARNING):
        found = model_from_checkpoint(tmp_path / "file.pth", NAME)
    assert found.num_classes == 4  # by the classifier in the file: the name's own weights have 81 classes
    assert found.pretrained_cfg["num_classes"] == 4
    assert not found.pretrained_cfg.get("label_names")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in found.state_dict().items())
    assert said in caplog.text
    assert bool(said) == bool(caplog.records)


def test_safetensors_too(model, tmp_path, caplog):
    save_file(under("model.", profiled(model)), tmp_path / "file.safetensors")
    assert model_from_checkpoint(tmp_path / "file.safetensors", NAME).num_classes == 4
    assert "total_ops" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {**under("student.", state), **under("teacher.", state)}, "several times .student., teacher.."),
        (lambda state: {**state, "extra.weight": torch.zeros(1)}, "unexpected extra.weight"),
        (lambda state: {**under("model.", state), "model.extra": torch.zeros(1)}, "unexpected extra"),
        (lambda state: under("model.", {k: v for k, v in state.items() if k != "fc.weight"}), "missing fc.weight"),
        (lambda state: {"state_dict": {}, "epoch": 1}, "holds no weights"),
        (lambda state: {"n_averaged": torch.ones(())}, "missing"),
        (lambda state: {"params": {"conv1.0.weight": 3}}, "holds no weights"),
    ],
)
def test_what_does_not_fit_is_refused(change, message, model, tmp_path):
    torch.save(change(model.state_dict()), tmp_path / "file.pth")
    with pytest.raises(GCPError, match=message):
        model_from_checkpoint(tmp_path / "file.pth", NAME)


def test_averaged_weights_that_are_asked_for_have_to_be_there(model, tmp_path):
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, tmp_path / "plain.pth")
    with pytest.raises(GCPError, match="holds no averaged weights; leave --use-ema out"):
        model_from_checkpoint(tmp_path / "plain.pth", NAME, use_ema=True)
    doubled = {key: 2 * value for key, value in model.state_dict().items()}
    for key in ("state_dict_ema", "model_ema", "params_ema"):
        torch.save({"state_dict": model.state_dict(), key: doubled}, tmp_path / "both.pth")
        assert torch.equal(read_weights(tmp_path / "both.pth")["fc.bias"], model.fc.bias)
        assert torch.equal(read_weights(tmp_path / "both.pth", use_ema=True)["fc.bias"], 2 * model.fc.bias)


def test_torchvisions_checkpoint_tells_its_model(tmp_path):
    model = timm.create_model("test_resnet", num_classes=5)
    torch.save({"arch": "test_resnet", "state_dict": model.state_dict(), "epoch": 9}, tmp_path / "model_best.pth.tar")
    assert model_from_checkpoint(tmp_path / "model_best.pth.tar").num_classes == 5


def test_a_given_number_of_classes_is_held_against_the_file(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "file.pth")
    with pytest.raises(GCPError, match="5×2080"):
        model_from_checkpoint(tmp_path / "file.pth", NAME, num_classes=5)


def test_names_of_another_folder_are_not_these_weights_own(model, tmp_path):
    from timm_gcp.models.folder import save_folder

    folder = save_folder(timm.create_model(NAME, num_classes=3), tmp_path / "m", class_names=("a", "b", "c"))
    torch.save(model.state_dict(), tmp_path / "file.pth")
    found = model_from_checkpoint(tmp_path / "file.pth", str(folder))
    assert found.num_classes == 4
    assert not found.pretrained_cfg["label_names"]


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "resnet18_isqrt.init"])
def test_tag_and_licence_of_a_name_are_not_these_weights_own(name, tmp_path):
    with torch.device("meta"):
        registered = timm.create_model(name).pretrained_cfg
    assert registered["tag"]
    assert registered.get("license") or registered.get("hf_hub_id")
    torch.save(timm.create_model(name, num_classes=4).state_dict(), tmp_path / "file.pth")
    cfg = model_from_checkpoint(tmp_path / "file.pth", name).pretrained_cfg
    for key in ("tag", "license", "description", "origin_url", "paper_ids", "url", "hf_hub_id", "file"):
        assert not cfg.get(key), key
    for key in ("architecture", "input_size", "mean", "interpolation", "classifier", "first_conv"):
        assert cfg[key] == registered[key], key


@pytest.mark.parametrize("option", ["--pretrained-path", "--initial-checkpoint"])
def test_training_starts_from_a_wrapped_backbone(option, tmp_path, caplog):
    plain = timm.create_model("test_resnet", num_classes=7 if option == "--pretrained-path" else 3)
    torch.save({"state_dict": under("backbone.", plain.state_dict())}, tmp_path / "file.ckpt")
    name = NAME if option == "--pretrained-path" else "test_resnet"
    extra = ["--pretrained"] if option == "--pretrained-path" else []
    args, _ = parse_train_args(["data", "--model", name, option, str(tmp_path / "file.ckpt"), *extra])
    started = build_model(args, 3)
    assert torch.equal(started.conv1[0].weight, plain.conv1[0].weight)
    assert "state_dict" not in started.pretrained_cfg
    assert "under 'backbone.'" in caplog.text
