"""``python -m eval memory``."""

import argparse

import pandas as pd
from PIL import Image

from eval import memory


def test_memory(tmp_path):
    """Two settings of a small step, in this process; the command gives each its own."""
    args = argparse.Namespace(backbone="test_resnet", method="polar", img_size=32, batch_size=2, device="cpu")
    rows = []
    for setting in ("average pooling", "all recomputed, chunks of 1"):
        rows.append({"setting": setting, **memory.measure(args, **memory.SETTINGS[setting]), **vars(args)})
        assert rows[-1]["mib"] >= 0
    rows[0]["mib"] = 50.0
    rows = pd.DataFrame(rows)
    assert "| average pooling | 50 | 1.00 |" in memory.table(rows)
    memory.draw(rows, tmp_path / "memory.png")
    assert Image.open(tmp_path / "memory.png").size[0] > 400
