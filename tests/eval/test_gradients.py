"""``python -m eval gradients``."""

import pytest
import torch
from PIL import Image

from eval import gradients
from eval.record import read_table


@pytest.mark.slow
def test_gradients(tmp_path):
    torch.manual_seed(0)
    x = gradients.features(8, 5, 3, 2)
    centred = (x - x.mean(-1, keepdim=True)) / 5**0.5
    assert torch.allclose(torch.linalg.svdvals(centred)[:, :4], torch.logspace(0, -3, 4, dtype=torch.float64))
    g = torch.randn(2, 8, 8, dtype=torch.float64)
    for ours, truth in zip(gradients.through(x, g, "polar"), gradients.reference(x, g), strict=True):
        assert torch.allclose(ours, truth, atol=1e-9)
    gradients.main(["--results", str(tmp_path), "--batch", "1"])
    rows = read_table(tmp_path / "gradients.csv").set_index(["method", "positions", "decay"])
    assert rows.loc["polar", 49, 4]["gradient_error"] < 1e-8
    assert rows.loc["isqrt", 49, 4]["gradient_error"] > 1e-2
    assert (rows.loc["polar"]["gradient_gain"] <= 2**0.5).all()
    with Image.open(tmp_path / "gradients.png") as image:
        assert min(image.size) > 600
