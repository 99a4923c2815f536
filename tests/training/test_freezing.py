"""Two-stage fine-tuning: what ``--train-only`` leaves alone, and the second stage on top of the first."""

import pytest
import timm
import torch

from timm_gcp import GCPError
from timm_gcp.commands.train import main, parse_train_args
from timm_gcp.training.freezing import freeze_all_but
from timm_gcp.training.protocol import make_protocol
from timm_gcp.training.step import Stepper


def _changed(before, after):
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def test_the_classifier_alone():
    model = timm.create_model("test_resnet_polar", num_classes=3)
    frozen = freeze_all_but(model, "classifier")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    Stepper(
        model, torch.optim.SGD(model.fc.parameters(), lr=0.1), torch.nn.CrossEntropyLoss(), frozen=frozen
    ).train_mode()
    assert model.training
    assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_the_head_of_a_network_with_hidden_layers():
    model = timm.create_model("alexnet_isqrt", num_classes=3)
    frozen = freeze_all_but(model, "head")
    trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"pre_logits", "head"}  # AlexNet's pool has no parameters
    assert all(not p.requires_grad for module in frozen for p in module.parameters())
    Stepper(
        model, torch.optim.SGD(model.head.parameters(), lr=0.1), torch.nn.CrossEntropyLoss(), frozen=frozen
    ).train_mode()
    assert any(m.training for m in model.pre_logits.modules() if isinstance(m, torch.nn.Dropout))


def test_a_plain_model():
    model = timm.create_model("test_resnet", num_classes=3)
    freeze_all_but(model, "head")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("name", "part", "refused"),
    [
        ("test_resnet_svdpade", "classifier", True),
        ("test_resnet_svdpade", "head", False),
        ("alexnet_svdpade", "classifier", False),  # a pool without a reduction is measured all the same
    ],
)
def test_conditioning_that_is_not_measured_is_no_rule(name, part, refused):
    options, _ = parse_train_args(["photos", "--switch-conditioning", "--train-only", part])
    model = timm.create_model(name, num_classes=3)
    freeze_all_but(model, part)
    if refused:
        with pytest.raises(GCPError, match="--switch-conditioning has no effect with --train-only classifier"):
            make_protocol(options, model)
    else:
        assert make_protocol(options, model).monitor is not None


@pytest.mark.slow
def test_two_stages(images, tmp_path):
    """From the packaged weights: stage one leaves the backbone as it was, batch norm too; stage two moves it."""
    common = ["--data-dir", str(images), "--img-size", "64", "-b", "4", "--epochs", "2", "--warmup-epochs", "0"]
    common += ["--device", "cpu", "-j", "0", "--no-prefetcher", "--lr", "0.01", "--output", str(tmp_path)]
    model = "test_resnet_svdpade"
    head = [*common, "--model", model, "--pretrained", "--train-only", "head", "--no-hybrid", "--experiment", "head"]
    assert main(head) == 0
    packaged = timm.create_model(model, pretrained=True, num_classes=3).state_dict()
    first = timm.create_model(f"local-dir:{tmp_path}/head/model", pretrained=True).state_dict()
    changed = _changed(packaged, first)
    assert {name.partition(".")[0] for name in changed} == {"global_pool", "fc"}
    assert "global_pool.reduce.norm.running_mean" in changed

    folder = f"local-dir:{tmp_path}/head/model"
    assert main([*common, "--model", folder, "--no-hybrid", "--experiment", "all"]) == 0
    second = timm.create_model(f"local-dir:{tmp_path}/all/model", pretrained=True).state_dict()
    assert "conv1.0.weight" in _changed(first, second)


def test_random_weights_are_not_frozen(images, tmp_path):
    given = ["--data-dir", str(images), "--img-size", "64", "-b", "4", "--device", "cpu", "--output", str(tmp_path)]
    with pytest.raises(GCPError, match="add --pretrained"):
        main([*given, "--model", "test_resnet_svdpade", "--train-only", "head"])
