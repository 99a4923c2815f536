"""Names of models are parsed into backbone, method and tag."""

import pytest

from timm_gcp.models.names import plain_name, split_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("resnet50_isqrt", ("resnet50", "isqrt", "")),
        ("vit_base_patch16_224_svdpade.init", ("vit_base_patch16_224", "svdpade", "init")),
        ("convnext_tiny_polar.init-in12k_ft_in1k_384", ("convnext_tiny", "polar", "init-in12k_ft_in1k_384")),
        ("convnext_tiny.in12k_ft_in1k", ("convnext_tiny", "", "in12k_ft_in1k")),
        ("resnet50_unknown", ("resnet50_unknown", "", "")),
        ("isqrt", ("", "isqrt", "")),
        ("", ("", "", "")),
    ],
)
def test_split_name(name, parts):
    assert split_name(name) == parts


@pytest.mark.parametrize(
    ("name", "plain", "method"),
    [
        ("resnet50_isqrt.init", "resnet50", "isqrt"),
        ("convnext_tiny_polar.init-in12k_ft_in1k_384", "convnext_tiny.in12k_ft_in1k_384", "polar"),
    ],
)
def test_plain_name(name, plain, method):
    found = plain_name(name)
    assert (found.of_backbone, found.method) == (plain, method)


@pytest.mark.parametrize(
    "name", ["resnet50", "resnet50.a1_in1k", "resnet50_isqrt", "resnet50_isqrt.in1k", "resnet50.init", ""]
)
def test_other_names_have_no_plain_name(name):
    assert plain_name(name) is None
