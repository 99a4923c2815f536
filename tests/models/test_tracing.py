"""What works on a plain timm backbone without values works on a grafted one: the meta device and torch.fx."""

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from torchvision.models.feature_extraction import create_feature_extractor

import timm_gcp
from timm_gcp import METHODS
from timm_gcp.pooling import find_pools

TRACEABLE = ("test_resnet", "test_efficientnet", "alexnet", "convnext_tiny")  # their plain networks trace


@pytest.mark.parametrize("method", METHODS)
def test_forward_and_backward_on_the_meta_device(method):
    with torch.device("meta"):
        model = timm.create_model(f"test_resnet_{method}", num_classes=3)
        images = torch.zeros(2, 3, 64, 64)
    logits = model(images)
    assert logits.is_meta
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert all(parameter.grad.is_meta for parameter in model.parameters())


def test_a_meta_model_takes_weights():
    model = timm.create_model("test_resnet_svdpade", num_classes=3).eval()
    with torch.device("meta"):
        other = timm.create_model("test_resnet_svdpade", num_classes=3).eval()
    other.load_state_dict(model.state_dict(), assign=True)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(other(image), model(image))


@pytest.mark.parametrize("backbone", TRACEABLE)
def test_symbolic_trace_keeps_the_pool_as_one_module(backbone):
    model = timm_gcp.graft(timm.create_model(backbone, num_classes=3), "polar").eval()
    image = torch.randn(1, *resolve_model_data_config(model)["input_size"])
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(image), model(image))
    (pool,) = find_pools(traced)
    pool.method = "isqrt"  # the graph runs the module, so a switch reaches it
    assert find_pools(model)[0].method == "isqrt"
    assert torch.equal(traced(image), model(image))


def test_torchvision_extracts_the_pooled_vector():
    model = timm.create_model("test_resnet_svdpade", num_classes=3).eval()
    extractor = create_feature_extractor(model, {"layer4": "map", "global_pool": "vector", "fc": "logits"})
    image = torch.randn(2, 3, 64, 64)
    found = extractor(image)
    assert torch.equal(found["vector"], model.global_pool(found["map"]))
    assert torch.equal(found["logits"], model(image))
