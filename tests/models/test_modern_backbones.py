"""One small backbone of each modern family, built with weights: forward, backward, features, torch.fx, folder.

``test_families`` looks at every registered backbone on the meta device.
"""

import pytest
import timm
import torch
from timm.layers import get_channel_dim
from timm.models import FeatureInfo
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from tests.support.fx import tracer_of
from timm_gcp import GCPError
from timm_gcp.models.folder import save_folder
from timm_gcp.models.named import create_model
from timm_gcp.weights.file import load_weights

METHODS = ("svdpade", "isqrt", "polar")
# The smallest images that the family takes, and arguments for a backbone that is built for one size or is deep.
SIZED = {"img_size": 64}
SMALL = {
    "vit_small_patch14_reg4_dinov2": (56, {"img_size": 56, "depth": 3}),
    "vit_tiny_patch16_dinov3_qkvb": (64, {"depth": 3}),
    "vit_base_patch32_clip_224": (96, {"img_size": 96, "depth": 3}),
    "vit_base_patch16_clip_quickgelu_224": (64, {**SIZED, "depth": 3}),
    "vit_base_patch16_siglip_224": (64, {**SIZED, "depth": 3}),
    "vit_pe_core_tiny_patch16_384": (64, {**SIZED, "depth": 3}),
    "eva02_tiny_patch14_224": (56, {"img_size": 56, "depth": 3}),
    "beitv2_base_patch16_224": (64, {**SIZED, "depth": 3}),
    "deit3_small_patch16_224": (64, {**SIZED, "depth": 3}),
    "vit_medium_patch16_reg4_gap_256": (64, {**SIZED, "depth": 3}),
    "hiera_tiny_224": (128, {"img_size": 128}),
    "swinv2_tiny_window8_256": (64, SIZED),
    "davit_tiny": (64, {}),
    "mvitv2_tiny": (64, SIZED),
    "pvt_v2_b2": (64, {}),
    "convnextv2_atto": (64, {}),
    "efficientnet_lite0": (64, {}),
    "tf_efficientnetv2_b0": (64, {}),
    "mobilenetv3_small_100": (64, {}),
    "mobilenetv4_conv_small": (64, {}),
    "mobilenetv4_hybrid_medium": (64, {}),
    "mobileone_s1": (64, {}),
    "hgnetv2_b0": (64, {}),
    "resnetv2_50x1_bit": (64, {}),
    "resnet50_clip_gap": (64, {}),
    "fastvit_t8": (64, {}),
    "tiny_vit_5m_224": (64, {}),
    "caformer_s18": (64, {}),
    "edgenext_small": (64, {}),
    "coatnet_0_rw_224": (64, SIZED),
    "maxvit_nano_rw_256": (64, SIZED),
}

pytestmark = pytest.mark.slow


def build(backbone, method="svdpade", **arguments):
    side, own = SMALL[backbone]
    model = timm.create_model(f"{backbone}_{method}", num_classes=5, reduce=8, **own, **arguments).eval()
    return model, torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("backbone", SMALL)
def test_forward_and_backward(backbone):
    model, x = build(backbone)
    features = model.forward_features(x)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    with torch.no_grad():
        for method in METHODS:
            model.global_pool.method = method
            out = model(x)
            assert out.shape == (2, 5)
            assert torch.isfinite(out).all()
            assert torch.allclose(model.forward_head(features), out, atol=1e-4)
    model.global_pool.method = "svdpade"
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        # The mask token of a pretraining task takes no part in the forward pass.
        assert parameter.grad is not None or name == "mask_token", name
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("backbone", SMALL)
def test_features(backbone):
    side, own = SMALL[backbone]
    with torch.no_grad():
        model = timm.create_model(f"{backbone}_isqrt", features_only=True, **own).eval()
        plain = timm.create_model(backbone, features_only=True, **own).eval()
        maps = model(torch.zeros(1, 3, side, side))
    assert type(model) is type(plain)
    assert model.feature_info.channels() == plain.feature_info.channels()
    layout = getattr(model, "output_fmt", "NCHW")
    channel = get_channel_dim(str(getattr(layout, "value", layout)))
    assert [each.shape[channel] for each in maps] == model.feature_info.channels()


@torch.no_grad()
@pytest.mark.parametrize("backbone", SMALL)
def test_forward_intermediates(backbone):
    model, x = build(backbone, "polar")
    if not hasattr(timm.create_model(backbone), "forward_intermediates"):
        pytest.skip("timm's own has none")
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    out, maps = model.forward_intermediates(x)
    assert [each.shape[1] for each in maps] == info.channels()
    for map_, reduction in zip(maps, info.reduction(), strict=True):
        assert map_.shape[2] <= -(-x.shape[2] // reduction) + 1
    assert torch.allclose(out, model.forward_features(x), atol=1e-5)


# timm does not trace Hiera; the others are traced as timm's own tests trace them.
@pytest.mark.parametrize("backbone", [name for name in SMALL if not name.startswith("hiera")])
def test_fx(backbone):
    tracer = tracer_of(backbone, **SMALL[backbone][1])
    model, x = build(backbone)
    _, nodes = get_graph_node_names(model, tracer_kwargs=tracer)
    extractor = create_feature_extractor(model, ["global_pool", nodes[-1]], tracer_kwargs=tracer).eval()
    for method in METHODS:
        model.global_pool.method = extractor.global_pool.method = method
        with torch.no_grad():
            pooled, out = extractor(x).values()
            assert pooled.shape == (2, model.global_pool.out_features)
            assert torch.allclose(out, model(x), atol=1e-5)
    extractor(x)[nodes[-1]].square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in extractor.parameters())
    assert extractor.global_pool.reduce.conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("backbone", SMALL)
def test_a_folder_loads_again(backbone, tmp_path):
    model, x = build(backbone, "polar")
    own = {key: value for key, value in SMALL[backbone][1].items() if key != "img_size"}
    folder = save_folder(model, tmp_path / "m", model_args=own)
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_a_saved_layer_that_the_pool_replaces_is_ignored(tmp_path):
    """MobileNetV4's last norm, which took no part, was in saved models once."""
    model, _ = build("mobilenetv4_conv_small")
    norm = timm.create_model("mobilenetv4_conv_small").norm_head.state_dict()
    before = {**model.state_dict(), **{f"norm_head.{key}": value for key, value in norm.items()}}
    model.load_state_dict(before)
    load_weights(model, before, "before")
    torch.nn.Sequential(model).load_state_dict({f"0.{key}": value for key, value in before.items()})
    with pytest.raises(RuntimeError, match="norm_tail"):
        model.load_state_dict({**before, "norm_tail.weight": torch.ones(2)})
    with pytest.raises(GCPError, match="unexpected norm_tail"):
        load_weights(model, {**before, "norm_tail.weight": torch.ones(2)}, "before")


@pytest.mark.parametrize("backbone", ["hiera_tiny_224", "mvitv2_tiny", "coatnet_0_rw_224", "maxvit_nano_rw_256"])
def test_families_that_do_not_tell_their_image_size(backbone, tmp_path):
    side = SMALL[backbone][0]
    model = create_model(f"{backbone}_polar", image_size=(side, side), num_classes=5).eval()
    x = torch.randn(2, 3, side, side)
    folder = save_folder(model, tmp_path / "m")
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
