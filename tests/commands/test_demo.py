"""timm-gcp demo, small, as a user runs it."""

import json

import pytest
import timm
import torch
from filelock import FileLock
from PIL import Image

import timm_gcp  # noqa: F401
from tests.support.tools import rows_of, timm_gcp_command
from timm_gcp.__main__ import main
from timm_gcp.commands import demo
from timm_gcp.errors import GCPError


def test_demo(tmp_path):
    out = tmp_path / "demo"
    done = timm_gcp_command("demo", "--output", out, "--epochs", "2", "--images", "4")
    assert done.returncode == 0, done.stderr
    assert "Classifiers on frozen features" in done.stdout
    assert "points of leave-one-out accuracy" in done.stdout
    assert "Validation, best epoch" in done.stdout
    assert "%|" not in done.stderr  # no bar where there is no terminal
    results = {head: json.loads((out / head / "result.json").read_text()) for head in ("average", "svdpade")}
    assert (results["average"]["method"], results["svdpade"]["method"]) == (None, "svdpade")
    assert rows_of(out / "svdpade")[0]["method"] == "isqrt"
    assert f"{results['svdpade']['top1']:.2f}" in done.stdout
    for picture in ("probe/heads.png", "curves.png", "predictions.png"):
        with Image.open(out / picture) as image:
            assert min(image.size) > 300
    model = timm.create_model(f"local-dir:{out / 'svdpade' / 'model'}", pretrained=True).eval()
    assert model.global_pool.method == "svdpade"
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 8)

    with pytest.raises(GCPError, match="exists already"):
        demo.main(["--output", str(out)])


@pytest.mark.parametrize("part", ["textures", "probe", "average", "svdpade"])
def test_nothing_is_written_beside_an_earlier_demo(tmp_path, part):
    (tmp_path / part).mkdir()
    with pytest.raises(GCPError, match=f"{part} exists already: give another --output"):
        demo.main(["--output", str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == [part]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--images=3", "have to fill a batch of 32"),
        ("--epochs=1", "switches between two epochs"),
    ],
)
def test_a_demo_that_is_too_small_is_refused_at_the_door(option, message, tmp_path, capsys):
    assert main(["demo", "--output", str(tmp_path / "demo"), option]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_two_demos_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_run", lambda args: (args.output / "ran").touch())
    with FileLock(tmp_path / ".lock"), pytest.raises(GCPError, match="Another demo writes to"):
        demo.main(["--output", str(tmp_path)])
    assert not (tmp_path / "ran").exists()
    assert demo.main(["--output", str(tmp_path / "new")]) == 0
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["ran"]
