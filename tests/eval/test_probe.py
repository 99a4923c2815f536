"""``python -m eval probe`` on small JPEG files."""

import pandas as pd
import pytest
import timm
import torch

from eval import probe
from timm_gcp.models.folder import save_folder


@pytest.mark.slow
def test_a_row_for_every_setting_and_none_twice(images, tmp_path, monkeypatch):
    torch.manual_seed(0)
    save_folder(timm.create_model("resnet18", num_classes=3), tmp_path / "plain")
    some = [each for each in probe.SETTINGS if each.group in ("head", "groups") or each.value in ("64", "cov")]
    monkeypatch.setattr(probe, "SETTINGS", some)
    results = tmp_path / "probe.csv"
    given = ["--data-dir", str(images), "--model", str(tmp_path / "plain"), "--img-size", "64", "-j", "0", "-b", "8"]
    command = ["--name", "stripes", "--cache", str(tmp_path / "cache"), "--results", str(results), *given]
    probe.main([*command, "--device", "cpu", "--groups", "head"])
    assert list(pd.read_csv(results)["setting"]) == ["mean alone", "default"]
    probe.main([*command, "--device", "cpu"])
    rows = pd.read_csv(results)
    assert len(rows) == len(some)
    assert rows["left_out"].between(0, 100).all()
    widths = dict(zip(rows["setting"], rows["features"], strict=True))
    assert widths["mean alone"] == 512
    assert widths["default"] == 512 + 256 * 257 // 2
    assert widths["4"] == 512 + 4 * 64 * 65 // 2
    table = probe.section(tmp_path)
    assert table.count("\n") == len(some) + 1
    assert "| groups | 4 | 8832 |" in table
