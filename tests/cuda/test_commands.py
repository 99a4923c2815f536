"""Training, evaluation, probe and one NCCL process on a CUDA device."""

import json
import subprocess
import sys

import pytest
import timm
import torch

from tests.support.tools import MODEL, rows_of
from timm_gcp.__main__ import main
from timm_gcp.models.folder import save_folder

SHORT = ("--img-size", "64", "-b", "8", "--lr", "0.05", "-j", "1", "--warmup-epochs", "0", "--device", "cuda")


def train(images, output, name, *more):
    given = ("train", images, "--model", MODEL, *SHORT, "--output", output, "--experiment", name)
    return main([*map(str, given), *map(str, more)])


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    output = tmp_path_factory.mktemp("cuda-runs")
    more = ("--epochs", "4", "--switch-epoch", "2", "--amp", "--amp-dtype", "bfloat16", "--channels-last")
    assert train(images, output, "run", *more, "--monitor-every", "1") == 0
    return output / "run"


def test_a_hybrid_run_under_autocast(trained):
    rows = rows_of(trained)
    assert [row["method"] for row in rows] == ["isqrt", "isqrt", "svdpade", "svdpade"]
    assert all(float(row["train_loss"]) < 5 and float(row["kappa"]) >= 1 for row in rows)


def test_float16_with_a_gradient_scaler(images, tmp_path):
    assert train(images, tmp_path, "half", "--epochs", "2", "--no-hybrid", "--amp", "--amp-dtype", "float16") == 0


def test_resume(images, trained, tmp_path):
    assert train(images, tmp_path, "again", "--epochs", "5", "--switch-epoch", "2", "--amp",
                 "--amp-dtype", "bfloat16", "--channels-last", "--resume", trained / "last.pth.tar") == 0  # fmt: skip
    assert rows_of(tmp_path / "again")[-1]["epoch"] == "4"


def test_compiled_training(images, tmp_path):
    assert train(images, tmp_path, "compiled", "--epochs", "2", "--switch-epoch", "1", "--torchcompile") == 0


def test_evaluation_agrees_with_the_cpu(images, trained, tmp_path):
    found = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.json"
        argv = ["validate", "--checkpoint", trained / "last.pth.tar", images, "-b", "8", "-j", "0"]
        assert main([*map(str, argv), "--device", device, "--results-file", str(out)]) == 0
        found[device] = json.loads(out.read_text())
    assert found["cpu"]["loss"] == pytest.approx(found["cuda"]["loss"], rel=0.01)
    assert found["cpu"]["top1"] == pytest.approx(found["cuda"]["top1"], abs=3)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A folder of a plain network with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("backbone") / "plain"
    save_folder(timm.create_model("test_resnet", num_classes=4), folder)
    return folder


def test_probe_agrees_with_the_cpu(images, backbone, tmp_path):
    common = ("--model", backbone, "--img-size", "64", "-j", "0", "-b", "8", "--components", "16")
    tops = []
    for device in ("cpu", "cuda"):
        output = tmp_path / device
        assert main(list(map(str, ("probe", images, *common, "--device", device, "--output", output)))) == 0
        tops.append(json.loads((output / "result.json").read_text())["heads"][0]["left_out"])
    assert tops[0] == pytest.approx(tops[1], abs=6)


def test_a_run_that_starts_with_a_probe(images, backbone, tmp_path):
    more = ("--epochs", "1", "--init-head", "probe", "--pretrained-path", backbone / "model.safetensors")
    assert train(images, tmp_path, "probed", *more) == 0


def test_one_nccl_process(images, tmp_path):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m")
    given = ("timm_gcp", "train", images, "--model", MODEL, *SHORT[:-2], "--epochs", "2", "--output", tmp_path)
    done = subprocess.run([*launcher, *map(str, given)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
