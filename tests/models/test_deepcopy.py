"""Models that keep results of a forward pass with gradients can be copied, saved and exported."""

import pytest
import timm
import torch
from torch import nn

import timm_gcp
from tests.support.tools import slow_but
from timm_gcp.models.deepcopy import copy_model
from timm_gcp.models.folder import save_folder

KEEPERS = ("tiny_vit_5m_224", "levit_128s", "efficientformer_l1", "efficientvit_m0")  # of attention biases


@pytest.mark.parametrize("name", slow_but({"tiny_vit_5m_224"}, KEEPERS))
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_model_that_keeps_its_attention_biases(name, context):
    model = timm.create_model(name, num_classes=3).eval()
    images = torch.randn(1, 3, 224, 224)
    with context():
        model(images)
    copied = copy_model(model)
    with torch.no_grad():
        assert torch.equal(copied(images), model(images))
        next(copied.parameters()).add_(1.0)
    assert not torch.equal(next(copied.parameters()), next(model.parameters()))


def test_such_a_model_is_saved(tmp_path):
    timm_gcp.register_backbone("tiny_vit_5m_224")
    model = timm.create_model("tiny_vit_5m_224_isqrt", num_classes=3, reduce=16).eval()
    images = torch.randn(1, 3, 224, 224)
    model(images).sum().backward()
    with torch.no_grad():
        expected = model(images)
    save_folder(model, tmp_path / "model")
    again = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.allclose(again(images), expected, atol=1e-4)


def test_tensors_of_a_graph_wherever_they_are_kept():
    model = nn.Linear(2, 2)
    model.kept = model.weight * 2
    model.nested = {"a": [model.weight * 3, (model.weight * 4, 1)]}
    copied = copy_model(model)
    assert torch.equal(copied.kept, model.kept)
    assert torch.equal(copied.nested["a"][1][0], model.nested["a"][1][0])
    assert not copied.kept.requires_grad
    assert copied.kept.data_ptr() != model.kept.data_ptr()
    assert copied.weight.requires_grad
