"""``train --init-head probe``: the head that a run starts from, on real JPEG files."""

import pytest
import timm
import torch
from sklearn.linear_model import Ridge

from timm_gcp import GCPError
from timm_gcp.__main__ import main
from timm_gcp.data.open_dataset import open_splits
from timm_gcp.models.folder import save_folder
from timm_gcp.probing.options import ProbeOptions
from timm_gcp.probing.plain_head import _features, fit_plain_head

STILL = ("--lr", "1e-12", "--warmup-epochs", "0", "--weight-decay", "0", "--no-aug", "--smoothing", "0")
COMMON = ("--img-size", "64", "-j", "0", "-b", "8", "--device", "cpu", "--epochs", "1", "--monitor-every", "0")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights of a plain backbone."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("backbone")
    save_folder(timm.create_model("test_resnet", num_classes=4), folder / "plain")
    return folder / "plain" / "model.safetensors"


def train(images, weights, output, *more):
    given = ["--data-dir", str(images), "--model", "test_resnet_svdpade", "--output", str(output)]
    start = ["--init-head", "probe", "--pretrained-path", str(weights)]
    return main(["train", *given, *start, *COMMON, *map(str, more)])


def model_of(folder):
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def test_the_run_starts_with_the_probe(images, weights, tmp_path, capsys):
    """The head equals that of ``timm-gcp probe``, with the method under which training starts."""
    assert train(images, weights, tmp_path, *STILL, "--no-hybrid", "--experiment", "x") == 0
    assert "Head: fitted to the frozen features of the training images" in capsys.readouterr().out
    given = ["--model", "test_resnet", "--checkpoint", str(weights), "--output", str(tmp_path / "probe")]
    more = ["--method", "svdpade", "--components", "64", "--img-size", "64", "-j", "0", "-b", "8", "--device", "cpu"]
    assert main(["probe", str(images), *given, *more]) == 0
    trained, probed = model_of(tmp_path / "x" / "model"), model_of(tmp_path / "probe" / "model")
    assert trained.global_pool.options == probed.global_pool.options
    for name, tensor in probed.state_dict().items():
        if "num_batches" not in name and "running" not in name:
            assert torch.allclose(tensor, trained.state_dict()[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_plain_model_starts_with_ridge_regression_on_its_pooled_features(name, images, tmp_path):
    """Against scikit-learn: some strength of its ridge regression gives the direction of the same weights."""
    plain = timm.create_model(name, num_classes=3).eval()
    save_folder(plain, tmp_path / "plain")
    given = ["--data-dir", str(images), "--model", name, "--pretrained-path", str(tmp_path / "plain/model.safetensors")]
    size = () if name == "test_resnet" else ("--img-size", "160")
    run = [*given, "--init-head", "probe", *COMMON, *size, *STILL, "--output", str(tmp_path), "--experiment", "x"]
    assert main(["train", *run]) == 0
    trained = model_of(tmp_path / "x" / "model")
    first = next(iter(plain.state_dict()))
    assert torch.allclose(trained.state_dict()[first], plain.state_dict()[first], rtol=0, atol=1e-9)
    options = ProbeOptions(data_dir=str(images), img_size=64 if name == "test_resnet" else 160, device="cpu", workers=0)
    features, labels = _features(plain, open_splits(options, 3)[0], options)
    scores = trained.get_classifier()(features.float()).detach().double()
    close = []
    for strength in torch.logspace(-6, 3, 200):
        ridge = Ridge(alpha=float(strength) * float((features - features.mean(0)).square().sum(1).mean()))
        expected = torch.from_numpy(ridge.fit(features, torch.nn.functional.one_hot(labels, 3)).predict(features))
        factor = (scores * expected).sum() / expected.square().sum()
        close.append(float((scores - factor * expected).norm() / scores.norm()))
    assert min(close) < 0.02
    assert (scores.argmax(1) == labels).double().mean() > 0.5


def test_the_hybrid_starts_from_the_warm_method(images, weights, tmp_path):
    assert train(images, weights, tmp_path, "--epochs", "2", "--switch-epoch", "1", "--experiment", "x") == 0
    assert model_of(tmp_path / "x" / "model").global_pool.method == "svdpade"
    assert any((tmp_path / "probe-cache").iterdir())


def test_a_resumed_run_does_not_fit_again(images, weights, tmp_path, monkeypatch):
    assert train(images, weights, tmp_path, "--no-hybrid", "--experiment", "x") == 0
    monkeypatch.setattr("timm_gcp.training.prepare.fit_initial_head", lambda *args: pytest.fail("fitted again"))
    more = ("--epochs", "2", "--no-hybrid", "--experiment", "x", "--resume", "auto")
    assert train(images, weights, tmp_path, *more) == 0


def test_moment_probing_starts_with_ridge_regression_on_its_own_features(images, weights, tmp_path, capsys):
    more = ("--model", "test_resnet_mp", "--last-stride", "1", "--experiment", "x")
    assert train(images, weights, tmp_path, *STILL, *more) == 0
    out = capsys.readouterr().out
    assert "Head: fitted to the frozen features" in out
    assert "Model folder: timm.create_model(" in out
    assert type(model_of(tmp_path / "x" / "model").global_pool).__name__ == "MomentPool"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model-kwargs", "reduction=conv"), "one of kind 'conv'"),
        (("--model", "test_resnet_gaussian"), "'gaussian' is no function of the covariance"),
        (("--initial-checkpoint", "WEIGHTS"), "--init-head probe and --initial-checkpoint exclude each other"),
    ],
)
def test_refused(more, message, images, weights, tmp_path, capsys):
    more = [str(weights) if each == "WEIGHTS" else each for each in more]
    assert train(images, weights, tmp_path, *more) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_model_without_a_linear_classifier_is_refused():
    with pytest.raises(GCPError, match="does not end in one linear layer"):
        fit_plain_head(timm.create_model("test_resnet", num_classes=0), [], ProbeOptions(data_dir="", device="cpu"))


def test_random_features_are_refused(images, tmp_path, capsys):
    given = ["--data-dir", str(images), "--model", "test_resnet_svdpade", "--output", str(tmp_path)]
    assert main(["train", *given, "--init-head", "probe", *COMMON]) == 2
    assert "add --pretrained" in capsys.readouterr().err
