"""The vectors that a probe is fitted to are those that the pool of the model gives."""

import math

import pytest
import timm
import torch

from timm_gcp import GlobalCovariancePool
from timm_gcp.data.open_dataset import open_splits
from timm_gcp.probing.backbone import Backbone
from timm_gcp.probing.directions import Directions
from timm_gcp.probing.features import FeatureArrays, Features
from timm_gcp.probing.fits import covariance_head
from timm_gcp.probing.fold import set_head
from timm_gcp.probing.options import ProbeOptions
from timm_gcp.probing.parts import CPU, CovariancePart
from timm_gcp.probing.probe import fit_head

POOLS = {
    "triangle": {},
    "groups": {"groups": 2},
    "sketch": {"count_sketch": 9},
    "normalized": {"normalize_parts": True},
    "together": {"groups": 2, "count_sketch": 9, "normalize_parts": True},
}


@pytest.mark.parametrize("first_order", [None, "mean", "class", "mean+class"])
@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)
def test_vectors_of_a_head_are_those_of_the_pool(options, first_order):
    pool = GlobalCovariancePool(8, "isqrt", 6, reduction="linear", first_order=first_order, **options)
    maps, token = 3 * torch.randn(5, 8, 25), torch.randn(5, 8)
    features = FeatureArrays(Directions(pool.reduce.conv.weight.detach().flatten(1), 1.0))
    features.add(Features(maps, token), torch.arange(5))
    parts = covariance_head(CovariancePart("isqrt", **options), first_order).parts
    found = torch.cat([vectors for part in parts for _, vectors in part.vectors(features, CPU)], 1)
    given = (token,) if "class" in (first_order or "") else ()
    with torch.no_grad():
        torch.testing.assert_close(found, pool(maps.unsqueeze(3), *given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["groups", "normalized", "together"])
def test_the_head_fits_the_model(name, images, tmp_path):
    model = timm.create_model(
        "test_resnet_isqrt", num_classes=3, reduce=16, reduction="linear", first_order="mean", **POOLS[name]
    )
    chosen = ProbeOptions(data_dir=str(images), img_size=64, workers=0, device="cpu")
    train, _ = open_splits(chosen, 3)
    head, result = fit_head(model, train, chosen, tmp_path, say=lambda line: None)
    set_head(model, head)
    train.transform = timm.data.create_transform(**Backbone(model, chosen).data_config)
    photographs, labels = zip(*train, strict=True)
    with torch.no_grad():
        logits = model.eval()(torch.stack(photographs))
    assert torch.nn.functional.cross_entropy(logits, torch.tensor(labels)) < math.log(3)
    assert 100 * (logits.argmax(1) == torch.tensor(labels)).double().mean() >= result.left_out
