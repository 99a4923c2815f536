"""Metrics, loss and mixing of multi-label data, against scikit-learn, torch and references written here."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from timm.utils import random_seed
from torch.nn.functional import binary_cross_entropy_with_logits

from timm_gcp import GCPError
from timm_gcp.data.multi_label_batches import MultiLabelMixup, MultiLabelWorkerMixup, collate_multi_label
from timm_gcp.tasks import MULTI_LABEL, SINGLE_LABEL, average_precisions, mark_task, task_of_model
from timm_gcp.tasks.average_precision import average_precision_gradient
from timm_gcp.tasks.multi_label import multi_label_metrics
from timm_gcp.training.multi_label import MultiLabelLoss

CPU = torch.device("cpu")


def drawn(n=60, classes=5, ties=False):
    logits = torch.randn(n, classes)
    if ties:
        logits = logits.round()
    return logits, torch.rand(n, classes) < torch.linspace(0.05, 0.7, classes)


def by_hand(targets, scores):
    """Precision times the step of recall, at each distinct score from the highest down."""
    total, found, before = sum(targets), 0.0, 0.0
    for score in sorted(set(scores), reverse=True):
        taken = [target for target, each in zip(targets, scores, strict=True) if each >= score]
        recall = sum(taken) / total
        found += (recall - before) * sum(taken) / len(taken)
        before = recall
    return found


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision(ties):
    logits, targets = drawn(ties=ties)
    found = average_precisions(targets.numpy(), logits.numpy())
    for label in range(5):
        expected = by_hand(targets[:, label].tolist(), logits[:, label].tolist())
        assert found[label] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_gradient_of_the_mean_average_precision(ties):
    """Central differences of scikit-learn's weighted average precision, with respect to every image's weight."""
    logits, targets = (each.numpy() for each in drawn(n=25, ties=ties))
    present = np.flatnonzero(targets.any(0))

    def mean(weights):
        return np.mean([average_precision_score(targets[:, k], logits[:, k], sample_weight=weights) for k in present])

    step = 1e-5 * np.eye(25)
    expected = [25 * (mean(1 + each) - mean(1 - each)) / 2e-5 for each in step]
    found = average_precision_gradient(targets, logits)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    assert found.mean() == pytest.approx(0, abs=1e-12)


def test_metrics_are_those_of_scikit_learn():
    logits, targets = drawn(ties=True)
    found = multi_label_metrics(logits, targets)
    true, guess = targets.numpy(), (logits.sigmoid() > 0.5).numpy()
    assert found["map"] == pytest.approx(100 * average_precision_score(true, logits.numpy(), average="macro"))
    assert found["micro_f1"] == pytest.approx(100 * f1_score(true, guess, average="micro"))
    assert found["macro_f1"] == pytest.approx(100 * f1_score(true, guess, average="macro"))
    assert found["loss"] == pytest.approx(binary_cross_entropy_with_logits(logits, targets.float()).item(), rel=1e-6)
    assert (found["count"], found["without_positives"]) == (60, 0)


def test_classes_without_positives_are_left_out():
    logits, targets = drawn()
    targets[:, [1, 3]] = False
    logits[:, 3] = -1.0  # never predicted either
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = multi_label_metrics(logits, targets)
    rest = [0, 2, 4]
    expected = average_precision_score(targets[:, rest].numpy(), logits[:, rest].numpy(), average="macro")
    assert found["map"] == pytest.approx(100 * expected)
    assert found["without_positives"] == 2
    guess = (logits > 0).numpy()
    shown = [0, 1, 2, 4]  # class 1 is predicted, wrongly
    assert found["macro_f1"] == pytest.approx(
        100 * f1_score(targets.numpy()[:, shown], guess[:, shown], average="macro")
    )


def test_all_images_without_a_label():
    logits, targets = drawn()
    with pytest.raises(GCPError, match="No image that is evaluated has a label"):
        multi_label_metrics(logits, targets & False)


def test_logits_that_are_no_numbers_rank_last():
    targets = np.array([[True], [False], [False]])
    assert average_precisions(targets, np.array([[np.nan], [1.0], [np.inf]], np.float32))[0] == pytest.approx(1 / 3)


def test_the_meter_is_no_mean_over_batches():
    logits, targets = drawn()
    meter = MULTI_LABEL.meter(CPU)
    for first, last in ((0, 7), (7, 7), (7, 60)):
        meter.add(logits[first:last], targets[first:last].float())
    assert meter.result(CPU) == multi_label_metrics(logits, targets)
    with pytest.raises(GCPError, match="has 4 classes and the model 5"):
        meter.add(logits, targets[:, :4].float())
    assert MULTI_LABEL.meter(CPU).result(CPU) == {"count": 0}


def test_probabilities():
    logits = torch.randn(3, 4)
    assert torch.equal(MULTI_LABEL.probabilities(logits), logits.sigmoid())
    assert torch.equal(SINGLE_LABEL.probabilities(logits), logits.softmax(-1))


# ---------------------------------------------------------------------------------------------------------- loss


def test_the_plain_loss_is_that_of_torch():
    logits, targets = drawn()
    expected = torch.nn.BCEWithLogitsLoss()(logits, targets.float())
    assert torch.equal(MultiLabelLoss()(logits, targets.float()), expected)
    assert torch.equal(MultiLabelLoss()(logits, targets.long()), expected)


@pytest.mark.parametrize("sum_classes", [False, True])
def test_weights_and_smoothing(sum_classes):
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]], dtype=torch.float64)
    weights = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    loss = MultiLabelLoss(weights, smoothing=0.2, sum_classes=sum_classes)
    smoothed = 0.8 * targets + 0.1
    each = -weights * smoothed * logits.sigmoid().log() - (1 - smoothed) * (1 - logits.sigmoid()).log()
    expected = each.sum(1).mean() if sum_classes else each.mean()
    assert loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.autograd.gradcheck(lambda z: loss(z, targets), logits)


# -------------------------------------------------------------------------------------------------------- mixing


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize(
    "settings", [{"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 0.5, "cutmix_alpha": 0.5}]
)
def test_targets_are_mixed_as_the_images_are(mode, settings):
    """Images that are constant tell their shares: that of image j in the mixed image i is read from its mean."""
    random_seed(0)
    targets = (torch.rand(6, 4) < 0.4).float()
    images = torch.zeros(6, 3, 32, 32)
    images[:3] = 1.0  # the partner of image i is image 5 - i
    mixed, made = MultiLabelMixup(6, mode=mode, prob=1.0, **settings)(images.clone(), targets)
    share = mixed.mean((1, 2, 3))  # of the images that are 1
    own = torch.where(torch.arange(6) < 3, share, 1 - share)[:, None]
    torch.testing.assert_close(made, own * targets + (1 - own) * targets.flip(0), atol=2e-3, rtol=0)
    assert not torch.equal(made, targets)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem", "half"])
def test_mixing_in_the_loader(mode):
    random_seed(0)
    targets = (torch.rand(6, 4) < 0.4).float()
    images = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    images[:3] = 250
    batch = [(image.clone(), target) for image, target in zip(images, targets, strict=True)]
    mixed, made = MultiLabelWorkerMixup(6, mode=mode, mixup_alpha=1.0)(batch)
    number = 3 if mode == "half" else 6
    assert len(mixed) == len(made) == number
    share = mixed.float().mean((1, 2, 3)) / 250
    own = torch.where(torch.arange(number) < 3, share, 1 - share)[:, None]
    expected = own * targets[:number] + (1 - own) * targets.flip(0)[:number]
    torch.testing.assert_close(made, expected, atol=5e-3, rtol=0)


def test_a_batch():
    batch = [(torch.full((3, 2, 2), i, dtype=torch.uint8), torch.tensor([i, 1.0])) for i in range(2)]
    images, targets = collate_multi_label(batch)
    assert images.dtype == torch.uint8
    assert targets.tolist() == [[0.0, 1.0], [1.0, 1.0]]


# ---------------------------------------------------------------------------------------------------------- mark


class Network(torch.nn.Module):
    def __init__(self, **config):
        super().__init__()
        self.pretrained_cfg = self.default_cfg = {"architecture": "x", **config}


def test_mark():
    model = Network(notes=("trained by hand",))
    assert task_of_model(model) is SINGLE_LABEL
    config = model.pretrained_cfg
    mark_task(model, MULTI_LABEL)
    assert task_of_model(model) is MULTI_LABEL
    assert config["notes"] == ("trained by hand",)  # other models may share it
    mark_task(model, SINGLE_LABEL)
    assert task_of_model(model) is SINGLE_LABEL
    assert task_of_model(torch.nn.Linear(2, 2)) is SINGLE_LABEL
