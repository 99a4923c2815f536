"""A linear reduction and a first-order part beside the triangle, in the pool, in grafted models and in folders."""

import pytest
import timm
import torch

from timm_gcp import GCPError, GlobalCovariancePool, graft, pool_features, register_backbone
from timm_gcp.models.folder import save_folder


@pytest.mark.parametrize("first_order", [None, "mean", "class"])
@pytest.mark.parametrize("reduction", ["conv", "linear"])
def test_output_of_the_pool(reduction, first_order):
    torch.manual_seed(0)
    pool = GlobalCovariancePool(12, "isqrt", 5, reduction=reduction, first_order=first_order).eval()
    x, token = torch.randn(3, 12, 4, 6), torch.randn(3, 12)
    out = pool(x, token) if first_order == "class" else pool(x)
    assert out.shape == (3, pool.out_features)
    triangle = pool_features(pool.reduce(x).flatten(2), "isqrt")
    first = {None: torch.empty(3, 0), "mean": x.mean((2, 3)), "class": token}[first_order]
    assert torch.equal(out, torch.cat([first, triangle], 1))
    assert set(dict(pool.named_parameters())) == {"reduce.conv.weight"} | (
        {"reduce.norm.weight", "reduce.norm.bias"} if reduction == "conv" else set()
    )


def test_a_linear_reduction_commutes_with_the_covariance():
    pool = GlobalCovariancePool(8, "svdlyap", 4, reduction="linear").double()
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    weight = pool.reduce.conv.weight.flatten(1)
    sigma = torch.stack([torch.cov(each, correction=0) for each in x.flatten(2)])
    root = _root(weight @ sigma @ weight.T)
    rows, columns = torch.triu_indices(4, 4)
    assert torch.allclose(pool(x), root[:, rows, columns], atol=1e-10)


def _root(sigma):
    values, vectors = torch.linalg.eigh(sigma)
    return vectors @ torch.diag_embed(values.clamp_min(0).sqrt()) @ vectors.mT


def test_refused():
    with pytest.raises(GCPError, match="Unknown reduction 'pca'; there are conv, linear"):
        GlobalCovariancePool(8, reduction="pca")
    with pytest.raises(GCPError, match="Unknown first_order 'max'"):
        GlobalCovariancePool(8, first_order="max")
    with pytest.raises(GCPError, match="takes the class token"):
        GlobalCovariancePool(8, reduce=None, first_order="class")(torch.randn(1, 8, 3, 3))
    with pytest.raises(GCPError, match="has none; use 'mean'"):
        graft(timm.create_model("test_resnet"), "isqrt", first_order="class")


@pytest.mark.parametrize(
    ("name", "first_order"), [("test_resnet_isqrt", "mean"), ("test_vit_isqrt", "class"), ("test_vit_isqrt", "mean")]
)
def test_a_folder_builds_the_same_head(name, first_order, tmp_path):
    register_backbone(name.rpartition("_")[0])
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, reduce=16, reduction="linear", first_order=first_order).eval()
    save_folder(model, tmp_path / "m", class_names=list("abc"))
    again = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    x = torch.randn(2, *model.pretrained_cfg["input_size"])
    assert torch.equal(model(x), again(x))
    assert (again.global_pool.reduction, again.global_pool.first_order) == ("linear", first_order)
    assert again.get_classifier().in_features == again.num_features + 16 * 17 // 2
