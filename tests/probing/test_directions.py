"""Principal directions of the within-image covariance."""

import pytest
import torch

from timm_gcp import GCPError
from timm_gcp.probing.directions import principal_directions, spectrum, within_image_covariance


def test_covariance_is_the_average_over_images():
    maps = torch.randn(7, 5, 11) * 3 + torch.randn(7, 5, 1) * 100
    expected = torch.stack([torch.cov(each.double(), correction=0) for each in maps]).mean(0)
    assert torch.allclose(within_image_covariance(maps.split(3)), expected)


def test_directions_keep_the_most_variance():
    torch.manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    covariance = mixing @ torch.diag(torch.tensor([9.0, 5.0, 3.0, 1.0, 0.5, 0.0]).double()) @ mixing.T
    values, vectors = spectrum(covariance)
    assert torch.allclose(values, torch.tensor([9.0, 5.0, 3.0, 1.0, 0.5, 0.0]).double(), atol=1e-12)
    found = principal_directions(values, vectors, 2)
    directions = found.matrix
    assert found.variance == pytest.approx(14 / 18.5)
    assert torch.allclose(directions @ directions.T, torch.eye(2), atol=1e-6)
    assert torch.allclose((directions.double() @ covariance @ directions.T.double()).diagonal(), values[:2], atol=1e-5)
    assert (vectors.gather(1, vectors.abs().argmax(1, keepdim=True)) > 0).all()
    # Leading directions do not depend on how many are taken.
    assert torch.equal(principal_directions(values, vectors, 4).matrix[:2], directions)
    assert len(principal_directions(values, vectors)) == 6


def test_refused():
    values, vectors = spectrum(torch.eye(4, dtype=torch.float64))
    for number in (0, 5):
        with pytest.raises(GCPError, match="4 channels; give 1 to 4"):
            principal_directions(values, vectors, number)
    with pytest.raises(GCPError, match="do not vary"):
        spectrum(torch.zeros(3, 3, dtype=torch.float64))
    with pytest.raises(GCPError, match="no image"):
        within_image_covariance([])
