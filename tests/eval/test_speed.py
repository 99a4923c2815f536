"""``python -m eval speed``: what it measures is right, whatever the machine's pace."""

import shutil

import pandas as pd
import pytest
import torch
from PIL import Image

from eval import speed, upstream_layers
from eval.record import read_table
from timm_gcp import GCPError, pool_features

# A layer with the names of a published one: a double covariance that moves a tensor to the GPU by name.
LAYER = """
import torch
from torch import nn

SCALE = torch.ones(1).cuda()


class MPNCOV(nn.Module):
    def __init__(self, input_dim, iterNum):
        super().__init__()
        assert iterNum == 5

    def forward(self, x):
        x = x.flatten(2) * SCALE.cuda()
        return (x @ x.transpose(1, 2)).flatten(1)
"""


@pytest.fixture
def checkouts(tmp_path):
    folder = tmp_path / "fast-MPN-COV" / "src" / "representation"
    folder.mkdir(parents=True)
    (folder / "MPNCOV.py").write_text(LAYER)
    return tmp_path


def test_layers_beside_floors_and_the_published_ones(checkouts, tmp_path, capsys):
    given = ["--methods", "isqrt", "polar", "--batch", "2", "--channels", "8", "--maps", "2", "3", "--repeats", "2"]
    given += ["--device", "cpu", "--upstream", str(checkouts), "--results", str(tmp_path), "--threads", "1"]
    speed.main([*given, "--precision", "float32", "bfloat16"])
    rows = read_table(tmp_path / "speed.csv")
    ours = ["isqrt", "polar", "polar, float32", "polar, bfloat16"]
    assert list(rows["layer"]) == 2 * ["eigh", "products", "copy", *ours, "MPNCOV"]
    for _, row in rows.iterrows():
        assert row["ms"] == pytest.approx(row["forward_ms"] + row["backward_ms"], abs=2e-3)
        floor = rows[(rows["layer"] == "eigh") & (rows["map"] == row["map"])].iloc[0]
        assert row["times_eigh"] == pytest.approx(row["ms"] / floor["ms"], rel=0.3)
    printed = capsys.readouterr().out
    assert "| `isqrt` against MPNCOV | " in printed
    with Image.open(tmp_path / "speed.png") as plot:
        assert min(plot.size) > 200


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch's compiler needs a C++ compiler on the CPU")
def test_a_compiled_method_has_a_line_of_its_own(tmp_path):
    given = [
        "--methods",
        "isqrt",
        "--compiled",
        "isqrt",
        "--batch",
        "2",
        "--channels",
        "8",
        "--maps",
        "2",
        "--repeats",
        "1",
    ]
    speed.main([*given, "--device", "cpu", "--results", str(tmp_path)])
    backward = read_table(tmp_path / "speed.csv").set_index("layer")["backward_ms"]
    assert list(backward.index[3:]) == ["isqrt", "isqrt, compiled"]
    assert backward["isqrt, compiled"] > 0


def test_a_folder_without_checkouts(tmp_path):
    with pytest.raises(GCPError, match="clone them there"):
        list(upstream_layers.load(tmp_path, "cpu", 8))


def test_comparison_with_the_published_layer():
    rows = [
        {"kind": kind, "layer": layer, "ms": ms, "extra_mib": mib}
        for kind, layer, ms, mib in (
            ("ours", "polar", 10, 1),
            ("ours", "isqrt", 5, 2),
            ("published", "SVD_Pade", 70, 4),
        )
    ]
    rows = pd.DataFrame(rows)
    assert speed.comparison(rows) == [("`polar` against SVD_Pade", "7.0×", "0.25")]


def test_extra_memory_counts_every_allocation():
    x = torch.randn(4, 10, 5, 5)
    assert speed.extra_memory(lambda x: x * 2, x) >= 2 * x.nbytes  # the output, and a gradient
    quarter = 256 * 256 * 4 * 4  # what C×C takes for a batch of four

    def held(method, side):
        return (
            speed.extra_memory(lambda x: pool_features(x.flatten(2), method), torch.randn(4, 256, side, side)) / quarter
        )

    # The published layers hold 22 to 30 times the output matrix (98 to 119 MiB at batch 16).
    assert held("isqrt", 7) < 7
    assert held("polar", 7) < 7
    assert held("isqrt", 14) < 8


def test_steps(tmp_path, capsys):
    given = ["--step", "test_resnet", "--methods", "polar", "--batch", "2", "--img-size", "32", "--repeats", "1"]
    speed.main([*given, "--device", "cpu", "--results", str(tmp_path)])
    rows = read_table(tmp_path / "step.csv")
    assert list(rows["head"]) == ["average", "polar"]
    assert (rows["ms"] > 0).all()
    assert "| average | " in capsys.readouterr().out
