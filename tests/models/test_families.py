"""What timm asks of its models, of every registered backbone and every kind of head.

timm's own ``tests/test_models.py`` asks the same; it is run with ``pytest -p timm_gcp`` (see the README).
"""

import copy
import json
import os
import pickle
import subprocess
import sys
import warnings

import pytest
import safetensors.torch
import timm
import torch
from timm.data import resolve_model_data_config
from timm.layers import get_channel_dim, get_spatial_dim
from timm.models import FeatureInfo
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import timm_gcp
from tests.support.fx import tracer_of
from tests.support.tools import COMMON, slow_but, timm_gcp_command
from timm_gcp import METHODS, GCPError, graft
from timm_gcp.models import BACKBONES
from timm_gcp.models.folder import save_folder
from timm_gcp.models.mixin import GCPMixin

JUDGED = ("svdpade", "isqrt", "polar")
FIXED = {"swin_tiny_patch4_window7_224", "vit_small_patch16_224", "vit_base_patch16_224"}
# Built with weights; all others on the meta device only, but for those in ``test_modern_backbones``.
NETWORKS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "seresnet50", "wide_resnet50_2"),
    *("resnetv2_50", "resnest50d", "resnet10t", "test_resnet", "alexnet", "vgg16_bn", "densenet121", "densenet201"),
    *("inception_v3", "regnety_016", "efficientnet_b0", "mobilenetv3_large_100", "repvgg_a0", "convnext_tiny"),
    *("convnextv2_tiny", "swin_tiny_patch4_window7_224", "vit_small_patch16_224", "vit_base_patch16_224"),
)
# One of each kind of head, the smallest that there is; timm's test models and ours.
KINDS = {
    "test_resnet": "fc",
    "test_vit": "head",
    "test_convnext": "head.fc",
    "test_convnext2": "head.fc",
    "test_efficientnet": "classifier",
    "test_byobnet": "head.fc",
    "mobilenetv3_small_050": "classifier",
    "resnetv2_18": "head.fc",
    "densenet121": "classifier",
    "vgg11_bn": "head.fc",
    "alexnet": "head",
    "swin_tiny_patch4_window7_224": "head.fc",
}
HEAVY = {"vgg11_bn", "swin_tiny_patch4_window7_224", "densenet121"}
QUICK = KINDS.keys() - HEAVY
for _name in KINDS:
    if not timm.is_model(f"{_name}_polar"):
        timm_gcp.register_backbone(_name)


def batch_of(size, channels=3, batch=2):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(5))


def small(name, **kwargs):
    """A model of few parameters and small images, where the family allows another size than its own."""
    sized = dict(img_size=64) if any(part in name for part in ("vit", "swin")) else {}
    model = timm.create_model(name, **{**dict(num_classes=5, reduce=8), **sized, **kwargs}).eval()
    side = 96 if "inception" in name else 64
    return model, batch_of((side, side))


def weightless(backbone):
    """The meta device, but for what torch 2.6 cannot build there."""
    return "cpu" if "regnet" in backbone else "meta"


def layout_of(net):
    given = getattr(net, "output_fmt", "NCHW")
    return str(getattr(given, "value", given))


@pytest.mark.parametrize("backbone", slow_but(QUICK, BACKBONES))
def test_default_cfg(backbone):
    """On the meta device: nothing is computed, so all methods and the true size cost little."""
    with torch.device(weightless(backbone)):
        model = timm.create_model(f"{backbone}_svdlyap").eval()
        plain = timm.create_model(backbone).eval()
        cfg = model.default_cfg
        features = model.forward_features(torch.zeros(2, *cfg["input_size"]))
    assert not any(cfg.get(key) for key in ("url", "hf_hub_id", "file"))
    assert cfg["input_size"] == plain.default_cfg["input_size"]
    assert resolve_model_data_config(model) == resolve_model_data_config(plain)
    assert model.num_features == plain.num_features
    assert model.num_classes == 1000
    layout = model.gcp_head.input_fmt
    if layout == "NLC":
        assert features.shape[-1] == model.num_features
    else:
        assert features.shape[get_channel_dim(layout)] == model.num_features
        assert tuple(features.shape[d] for d in get_spatial_dim(layout)) == cfg["pool_size"]
    # The classifier keeps the backbone's own name; the backbone keeps every name, shape and only its head changes.
    assert model.get_classifier(name_only=True) == cfg["classifier"] == plain.default_cfg["classifier"]
    state, before = model.state_dict(), plain.state_dict()
    assert f"{cfg['classifier']}.weight" in state
    convs = cfg["first_conv"] if isinstance(cfg["first_conv"], (tuple, list)) else (cfg["first_conv"],)
    assert all(f"{conv}.weight" in state for conv in convs)
    fresh = ("global_pool.", "pre_logits.", f"{cfg['classifier']}.")
    kept = {k: v.shape for k, v in state.items() if not k.startswith(fresh)}
    assert kept == {k: before[k].shape for k in kept}
    replaced = tuple(f"{path}." for path in (*model.gcp_head.replaced, model.gcp_head.container) if path)
    assert all(k.startswith((*fresh, *replaced)) for k in before.keys() - state.keys())


@pytest.mark.parametrize("backbone", slow_but(QUICK, NETWORKS))
def test_forward_and_backward(backbone):
    model, x = small(f"{backbone}_svdpade")
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    with torch.no_grad():
        for method in JUDGED:
            model.global_pool.method = method
            out = model(x)
            assert out.shape == (2, 5)
            assert torch.isfinite(out).all()
            assert torch.allclose(model.forward_head(features), out, atol=1e-5)
    model.train()(x).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name


@pytest.mark.parametrize("method", slow_but({"svdpade"}, JUDGED))
@pytest.mark.parametrize("backbone", slow_but(QUICK, KINDS))
def test_reset_classifier(backbone, method):
    model, x = small(f"{backbone}_{method}")
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    assert model.get_classifier(name_only=True) == KINDS[backbone]
    assert torch.allclose(model.get_classifier()(pooled), model(x), atol=1e-6)
    model.reset_classifier(9)
    assert (model.num_classes, model(x).shape) == (9, (2, 9))
    model.reset_classifier(0)
    assert torch.allclose(model(x), pooled, atol=1e-6)
    model.reset_classifier(0, "")
    assert model(x).shape == model.forward_features(x).shape
    bare, x = small(f"{backbone}_{method}", num_classes=0, global_pool="")
    assert bare(x).shape == bare.forward_features(x).shape


@pytest.mark.parametrize("backbone", slow_but(QUICK, NETWORKS))
def test_features(backbone):
    arguments = dict(img_size=64) if backbone in FIXED else {}
    with torch.device(weightless(backbone)):
        model = timm.create_model(f"{backbone}_isqrt", features_only=True, **arguments).eval()
        plain = timm.create_model(backbone, features_only=True, **arguments).eval()
        maps = model(torch.zeros(1, 3, 96, 96) if not arguments else torch.zeros(1, 3, 64, 64))
    assert type(model) is type(plain)
    assert model.feature_info.channels() == plain.feature_info.channels()
    assert len(maps) == len(model.feature_info.channels()) >= 3
    side = 64 if arguments else 96
    layout = layout_of(model)
    for map_, channels, reduction in zip(
        maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert map_.shape[get_channel_dim(layout)] == channels
        assert all(map_.shape[d] <= -(-side // reduction) + 1 for d in get_spatial_dim(layout))


@pytest.mark.parametrize("backbone", slow_but(QUICK, KINDS))
def test_features_hold_the_models_own_weights(backbone, tmp_path):
    model, x = small(f"{backbone}_polar")
    torch.save(model.state_dict(), tmp_path / "ours.pth")
    overlay = dict(file=str(tmp_path / "ours.pth"), num_classes=5)
    net, _ = small(
        f"{backbone}_polar", num_classes=5, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay
    )
    last = net.eval()(x)[-1]
    layout = layout_of(net)
    if layout == "NHWC":
        last = last.permute(0, 3, 1, 2)
    if hasattr(model, "forward_intermediates"):
        expected = model.forward_intermediates(x, intermediates_only=True)[net.feature_info.out_indices[-1]]
    else:
        expected = model.forward_features(x)
    assert torch.allclose(last, expected, atol=1e-5)


@pytest.mark.parametrize(
    "backbone", slow_but(QUICK, ["vgg11_bn", "mobilenetv3_small_050", "test_convnext", "test_resnet"])
)
def test_features_by_the_getter_leave_the_head_out(backbone, tmp_path):
    model, x = small(f"{backbone}_polar")
    torch.save(model.state_dict(), tmp_path / "ours.pth")
    own = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / "ours.pth"), num_classes=5))
    net, _ = small(f"{backbone}_polar", features_only=True, feature_cls="getter", **own)
    expected = model.forward_intermediates(x, intermediates_only=True)
    for map_, k in zip(net.eval()(x), net.feature_info.out_indices, strict=True):
        assert torch.allclose(map_, expected[k], atol=1e-5)


@pytest.mark.parametrize("backbone", slow_but(QUICK, KINDS))
def test_forward_intermediates(backbone):
    model, x = small(f"{backbone}_polar")
    if not hasattr(timm.create_model(backbone), "forward_intermediates"):
        with pytest.raises(AttributeError):
            model.forward_intermediates(x)
        return
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    out, intermediates = model.forward_intermediates(x)
    for map_, channels, reduction in zip(intermediates, info.channels(), info.reduction(), strict=True):
        assert map_.shape[1] == channels
        assert map_.shape[2] <= -(-64 // reduction) + 1
    assert torch.allclose(out, model.forward_features(x), atol=1e-5)


@pytest.mark.parametrize("backbone", slow_but(QUICK, KINDS))
def test_fx(backbone):
    model, x = small(f"{backbone}_svdpade")
    tracer = tracer_of(backbone)
    _, nodes = get_graph_node_names(model, tracer_kwargs=tracer)
    assert "global_pool" in nodes
    extractor = create_feature_extractor(model, ["global_pool", nodes[-1]], tracer_kwargs=tracer).eval()
    pooled, out = extractor(x).values()
    assert pooled.shape == (2, model.global_pool.out_features)
    assert torch.allclose(out, model(x), atol=1e-5)
    extractor(x)[nodes[-1]].sum().backward()


@pytest.mark.parametrize("backbone", slow_but(QUICK, KINDS))
def test_copies_pickle_and_folder(backbone, tmp_path):
    model, x = small(f"{backbone}_polar")
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), ModelEmaV3(model).module):
        assert torch.equal(other.eval()(x), expected)
        assert type(other) is type(model)
        assert isinstance(other, GCPMixin)
    folder = save_folder(model, tmp_path / "m")
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(again(x), expected)
    entry = timm.models.model_entrypoint(f"{backbone}_polar")
    assert pickle.loads(pickle.dumps(entry)) is entry


@pytest.mark.slow
@pytest.mark.parametrize("backbone", slow_but(QUICK, KINDS))
def test_amp_channels_last_and_checkpointing(backbone):
    model, x = small(f"{backbone}_svdpade")
    expected = model(x)
    with torch.no_grad():
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        assert torch.allclose(last(x.to(memory_format=torch.channels_last)), expected, atol=1e-3)
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype=dtype):
                out = model(x)
            assert torch.isfinite(out).all()
    trained = copy.deepcopy(model).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained(x).float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in trained.parameters())
    try:
        model.set_grad_checkpointing()
    except AssertionError:
        assert backbone in ("vgg11_bn", "mobilenetv3_small_050") or "densenet" in backbone
        return
    assert model.global_pool.grad_checkpointing
    assert torch.allclose(model(x), expected, atol=1e-5)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("backbone", slow_but(QUICK, KINDS))
def test_layer_decay(backbone):
    model, _ = small(f"{backbone}_svdpade")
    groups = create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=1e-4, layer_decay=0.7).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    highest = max(group["lr_scale"] for group in groups)
    head = {id(p) for p in (*model.get_classifier().parameters(), *model.global_pool.parameters())}
    assert all(group["lr_scale"] == highest for group in groups if any(id(p) in head for p in group["params"]))


@pytest.mark.parametrize("backbone", slow_but(QUICK, ["test_vit", "test_convnext", "vgg11_bn"]))
def test_distributed_data_parallel(backbone, tmp_path):
    model, x = small(f"{backbone}_isqrt")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(model.train())
        parallel(x).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "backbone", slow_but({"test_vit"}, ["test_vit", "test_convnext", "test_efficientnet", "vgg11_bn"])
)
@pytest.mark.slow
def test_trace_export_and_compile(backbone):
    model, x = small(f"{backbone}_isqrt")
    expected = model(x)
    assert torch.allclose(torch.jit.trace(model, x, check_trace=False)(x), expected, atol=1e-5)
    assert torch.allclose(torch.export.export(model, (x,)).module()(x), expected, atol=1e-5)
    torch._dynamo.reset()
    assert torch.allclose(torch.compile(model, backend="eager", fullgraph=True)(x), expected, atol=1e-5)


def test_norm_of_the_head_comes_before_the_pool_with_its_weights():
    plain = timm.create_model("test_convnext", num_classes=5)
    norm = plain.head.norm
    torch.nn.init.uniform_(norm.weight)
    model = graft(plain, "polar", reduce=0).eval()
    assert model.head.norm is norm
    x = batch_of((64, 64))
    features = model.forward_features(x)
    assert torch.equal(model.forward_head(features, pre_logits=True), model.global_pool(norm(features)))


def test_tokens_of_a_vit_are_pooled_without_the_prefix():
    model, x = small("test_vit_polar", reduce=0)
    tokens = model.forward_features(x)
    assert model.num_prefix_tokens == 1
    sigma = timm_gcp.pool_features(tokens[:, 1:].mT, "polar")
    assert torch.allclose(model.forward_head(tokens, pre_logits=True), sigma, atol=1e-6)
    # fc_norm of average-pooled ViTs is a norm over the tokens, and comes first.
    averaged = timm.create_model("test_vit4", num_classes=5)
    norm = averaged.fc_norm
    assert graft(averaged).gcp_head.norm == "fc_norm"
    assert averaged.fc_norm is norm
    # An attention pool is a pooling, and goes.
    attention = timm.create_model("test_vit3", num_classes=5)
    graft(attention)
    assert not any("attn_pool" in name for name, _ in attention.named_parameters())


def test_channels_last_maps_of_swin():
    model, x = small("swin_tiny_patch4_window7_224_polar", reduce=0)
    features = model.forward_features(x)
    assert features.shape == (2, 2, 2, 768)
    sigma = timm_gcp.pool_features(features.flatten(1, 2).mT, "polar")
    assert torch.allclose(model.forward_head(features, pre_logits=True), sigma, atol=1e-6)


@pytest.mark.slow
def test_layers_after_the_pooling_go_or_stay_on_purpose():
    mobile, _ = small("mobilenetv3_small_050_polar")
    assert isinstance(mobile.conv_head, torch.nn.Identity)
    vgg, x = small("vgg11_bn_polar")
    assert (vgg.pre_logits.fc1.in_features, vgg.pre_logits.fc1.out_features) == (36, 4096)
    assert vgg.forward_head(vgg.forward_features(x), pre_logits=True).shape == (2, 4096)
    assert vgg.forward_features(x).shape[-2:] == (4, 4)  # the published one ends before the last pooling
    assert small("vgg11_bn_polar", last_stride=2)[0].forward_features(x).shape[-2:] == (2, 2)


@pytest.mark.parametrize(
    "name",
    slow_but(
        {"resnet10t", "resnetv2_18d"}, ["resnest14d", "resnetblur18", "res2net50_26w_4s", "resnetv2_18d", "resnet10t"]
    ),
)
def test_last_stride_of_every_kind_of_downsampling(name):
    for stride, side in ((1, 4), (2, 2), (None, 4)):
        model = graft(timm.create_model(name, num_classes=5), "isqrt", reduce=8, last_stride=stride).eval()
        assert model(batch_of((64, 64))).shape == (2, 5)
        assert model.forward_features(batch_of((64, 64))).shape[-2:] == (side, side)
        assert model.feature_info[-1]["reduction"] == 64 // side
        assert all(m.dilation == (1, 1) for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    dilated = graft(timm.create_model("test_resnet", output_stride=8), "isqrt")  # left as it is
    assert dilated.feature_info[-1]["reduction"] == 8
    with pytest.raises(GCPError, match="none of them"):
        graft(timm.create_model("test_convnext"), last_stride=1)
    with pytest.raises(GCPError, match="leave it out"):
        timm.create_model("test_convnext_polar", features_only=True, last_stride=1)


def test_alexnet():
    plain = timm.create_model("alexnet", num_classes=5).eval()
    assert plain(batch_of((64, 64))).shape == (2, 5)
    assert plain.forward_features(batch_of((224, 224), batch=1)).shape == (1, 256, 13, 13)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules())
    with torch.device("meta"):
        model = timm.create_model("alexnet_isqrt", batch_norm=False)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    assert model.pre_logits.fc1.in_features == 256 * 257 // 2  # all its channels, as published
    assert not list(model.global_pool.parameters())


def test_register_backbone():
    for _ in range(2):  # again, it changes nothing, and timm does not warn of names that are overwritten
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            names = timm_gcp.register_backbone("mobilevitv2_100")
        assert names == [f"mobilevitv2_100_{method}" for method in (*METHODS, "mp")]
    with torch.device("meta"):
        model = timm.create_model("mobilevitv2_100_svdpade")
    assert model.head_hidden_size == 256 * 257 // 2
    assert set(timm.list_models("mobilevitv2_1*_polar", module="mobilevit")) == {"mobilevitv2_100_polar"}
    assert timm.list_models("mobilevitv2_100_polar.*", pretrained=True) == [
        "mobilevitv2_100_polar.init",
        "mobilevitv2_100_polar.init-cvnets_in1k",
    ]
    assert "vit_small_patch16_224_svdpade.init" in timm.list_models("vit_small*_svdpade*", pretrained=True)
    with pytest.raises(GCPError, match="did you mean"):
        timm_gcp.register_backbone("resnet26q")
    with pytest.raises(GCPError, match="already"):
        timm_gcp.register_backbone("resnet50_polar")
    with pytest.raises(GCPError, match=r"leave the tag out; it goes after the method: resnet10t_isqrt.init-c3_in1k\."):
        timm_gcp.register_backbone("resnet10t.c3_in1k")
    with pytest.raises(GCPError, match="already"):
        timm_gcp.register_backbone("resnet50_polar.init")
    assert not any(name.startswith("resnet10t.") for name in timm.list_models())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("deit_tiny_distilled_patch16_224", "2 classifiers"),
        ("efficientvit_b0", "on the whole map"),
        ("pit_ti_224", "class tokens alone"),
        ("coat_mini", "a list"),
        ("naflexvit_base_patch16_gap", "dictionary"),
        ("crossvit_9_240", "2 classifiers"),
        ("mobilenetv5_300m_enc", "lacks get_classifier"),
    ],
)
def test_a_family_that_cannot_work_says_why(name, why):
    with pytest.raises(GCPError, match=why):
        timm_gcp.register_backbone(name)
    assert not timm.is_model(f"{name}_polar")


@pytest.mark.parametrize(
    "backbone", slow_but({"test_resnet"}, ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
)
@pytest.mark.slow
def test_the_init_tag_is_the_plain_backbone_under_a_fresh_head(backbone, tmp_path):
    """As after timm's own download, without a network: the Hub's cache layout."""
    plain = timm.create_model(backbone)
    source = timm.models.get_pretrained_cfg(f"{backbone}_svdpade.init").hf_hub_id
    assert source == f"timm/{backbone}.r160_in1k"
    repo = tmp_path / f"models--{source.replace('/', '--')}"
    (repo / "snapshots" / "0123abc").mkdir(parents=True)
    safetensors.torch.save_file(plain.state_dict(), repo / "snapshots" / "0123abc" / "model.safetensors")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123abc")
    first = plain.default_cfg["first_conv"]
    sized = ", {'img_size': 96}" if backbone == "test_vit" else ""
    code = (
        "import timm, timm_gcp, torch\n"
        f"timm_gcp.register_backbone('{backbone}')\n"
        f"for kwargs in ({{}}, {{'num_classes': 5}}, {{'in_chans': 1}}, {{'features_only': True}}{sized}):\n"
        f"    m = timm.create_model('{backbone}_svdpade.init', pretrained=True, **kwargs)\n"
        f"    key = next(k for k in m.state_dict() if k.replace('model.', '').replace('_', '.') == "
        f"'{first}.weight'.replace('_', '.'))\n"
        "    print(float(m.state_dict()[key].double().sum()))\n"
    )
    offline = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    printed = subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True, env=offline).split()
    expected = float(plain.get_submodule(first).weight.double().sum())
    assert [float(value) for value in printed] == pytest.approx([expected] * len(printed), rel=1e-6)


def test_a_vit_of_another_image_size_comes_back(tmp_path):
    model, _ = small("test_vit_polar")
    folder = save_folder(model, tmp_path / "m")
    other = timm.create_model(f"local-dir:{folder}", pretrained=True, img_size=96).eval()
    assert other(batch_of((96, 96))).shape == (2, 5)
    assert torch.equal(other.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_transformers_loads_a_folder(backbone, tmp_path):
    model, x = small(f"{backbone}_polar", num_classes=3)
    folder = save_folder(model, tmp_path / "m", class_names=["ash", "birch", "cedar"])
    from transformers import AutoModelForImageClassification  # slow to import

    wrapped = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert torch.allclose(wrapped(x).logits, model(x), atol=1e-5)
    assert wrapped.config.id2label[1] == "birch"


@pytest.mark.slow
def test_importing_registers_without_building(tmp_path):
    """`import timm_gcp` builds no model and reads no heavy package."""
    code = (
        "import timm, sys, torch\n"
        "assert not {'rich', 'matplotlib'} & sys.modules.keys()\n"
        "built = []\n"
        "init = torch.nn.Linear.__init__\n"
        "torch.nn.Linear.__init__ = lambda self, *a, **k: built.append(self) or init(self, *a, **k)\n"
        "import timm_gcp\n"
        "heavy = [m for m in ('matplotlib', 'onnx', 'onnxruntime', 'transformers', 'rich') if m in sys.modules]\n"
        "print(len(built), heavy)\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "0 []"


@pytest.mark.slow
def test_a_vit_trains_at_another_size_from_the_command_line(images, tmp_path):
    """A backbone that the package does not register by itself, and weights that depend on the size of the images."""
    done = timm_gcp_command(
        "train", "--data-dir", images, "--model", "test_vit_svdpade", *COMMON, "--output", tmp_path, "--experiment", "r"
    )
    assert done.returncode == 0, done.stderr
    top1 = json.loads((tmp_path / "r" / "result.json").read_text())["top1"]
    config = json.loads((tmp_path / "r" / "model" / "config.json").read_text())
    assert config["model_args"]["img_size"] == [64, 64]
    assert 'timm_gcp.register_backbone("test_vit")' in (tmp_path / "r" / "model" / "README.md").read_text()
    for source in (("--model", tmp_path / "r" / "model"), ("--checkpoint", tmp_path / "r" / "model_best.pth.tar")):
        results = tmp_path / "out.json"
        done = timm_gcp_command("validate", *source, "--data-dir", images, "--device", "cpu", "--results-file", results)
        assert done.returncode == 0, done.stderr
        assert json.loads(results.read_text())["top1"] == pytest.approx(top1, abs=1e-3)
