"""Moment Probing on stored features: what it learns, that it can be repeated, and the model that it becomes."""

import copy

import pytest
import timm
import torch

from timm_gcp import GCPError, graft
from timm_gcp.probing.classifiers import nearest_neighbours
from timm_gcp.probing.directions import Directions
from timm_gcp.probing.features import FeatureArrays, Features
from timm_gcp.probing.fold import fold
from timm_gcp.probing.moment import _split, fit_moment
from timm_gcp.probing.options import MomentSettings

QUICK = {"width": 28, "epochs": 12, "learning_rate": 1e-2, "batch_size": 32, "positions": 1.0, "smoothing": 0.0}


def features_of(maps, labels, directions, token=None):
    found = FeatureArrays(directions)
    found.add(Features(maps, token), labels)
    return found


def correlated(images, seed):
    """Maps of mean zero whose class is the sign of a correlation between two halves of the channels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % 2
    one, noise = (torch.randn(images, 4, 25, generator=generator) for _ in range(2))
    other = one * (2 * labels - 1)[:, None, None] + 0.3 * noise
    maps = torch.cat([one, other], 1)
    return maps - maps.mean(2, keepdim=True), labels


def fitted(seed=0, first_order="mean", **changes):
    """A head for two classes that a mean cannot tell apart, the logits of other maps, and those maps."""
    directions = Directions(torch.linalg.qr(torch.randn(10, 8))[0].T.contiguous(), 1.0)
    lift = directions.matrix.T  # 8 numbers → 10 channels along the directions
    maps, labels = correlated(160, 1)
    new, new_labels = correlated(80, 2)
    constant = torch.randn(10)[:, None]
    train = features_of(lift @ maps + constant, labels, directions)
    evaluation = features_of(lift @ new + constant, new_labels, directions)
    settings = MomentSettings(**{**QUICK, "seed": seed, **changes})
    head, logits = fit_moment(train, evaluation, directions, 2, first_order, settings, say=lambda line: None)
    return head, logits, lift @ new + constant, new_labels, train


def test_what_a_mean_cannot_tell_apart():
    _, logits, maps, labels, train = fitted()
    assert (logits.argmax(1) == labels).float().mean() > 0.9
    neighbours = nearest_neighbours(train.first("mean"), train.labels(), 2, maps.mean(2))
    assert (neighbours.argmax(1) == labels).float().mean() < 0.7


@pytest.mark.parametrize("first_order", ["mean", None])
def test_the_pool_gives_the_logits_of_the_features(first_order):
    head, logits, maps, _, _ = fitted(first_order=first_order, epochs=2)
    pooled = head.pool(maps.unsqueeze(3)).double()
    assert torch.allclose(pooled @ head.weights.T + head.bias, logits.double(), atol=1e-4)


def test_the_same_seed_gives_the_same_weights():
    torch.manual_seed(0)
    one = fitted(positions=0.5, epochs=3)[0]
    before = torch.get_rng_state()
    torch.manual_seed(0)
    other = fitted(positions=0.5, epochs=3)[0]
    assert torch.equal(before, torch.get_rng_state())
    for name, tensor in one.pool.state_dict().items():
        assert torch.equal(tensor, other.pool.state_dict()[name])
    assert torch.equal(one.weights, other.weights)
    assert torch.equal(one.bias, other.bias)
    assert one.epochs == other.epochs
    torch.manual_seed(0)
    assert not torch.equal(fitted(seed=1, positions=0.5, epochs=3)[0].weights, one.weights)


def test_the_epoch_is_chosen_on_images_that_are_held_out():
    labels = torch.tensor([0] * 20 + [1] * 10 + [2])
    kept, held = _split(labels, MomentSettings(held_out=0.2))
    assert sorted(torch.cat([kept, held]).tolist()) == list(range(31))
    assert labels[held].bincount(minlength=3).tolist() == [4, 2, 0]
    lines = []
    maps, labels = correlated(60, 3)
    directions = Directions(torch.eye(8), 1.0)
    train = features_of(maps, labels, directions)
    head, _ = fit_moment(train, None, directions, 2, None, MomentSettings(**QUICK, held_out=0.2), say=lines.append)
    assert f"12 held-out training images after epoch {head.epochs} of 12" in lines[0]
    without, _ = fit_moment(train, None, directions, 2, None, MomentSettings(**QUICK, held_out=0), say=lines.append)
    assert (without.epochs, len(lines)) == (12, 1)


@pytest.mark.parametrize(("name", "first_order"), [("test_resnet", "mean"), ("test_vit", "class"), ("test_vit", None)])
def test_the_model(name, first_order):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4).eval()
    channels = model.num_features
    directions = Directions(torch.linalg.qr(torch.randn(channels, 12))[0].T.contiguous(), 1.0)
    images = torch.randn(6, *model.pretrained_cfg["input_size"])
    with torch.inference_mode():  # a pool on a ResNet takes away the last stride
        x = graft(copy.deepcopy(model), "isqrt", reduce=0).forward_features(images)
    prefix = getattr(model, "num_prefix_tokens", 0)
    maps, token = (x[:, prefix:].mT, x[:, 0]) if x.dim() == 3 else (x.flatten(2), None)
    features = features_of(maps, torch.arange(6) % 3, directions, token)
    settings = MomentSettings(**{**QUICK, "epochs": 1})
    head, logits = fit_moment(features, features, directions, 3, first_order, settings, say=lambda line: None)
    folded = fold(model, head)
    with torch.inference_mode():
        assert torch.allclose(folded(images), logits, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"positions": 0}, "positions=0"),
        ({"held_out": 1}, "held_out=1"),
        ({"learning_rate": 0}, "learning rate above 0"),
        ({"width": 30}, "reduce=30"),
        ({"learning_rate": 1e30}, "not finite"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(GCPError, match=message):
        fitted(**changes)
