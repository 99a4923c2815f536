"""Names of models are parsed into backbone, method and tag."""

import pytest

from timm_gcp.models.names import split_name


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
