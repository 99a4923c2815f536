"""Class weights, logit adjustment and balanced sampling, against references written here and as a user runs them."""

import json
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from tests.support.resumed_runs import arguments, same_runs, stopping_after
from tests.support.tools import COMMON, MODEL, rows_of, torchrun, write_images
from timm_gcp import GCPError
from timm_gcp.__main__ import main
from timm_gcp.data.balanced_sampler import BalancedSampler
from timm_gcp.data.class_weights import balanced_weights
from timm_gcp.distributed import Processes
from timm_gcp.training.data import Data
from timm_gcp.training.imbalance import CorrectedCrossEntropy, make_corrected_loss, make_sampler

COUNTS = {"coarse": 12, "fine": 6, "middle": 2}
LABELS = np.repeat([0, 1, 2], list(COUNTS.values()))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Image folders with 12, 6 and 2 images to train on."""
    folder = write_images(tmp_path_factory.mktemp("uneven"))
    for name, number in COUNTS.items():
        for index in range(number, 12):
            (folder / "train" / name / f"{index}.jpg").unlink()
    return folder


def given(images, output, *more):
    place = ["--output", str(output), "--experiment", "run"]
    data = ["--data-dir", str(images), "--model", MODEL]
    return ["train", *data, *COMMON, "-j", "0", "-b", "4", "--no-report", *place, *map(str, more)]


# ---------------------------------------------------------------------------------------------------------- loss


def test_balanced_weights_are_those_of_scikit_learn():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    np.testing.assert_allclose(balanced_weights(np.bincount(LABELS)), expected, rtol=1e-15)


def reference(logits, targets, weights, adjustment):
    """The loss, image by image and class by class."""
    total = 0.0
    for z, t in zip(logits, targets, strict=True):
        adjusted = [z[k] + adjustment[k] for k in range(len(z))]
        normaliser = math.log(sum(math.exp(each) for each in adjusted))
        total -= sum(weights[k] * t[k] * (adjusted[k] - normaliser) for k in range(len(z)))
    return total / len(logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss(smoothing):
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 1, 1, 0])
    weights, adjustment = torch.tensor([0.5, 1.0, 4.0]), torch.tensor([-0.1, -1.0, -3.0])
    loss = CorrectedCrossEntropy(weights, adjustment, smoothing).double()
    targets = torch.nn.functional.one_hot(labels, 3).double()
    expected = reference(
        logits.tolist(), ((1 - smoothing) * targets + smoothing / 3).tolist(), weights.tolist(), adjustment.tolist()
    )
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(loss(logits, labels), loss(logits, targets))
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits)


def test_plain_cross_entropy_without_corrections():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    plain = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert CorrectedCrossEntropy(None, None, 0.1)(logits, labels).item() == pytest.approx(plain.item(), rel=1e-6)


def test_logits_of_zero_give_the_shares_under_adjustment():
    """With logits of 0 and the adjustment alone, softmax gives the shares of the classes."""
    adjustment = torch.from_numpy(np.log(np.bincount(LABELS) / len(LABELS)))
    loss = CorrectedCrossEntropy(None, adjustment, 0.0)
    value = loss(torch.zeros(3, 3, dtype=torch.float64), torch.tensor([0, 1, 2])).item()
    assert value == pytest.approx(-np.log(np.array([12, 6, 2]) / 20).mean(), rel=1e-6)


# ------------------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_class_is_drawn_equally_often(world_size):
    shares = []
    for rank in range(world_size):
        sampler = BalancedSampler(LABELS, 7, rank, world_size)
        sampler.set_epoch(3)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == math.ceil(20 / world_size)
    drawn = [index for share in shares for index in share]
    numbers = Counter(LABELS[drawn].tolist())
    assert max(numbers.values()) - min(numbers.values()) <= 1
    assert set(numbers) == {0, 1, 2}
    times = Counter(drawn)
    for label in range(3):
        each = [times[int(index)] for index in np.flatnonzero(label == LABELS)]
        assert max(each) - min(each) <= 1
    single = BalancedSampler(LABELS, 7)
    single.set_epoch(3)
    if 20 % world_size == 0:
        assert sorted(drawn) == sorted(single)


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        torch.rand(3)
        sampler = BalancedSampler(LABELS, seed)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    assert order(1, 2) == order(1, 2)
    assert len({order(*key) for key in ((1, 2), (2, 1), (1, 3), (2, 2), (0, 3))}) == 5


# ---------------------------------------------------------------------------------------------------------- runs


@pytest.mark.slow
def test_balanced_sampling_continues_within_an_epoch(uneven, tmp_path, monkeypatch):
    """Stopped within the second epoch, and two updates later."""
    more = ("--balanced-sampling", "-b", "4", "--no-report")
    assert main(arguments(uneven, tmp_path / "whole", *more)) == 0
    with stopping_after(monkeypatch, 7, 9):
        for _ in range(2):
            assert main(arguments(uneven, tmp_path / "stopped", *more)) == 143
    assert main(arguments(uneven, tmp_path / "stopped", *more)) == 0
    same_runs(tmp_path / "whole" / "run", tmp_path / "stopped" / "run")


@pytest.mark.slow
def test_two_processes_with_half_the_batch_train_what_one_does(run, uneven, tmp_path):
    """With the rest of the network frozen in evaluation mode."""
    file = tmp_path / "weights.csv"
    file.write_text("class,weight\ncoarse,1\nfine,2\nmiddle,3\n")
    more = ["--model", run / "model", "--train-only", "classifier", "--no-aug", "--clip-grad", "1"]
    more += ["--balanced-sampling", "--class-weights", file]
    assert main(given(uneven, tmp_path / "one", *more)) == 0
    done = torchrun("timm_gcp", *given(uneven, tmp_path / "two", *more, "-b", "2"))
    assert done.returncode == 0, done.stderr
    for alone, together in zip(*(rows_of(tmp_path / name / "run") for name in ("one", "two")), strict=True):
        for key in ("train_loss", "train_top1", "eval_loss"):
            assert float(together[key]) == pytest.approx(float(alone[key]), rel=1e-5)


def test_each_correction_trains(uneven, tmp_path, capsys):
    """All change the training loss; the loss of evaluation is the plain one."""
    still = ("--lr", "1e-12", "--epochs", "1", "--warmup-epochs", "0", "--no-aug", "--monitor-every", "0")
    given = ["train", "--data-dir", str(uneven), "--model", "test_resnet", "--img-size", "64", "-j", "0", "-b", "4"]
    losses = {}
    for name, more in {
        "plain": (),
        "weights": ("--class-weights", "balanced"),
        "adjusted": ("--logit-adjustment",),
        "stronger": ("--logit-adjustment", "2"),
        "mixed": ("--logit-adjustment", "--mixup", "0.2"),
        "sampled": ("--balanced-sampling",),
    }.items():
        place = ["--output", str(tmp_path / name), "--experiment", "run", "--device", "cpu", "--no-report"]
        assert main([*given, *still, *place, *more]) == 0
        losses[name] = float(rows_of(tmp_path / name / "run")[0]["train_loss"])
    assert len(set(losses.values())) == len(losses)
    output = capsys.readouterr().out
    for said in ("weights of the classes (balanced)", "τ = 1.", "τ = 2.", "Balanced sampling"):
        assert said in output
    assert json.loads((tmp_path / "weights" / "run" / "result.json").read_text())["count"] == 36


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--balanced-sampling", "--class-weights", "balanced"), "each correct the imbalance"),
        (("--balanced-sampling", "--logit-adjustment"), "each correct the imbalance"),
        (("--logit-adjustment", "--bce-loss"), "leave --bce-loss out"),
        (("--logit-adjustment", "0"), "must be positive"),
        (("--class-weights", "none.csv"), "cannot be read"),
    ],
)
def test_refused(more, message, uneven, tmp_path, capsys):
    assert main(given(uneven, tmp_path, *more)) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("coarse,1\n", "does not begin with the line 'class,weight'"),
        ("class,weight\ncoarse,1\nfine,1\n", "has no weight for 'middle'"),
        ("class,weight\ncoarse,1\nfin,1\n", "no class 'fin'; did you mean fine?"),
        ("class,weight\ncoarse,1\ncoarse,1\n", "a second time"),
        ("class,weight\ncoarse,-1\n", "is not a number of at least 0"),
        ("class,weight\ncoarse\n", "is not a number of at least 0"),
        ("class,weight\ncoarse,0\nfine,0\nmiddle,0\n", "only weights of 0"),
    ],
)
def test_files_of_weights_that_are_refused(text, message, uneven, tmp_path, capsys):
    file = tmp_path / "weights.csv"
    file.write_text(text)
    assert main(given(uneven, tmp_path, "--class-weights", file)) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("more", "message"), [({"class_weights": "balanced"}, "'nobody'"), ({"logit_adjustment": 1.0}, "'nobody'")]
)
def test_a_class_without_training_images_is_named(more, message):
    options = SimpleNamespace(**{"class_weights": "", "logit_adjustment": None, **more})
    data = Data(SimpleNamespace(targets=[0, 0, 2], class_names=["a", "nobody", "b"]), None, 3)
    with pytest.raises(GCPError, match=message):
        make_corrected_loss(options, data)


def test_a_stream_of_images_is_refused():
    data = Data(SimpleNamespace(num_classes=3), None, 3)
    with pytest.raises(GCPError, match="before the images are read"):
        make_corrected_loss(SimpleNamespace(class_weights="balanced", logit_adjustment=None), data)
    with pytest.raises(GCPError, match="before the images are read"):
        make_sampler(SimpleNamespace(balanced_sampling=True), data, Processes(torch.device("cpu")))
