"""Pooling without an eigensolver, and timm-gcp export as a user runs it."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from tests.support.reference import KINDS, awkward, with_singular_values
from tests.support.tools import slow_but, timm_gcp_command
from timm_gcp import METHODS, GCPError, GlobalCovariancePool, graft, pool_features
from timm_gcp.__main__ import main
from timm_gcp.models.folder import save_folder
from timm_gcp.onnx.export import export_onnx
from timm_gcp.onnx.pool import EigenfreePool, pool_eigenfree, with_eigenfree_pools
from timm_gcp.spectral import covariance, eigenfree
from timm_gcp.spectral.polar import hermitian_factor

CLASSES = ["coarse", "fine", "middle"]
SPECTRAL = [name for name, row in METHODS.items() if row.of_sigma is not None]
OTHERS = [name for name in METHODS if name not in SPECTRAL]


def difference(x, method, **args):
    """Largest relative difference over the batch, in float64."""
    y, expected = (f(x, method, dtype=torch.float64, **args) for f in (pool_eigenfree, pool_features))
    assert y.shape == expected.shape
    assert (y[expected.norm(dim=-1) == 0] == 0).all()
    return float(((y - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-300)).max())


# The mathematics


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("c", "m"), [(24, 60), (24, 10), (9, 9), (1, 5), (5, 1)])
def test_the_methods_value_at_every_scale(method, c, m):
    for kind in KINDS:
        x = awkward(kind, c, m, torch.Generator().manual_seed(0))
        for scale in (1e-6, 1.0, 1e6) if kind != "graded" else ():
            assert difference(scale * x, method) < 1e-7, (kind, scale)


@pytest.mark.parametrize("method", METHODS)
def test_eigenvalues_over_twenty_four_orders(method):
    """What lies under 10⁻⁸ of the norm is all that the root has not reached."""
    for c, m in ((24, 60), (24, 10), (64, 64)):
        x = awkward("graded", c, m, torch.Generator().manual_seed(0))
        assert difference(x, method) < 1e-5


@given(st.integers(1, 24), st.integers(1, 24), st.sampled_from(SPECTRAL), st.integers(0, 2**31), st.floats(-4, 4))
def test_random_features(c, m, method, seed, exponent):
    x = torch.randn(2, c, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu()
    assert difference(10**exponent * x, method) < 1e-6


def test_arguments_change_both_alike():
    x = torch.randn(2, 12, 40, dtype=torch.float64)
    for method, name, values in (
        ("rsqrt", "share", (1e-6, 1e-2, 10.0, 1e4)),
        ("logm", "share", (1e-6, 1e-2, 10.0, 1e4)),
        ("mpa", "degree", (1, 2, 10, 20)),
        ("mtp", "degree", (1, 30)),
        ("isqrt", "iterations", (1, 9)),
        ("svdtopn", "keep", (12, 500)),
        ("maxexp", "eta", (1, 2, 7, 300)),
        ("gaussian", "beta", (0.1, 10.0)),
        ("bdc", "temperature", (0.01, 10.0)),
        ("cbp", "sketch", (16, 300)),
    ):
        for value in values:
            assert difference(x, method, **{name: value}) < 1e-9


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_the_root_at_any_condition(dtype, tolerance):
    x = covariance.centre(with_singular_values(8, 40, torch.logspace(0, -7, 8, dtype=torch.float64)))
    expected = torch.linalg.svd(x, full_matrices=False)
    expected = expected.U @ torch.diag(expected.S) @ expected.U.mT
    for features in (x, torch.nn.functional.pad(x, (0, 0, 0, 60))):  # wide and tall
        root = hermitian_factor(features.to(dtype))[:8, :8]
        assert (root - expected).norm() < tolerance * expected.norm()


def test_the_exponential_counts_the_true_scale():
    """SEB's factor, from eigenvalues whose exponential is one up to those whose it is zero."""
    for scale in (1e-3, 0.1, 0.5, 1.0, 3.0, 30.0):
        for c, m in ((6, 40), (40, 6)):
            assert difference(scale * torch.randn(3, c, m, dtype=torch.float64), "seb") < 1e-9


def test_steps_follow_the_condition():
    for condition in (1.0, 2.0, 1e3, 1e8):
        a = torch.diag(torch.linspace(1 / condition, 1, 5, dtype=torch.float64))
        root, inverse = eigenfree.newton_schulz_pair(a, eigenfree.steps_for(condition))
        assert torch.allclose(root @ root, a, rtol=0, atol=1e-13)
        assert torch.allclose(inverse @ root, torch.eye(5, dtype=torch.float64), atol=1e-8)
    assert eigenfree.steps_for(1.0) == 0


def test_arguments_that_need_an_eigensolver():
    x = torch.randn(1, 12, 9)
    for method, args, message in (
        ("svdpade", {"alpha": 0.7}, "power alpha=0.7"),
        ("svd", {"alpha": 0.7}, "'svdlyap'"),
        ("polar", {"alpha": 0.7}, "power alpha=0.7"),
        ("svdtopn", {"keep": 7}, "keep=7 of 8"),
    ):
        with pytest.raises(GCPError, match=message):
            pool_eigenfree(x, method, **args)
    pool_eigenfree(x, "svdtopn", keep=8)
    with pytest.raises(GCPError, match="no argument"):
        pool_eigenfree(x, "isqrt", alpha=0.5)


def test_the_copy_has_the_pools_and_the_model_keeps_its_own():
    model = graft(timm.create_model("test_resnet", num_classes=3), "polar").eval()
    copy = with_eigenfree_pools(model)
    assert isinstance(copy.global_pool, EigenfreePool)
    assert type(model.global_pool) is GlobalCovariancePool
    assert list(copy.state_dict()) == list(model.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(copy(x), model(x), rtol=0, atol=1e-5)


# The file


class Tokens(nn.Module):
    """Pools tokens, as a transformer's head would."""

    def __init__(self, method, **args):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 4, 4)
        self.pool = GlobalCovariancePool(24, method, reduce=None, input_fmt="NLC", **args)
        self.fc = nn.Linear(self.pool.out_features, 5)

    def forward(self, x):
        return self.fc(self.pool(self.stem(x).flatten(2).transpose(1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("method", [*OTHERS, "polar", "svdpade", "rsqrt", "mpa", "cov", "maxexp", "corr"])
def test_export_of_any_module_with_a_pool(method, tmp_path):
    model = Tokens(method)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert export_onnx(model, tmp_path / "m.onnx", torch.randn(3, 3, 32, 32), batch_size=2) < 1e-5
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]
    file = onnx.load(tmp_path / "m.onnx").graph
    to = [entry.i for node in file.node if node.op_type == "Cast" for entry in node.attribute if entry.name == "to"]
    doubles = onnx.TensorProto.DOUBLE in [*to, *(constant.data_type for constant in file.initializer)]
    assert doubles == (method in ("rsqrt", "mpa"))  # a runtime without float64 runs the others


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Model folders by name, made when asked for."""
    place = tmp_path_factory.mktemp("models")

    def make(name, **args):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=3, **args)
        target = place / f"{name}{len(list(place.iterdir()))}"
        return save_folder(model, target, class_names=CLASSES, data_config={"input_size": (3, 64, 64)})

    return make


def of_file(file, folder, paths):
    """Logits of an ONNX file and of the model in torch, by the model's own preprocessing."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": batch.numpy()})
    with torch.no_grad():
        return logits, model(batch).numpy()


@pytest.mark.parametrize("name", slow_but({"test_resnet_svdpade"}, ["test_resnet_svdpade", "test_resnet_logm"]))
@pytest.mark.slow
def test_export_in_a_process_of_its_own(name, folder, images, tmp_path):
    model = folder(name)
    out = tmp_path / "model.onnx"
    done = timm_gcp_command("export", model, "--out", out, "--images", images / "validation", "--batch", "3")
    assert done.returncode == 0, done.stderr
    assert "8 of 36 images of --images" in done.stdout
    assert "the same class for all 8 images" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx"]
    paths = sorted((images / "train").rglob("*.jpg"))
    for size in (1, 7, 30):
        logits, expected = of_file(out, model, paths[:size])
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
        assert (logits.argmax(1) == expected.argmax(1)).all()
    entries = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert (entries["model"], entries["method"]) == (name, name.rpartition("_")[2])
    assert json.loads(entries["class_names"]) == CLASSES
    assert json.loads(entries["input_size"]) == [3, 64, 64]
    assert len(json.loads(entries["mean"])) == len(json.loads(entries["std"])) == 3


@pytest.mark.slow
def test_checkpoint_textures_and_plain_models(run, folder, tmp_path, capsys):
    out = tmp_path / "m.onnx"
    assert main(["export", "--checkpoint", str(run / "model_best.pth.tar"), "--method", "seb", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "(seb)" in text
    assert "8 synthetic textures" in text
    first = out.read_bytes()
    plain = ["export", str(folder("test_resnet")), "--img-size", "48", "--opset", "20", "--out", str(out)]
    assert main([*plain, "--batch", "1"]) == 0
    assert out.read_bytes() != first
    file = onnx.load(out)
    assert [entry.version for entry in file.opset_import if not entry.domain] == [20]
    shape = file.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in shape] == [0, 3, 48, 48]


@pytest.mark.slow
def test_refused(folder, images, tmp_path, capsys):
    out = tmp_path / "out" / "m.onnx"
    out.parent.mkdir()

    def error_of(*argv):
        assert main(["export", *map(str, argv)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("timm-gcp: error: ")
        assert error.count("\n") == 1
        assert not list(out.parent.iterdir())
        return error

    power = folder("test_resnet_svdpade", method_args={"alpha": 0.7})
    assert "power alpha=0.7" in error_of(power, "--out", out)
    few = folder("test_resnet_svdtopn", method_args={"keep": 3})
    assert "method 'svdlyap'" in error_of(few, "--out", out)
    plain = folder("test_resnet")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    assert "bad.jpg cannot be read" in error_of(plain, "--out", out, "--images", tmp_path / "bad.jpg")
    assert "none.jpg cannot be read" in error_of(plain, "--out", out, "--images", tmp_path / "none.jpg")
    assert "has no images" in error_of(plain, "--out", out, "--images", out.parent)
    assert "a device or a pipe" in error_of(plain, "--out", "/dev/fd/2")
    assert "is a folder" in error_of(plain, "--out", out.parent)
    assert "ends in .onnx" in error_of(plain, "--out", plain / "model.safetensors")
    assert "so it was not kept" in error_of(plain, "--out", out, "--tolerance", "1e-12")
    assert "18 to" in error_of(plain, "--out", out, "--opset", "17")
    assert "18 to" in error_of(plain, "--out", out, "--opset", "99")
    assert "must be positive" in error_of(plain, "--out", out, "--tolerance", "0")
    assert "at least 1" in error_of(plain, "--out", out, "--batch", "0")
    assert "Nothing to export" in error_of("--out", out)
    assert "required: --out" in error_of(plain)
    assert "no pretrained weights" in error_of("test_resnet_svdlyap", "--out", out)


@pytest.mark.slow
def test_an_old_file_survives_a_failed_export(folder, tmp_path):
    out = tmp_path / "m.onnx"
    out.write_text("old")
    assert main(["export", str(folder("test_resnet")), "--out", str(out), "--tolerance", "1e-12"]) == 2
    assert out.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_a_file_with_other_classes_is_not_kept(tmp_path, monkeypatch):
    model = Tokens("isqrt")
    nn.init.zeros_(model.fc.weight)  # all logits within the tolerance, so that rounding decides
    nn.init.constant_(model.fc.bias, 1.0)
    monkeypatch.setattr("timm_gcp.onnx.export._logits", lambda path, batches: torch.eye(5)[:4] * 1e-6 + 1)
    with pytest.raises(GCPError, match="another class"):
        export_onnx(model, tmp_path / "m.onnx", torch.randn(3, 3, 32, 32))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_packages_are_asked_for_and_imported_late(tmp_path, monkeypatch):
    late = "import sys, timm_gcp, timm_gcp.commands.export; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", late]).returncode == 0
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(GCPError, match=r"not installed: pip install onnxscript\."):
        export_onnx(nn.Linear(2, 2), tmp_path / "m.onnx", torch.randn(1, 2))
