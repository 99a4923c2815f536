"""``python -m eval probe`` on small JPEG files."""

import pandas as pd
import pytest
import timm
import torch

from eval import probe
from timm_gcp.models.folder import save_folder
from timm_gcp.probing.directions import Directions


@pytest.mark.slow
def test_a_row_for_every_setting_and_none_twice(images, tmp_path, monkeypatch):
    torch.manual_seed(0)
    save_folder(timm.create_model("resnet18", num_classes=3), tmp_path / "plain")
    some = [
        each
        for each in probe.SETTINGS
        if each.group in ("head", "groups", "reduction") or each.value in ("64", "gaussian")
    ]
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
    assert widths["gaussian"] == 512 + 257 * 258 // 2
    assert widths["4"] == 512 + 4 * 64 * 65 // 2
    table = probe.section(tmp_path)
    assert table.count("\n") == len(some) + 1
    assert "| groups | 4 | 8832 |" in table


def test_maps_with_their_mean_are_the_features_along_the_directions():
    torch.manual_seed(0)
    features, directions = torch.randn(3, 6, 5), Directions(torch.linalg.qr(torch.randn(6, 6))[0][:4], 0.9)

    class Stored:
        folder, images, views, rows, has_token, labels = None, 3, 1, 3, False, None
        mean = features.mean(2)

        def maps(self, start, stop):
            return directions.matrix @ (features - features.mean(2, keepdim=True))[start:stop]

        def first(self, name):
            return self.mean

    kinds = {kind: probe.Setting("", "", components=3, maps=kind) for kind in ("centred", "whole", "normalised")}
    found = {kind: probe._Leading(Stored(), directions, each).maps(1, 3) for kind, each in kinds.items()}
    expected = directions.matrix[:3] @ features[1:3]
    torch.testing.assert_close(found["whole"], expected)
    torch.testing.assert_close(found["centred"], expected - expected.mean(2, keepdim=True))
    centred = expected - expected.mean(1, keepdim=True)
    torch.testing.assert_close(found["normalised"], centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt())
