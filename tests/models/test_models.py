"""timm's contracts, for every registered backbone with every method (the heavy ones on the meta device)."""

import copy
import json
import pickle
import subprocess
import sys

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

from timm_gcp import METHODS, GCPError, graft
from timm_gcp.models import BACKBONES
from timm_gcp.models.stride import set_last_stride

SMALL = [f"test_resnet_{method}" for method in METHODS]
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def small(name="test_resnet_svdpade", **kwargs):
    return timm.create_model(name, num_classes=5, **kwargs).eval()


def test_every_backbone_is_registered_with_every_method():
    for backbone in BACKBONES:
        for method in METHODS:
            assert timm.is_model(f"{backbone}_{method}")
    assert set(timm.list_models("*_isqrt")) >= {"resnet50_isqrt", "resnet101_isqrt"}


@pytest.mark.parametrize("backbone", ["resnet50", "wide_resnet50_2", "vit_small_patch16_224", "densenet201"])
def test_backbones_build_with_the_published_head(backbone):
    with torch.device("meta"):
        model = timm.create_model(f"{backbone}_svdpade")
    assert model.global_pool.channels == 256
    assert model.head_hidden_size == 256 * 257 // 2 == model.get_classifier().in_features


@pytest.mark.parametrize("name", SMALL)
def test_forward_contract(name):
    model = small(name)
    features = model.forward_features(IMAGES)
    assert features.shape == (2, model.num_features, 4, 4)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    assert torch.equal(model.forward_head(features), model(IMAGES))
    assert torch.equal(model.get_classifier()(pooled), model(IMAGES))
    assert model.get_classifier() is model.fc
    assert model.default_cfg["architecture"] == name


@pytest.mark.parametrize("name", SMALL)
def test_backward_reaches_every_parameter(name):
    model = small(name).train()
    model(IMAGES).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_reset_classifier():
    model = small()
    model.reset_classifier(9)
    assert (model.num_classes, model(IMAGES).shape) == (9, (2, 9))
    model.reset_classifier(0)
    assert model(IMAGES).shape == (2, model.head_hidden_size)
    model.reset_classifier(4, "polar")
    assert (model.global_pool.method, model(IMAGES).shape) == ("polar", (2, 4))
    with pytest.raises(GCPError, match="avg"):
        model.reset_classifier(4, "avg")
    model.reset_classifier(0, "")
    assert model(IMAGES).shape == (2, model.num_features, 4, 4)
    for kwargs, shape in ((dict(num_classes=0), (2, 2080)), (dict(num_classes=0, global_pool=""), (2, 96, 4, 4))):
        assert timm.create_model("test_resnet_isqrt", **kwargs).eval()(IMAGES).shape == shape


def test_the_pools_of_timm_are_refused_by_name():
    for create in (
        lambda: timm.create_model("test_resnet_isqrt", global_pool="avg"),
        lambda: small("test_resnet_isqrt").reset_classifier(3, "catavgmax"),
    ):
        with pytest.raises(GCPError, match="create test_resnet, or give the name of a method"):
            create()


def test_a_vit_without_a_class_token():
    model = timm.create_model("test_vit_isqrt", class_token=False, num_classes=3).eval()
    assert model.num_prefix_tokens == 0
    assert model(torch.randn(2, *model.pretrained_cfg["input_size"])).shape == (2, 3)
    with pytest.raises(GCPError, match="needs a class token"):
        timm.create_model("test_vit_isqrt", class_token=False, first_order="class")


def test_head_options():
    assert small(reduce=32).head_hidden_size == 32 * 33 // 2
    bare = small(reduce=0)
    assert bare.head_hidden_size == 96 * 97 // 2
    assert not list(bare.global_pool.parameters())
    assert small(last_stride=2).forward_features(IMAGES).shape[-2:] == (2, 2)
    assert small("test_resnet_isqrt", method_args={"iterations": 3}).global_pool.method_args == {"iterations": 3}
    assert small(spectral_dtype="float32").global_pool.dtype == torch.float32
    for kwargs, message in (
        (dict(reduce=97), "97"),
        (dict(last_stride=3), "1 or 2"),
        (dict(spectral_dtype="half"), "float64"),
        (dict(method_args={"degree": 3}), "degree"),
    ):
        with pytest.raises(GCPError, match=message):
            small(**kwargs)


def test_the_rest_of_timms_arguments():
    assert small(in_chans=1)(IMAGES[:, :1]).shape == (2, 5)
    dropped = small(drop_rate=0.5).train()
    assert not torch.equal(dropped(IMAGES), dropped(IMAGES))
    features = timm.create_model("test_resnet_svdpade", features_only=True, out_indices=(2, 4))
    assert [f.shape[1] for f in features(IMAGES)] == features.feature_info.channels() == [48, 96]
    assert features.feature_info.reduction() == [8, 16]
    last, intermediates = small().forward_intermediates(IMAGES)
    assert torch.equal(intermediates[-1], last)
    assert resolve_data_config({}, model=small("test_resnet_svdlyap"))["input_size"] == (3, 160, 160)


def test_grad_checkpointing_changes_nothing():
    model = small()
    other = copy.deepcopy(model)
    other.set_grad_checkpointing()
    for each in (model, other):
        each.train()(IMAGES).square().sum().backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=1e-6)


def test_parameter_groups():
    model = small()
    assert model.group_matcher() == timm.create_model("test_resnet").group_matcher()
    plain = timm.create_model("test_resnet")
    assert getattr(model, "no_weight_decay", set)() == getattr(plain, "no_weight_decay", set)()
    groups = create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=1e-4, layer_decay=0.7).param_groups
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    head = next(g for g in groups if any(p is model.fc.weight for p in g["params"]))
    assert head["lr_scale"] == max(g["lr_scale"] for g in groups)


def test_a_plain_state_dict_loads_with_only_the_head_missing():
    plain = timm.create_model("test_resnet", num_classes=5)
    model = small()
    backbone = {k: v for k, v in plain.state_dict().items() if not k.startswith("fc.")}
    missing, unexpected = model.load_state_dict(backbone, strict=False)
    assert all(key.startswith(("global_pool.", "fc.")) for key in missing)
    assert not unexpected


def test_a_plain_checkpoint_through_timm(tmp_path):
    plain = timm.create_model("test_resnet", num_classes=5)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    model = small(pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / "plain.pth"), num_classes=5))
    assert torch.equal(model.layer4[0].conv1.weight, plain.layer4[0].conv1.weight)
    # A checkpoint of our own comes back whole, also with another method and another number of classes.
    torch.save(model.state_dict(), tmp_path / "ours.pth")
    overlay = dict(file=str(tmp_path / "ours.pth"), num_classes=5)
    again = small("test_resnet_polar", pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(again.fc.weight, model.fc.weight)
    other = timm.create_model("test_resnet_polar", True, num_classes=7, pretrained_cfg_overlay=overlay)
    assert torch.equal(other.global_pool.reduce.conv.weight, model.global_pool.reduce.conv.weight)


def test_pretrained_alone_never_gives_a_random_classifier():
    with pytest.raises(GCPError, match=r"resnet34_svdpade\.init"):
        timm.create_model("resnet34_svdpade", pretrained=True)
    assert "resnet50_svdpade.init" in timm.list_models("resnet50*", pretrained=True)
    cfg = timm.models.get_pretrained_cfg("resnet50_svdpade.init")
    assert cfg.hf_hub_id.startswith("timm/resnet50")


@pytest.mark.parametrize("name", SMALL)
def test_copies(name):
    model = small(name)
    expected = model(IMAGES)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), ModelEmaV3(model).module):
        assert torch.equal(other.eval()(IMAGES), expected)
        assert type(other) is type(model)
        assert isinstance(other, timm.models.ResNet)


@pytest.mark.slow
def test_pickle_opens_in_a_new_process(tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(small()))
    code = f"import pickle; m = pickle.load(open({str(tmp_path / 'model.pkl')!r}, 'rb')); print(type(m).__name__)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "ResNetGCP"


def test_saved_folder_is_timms_own_format(tmp_path):
    model = small("test_resnet_isqrt", last_stride=2)
    timm.models.save_for_hf(model, tmp_path / "m", model_args=dict(model.gcp_args), safe_serialization=True)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["architecture"] == "test_resnet_isqrt"
    again = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    assert torch.equal(again(IMAGES), model(IMAGES))


@pytest.mark.slow
def test_compile_and_trace():
    model = small("test_resnet_isqrt")
    traced = torch.jit.trace(model, IMAGES)
    assert torch.allclose(traced(IMAGES), model(IMAGES), atol=1e-5)
    compiled = torch.compile(model, backend="eager")
    assert torch.allclose(compiled(IMAGES), model(IMAGES), atol=1e-5)
    model.global_pool.method = "polar"
    assert torch.allclose(compiled(IMAGES), model(IMAGES), atol=1e-5)  # a switch reaches the compiled model


def test_graft_on_a_users_own_model():
    model = timm.create_model("resnet10t", num_classes=4).eval()
    weights = model.layer1[0].conv1.weight
    out = graft(model, "polar", reduce=32, last_stride=2)
    assert out is model
    assert model.layer1[0].conv1.weight is weights
    assert model(IMAGES).shape == (2, 4)
    with pytest.raises(GCPError, match="already"):
        graft(model)
    with pytest.raises(GCPError, match="forward_features"):
        graft(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    with pytest.raises(GCPError, match="output stride 32"):
        graft(timm.create_model("test_resnet", output_stride=8), last_stride=1)


def test_stride_of_a_plain_backbone_is_undilated():
    model = timm.create_model("test_resnet", num_classes=5).eval()
    set_last_stride(model, 1)
    assert model.forward_features(IMAGES).shape[-2:] == (4, 4)
    assert all(m.dilation == (1, 1) for m in model.layer4.modules() if isinstance(m, torch.nn.Conv2d))
