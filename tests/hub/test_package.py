"""``python -m hub package``: a trained folder becomes a row of the manifest with what was measured."""

import hashlib
import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file

from hub import package
from timm_gcp import GCPError
from timm_gcp.weights.manifest import MANIFEST, read_manifest


def _given(images, folder, manifest, name="test_resnet_svdpade.tiny"):
    evaluation = f"--data-dir {images} --split validation --device cpu -j 0 -b 16"
    return [name, str(folder), "--description", "A test.", "--data", "three folders", "--where", "a machine",
            "--evaluate", evaluation, "--data-name", "PHOTOGRAPHS", "--manifest", str(manifest)]  # fmt: skip


@pytest.mark.slow
def test_a_run_is_packaged_with_its_accuracy(images, run, tmp_path):
    manifest = tmp_path / "manifest.json"
    shutil.copy(MANIFEST, manifest)
    before = read_manifest(manifest)
    assert package.main(_given(images, run / "model", manifest)) == 0
    rows = read_manifest(manifest)
    row = rows.pop("test_resnet_svdpade.tiny")
    assert rows == before
    weights = tmp_path / "zoo" / row.package
    assert row.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert row.size == weights.stat().st_size
    assert (row.num_classes, len(row.label_names), row.input_size) == (3, 3, (3, 64, 64))
    (metric,) = row.metrics
    assert 0 <= metric["top1"] <= metric["top5"] == 100
    assert metric["command"].startswith("timm-gcp validate --model test_resnet_svdpade.tiny --data-dir PHOTOGRAPHS ")
    assert row.recipe.startswith("timm-gcp train ")
    assert str(images) not in row.recipe + metric["command"]
    assert "--output" not in row.recipe
    model = timm.create_model(
        "test_resnet_svdpade", num_classes=3, pretrained=True,
        pretrained_cfg_overlay={"file": str(weights), "num_classes": 3},
    )  # fmt: skip
    assert model.num_classes == 3
    trained = load_file(run / "model" / "model.safetensors")
    for key, value in load_file(weights).items():
        kept = "running" in key or not value.is_floating_point()
        assert value.dtype == (trained[key].dtype if kept else torch.float16)
        torch.testing.assert_close(value.to(trained[key].dtype), trained[key], rtol=1e-3, atol=1e-7)
        assert model.state_dict()[key].dtype == trained[key].dtype
    # Again replaces the row; it does not come twice.
    assert package.main(_given(images, run / "model", manifest)) == 0
    assert len(read_manifest(manifest)) == len(before) + 1


def test_a_public_command_says_what_makes_the_weights():
    given = "timm-gcp train --data-dir /home/x --checkpoint-hist 30 --lr 0.1 --no-check-images --output runs -j 0"
    assert package.public(given, "GROCERY") == "timm-gcp train --data-dir GROCERY --lr 0.1 -j 0"
    assert package.public("timm-gcp train photographs --lr 0.1", None) == "timm-gcp train photographs --lr 0.1"


@pytest.mark.slow
def test_what_cannot_be_packaged(images, run, tmp_path, monkeypatch):
    manifest = tmp_path / "manifest.json"
    shutil.copy(MANIFEST, manifest)
    with pytest.raises(GCPError, match="is not a model folder"):
        package.main(_given(images, run, manifest))
    with pytest.raises(GCPError, match=r"could not be evaluated: .*nowhere"):
        package.main(_given("nowhere", run / "model", manifest))
    with pytest.raises(GCPError, match="no valid name"):
        package.main(_given(images, run / "model", manifest, name="Without a tag"))
    monkeypatch.setattr(package, "LIMIT", 1000)
    with pytest.raises(GCPError, match="has at most 10"):
        package.main(_given(images, run / "model", manifest))
    assert manifest.read_bytes() == MANIFEST.read_bytes()
    assert not (tmp_path / "zoo").exists()
