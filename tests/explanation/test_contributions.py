"""timm_gcp.explain on models: the sum rule for every head, and maps that point at what decides."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision.transforms.functional import to_tensor

import timm_gcp
from timm_gcp import GCPError, graft
from timm_gcp.data.textures import TextureDataset
from timm_gcp.explanation.grid import grid_of


def model_of(backbone="test_resnet", method="isqrt", num_classes=5, **head):
    """A model in float64 with random weights, also those of the classifier."""
    torch.manual_seed(0)
    model = graft(timm.create_model(backbone, num_classes=num_classes), method, **head).double().eval()
    nn.init.normal_(model.get_classifier().weight)
    nn.init.normal_(model.get_classifier().bias)
    return model


def images_of(model, number=2, size=None):
    _, height, width = model.pretrained_cfg["input_size"]
    return torch.randn(number, 3, *(size or (height, width)), dtype=torch.float64)


def parts_of(found):
    mean = 0 if found.mean is None else found.mean.sum((2, 3))
    return found.covariance.sum((2, 3)) + mean + (0 if found.token is None else found.token) + found.bias


HEADS = [
    {},
    {"reduce": 0},
    {"reduction": "linear"},
    {"reduction": "linear_norm", "first_order": "mean"},
    {"first_order": "mean", "normalize_parts": True},
    {"groups": 4},
    {"groups": 2, "count_sketch": 300, "first_order": "mean"},
    {"method": "svdpade", "method_args": {"alpha": 0.4}},
    {"method": "mpa", "first_order": "mean"},
    {"method": "cov", "channel_dropout": 0.2},
    {"method": "bdc", "groups": 2},
]


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_contributions_add_up_to_the_logits(head):
    model = model_of(**head)
    images = images_of(model)
    model.train()
    found = timm_gcp.explain(model, images, top=2)
    assert all(module.training for module in model.modules())
    logits = model.eval()(images)
    best = logits.topk(2)
    assert torch.equal(found.classes, best.indices)
    side = model.forward_features(images).shape[-1]
    assert found.covariance.shape == (2, 2, side, side)
    assert (found.mean is not None) == (head.get("first_order") == "mean")
    # isqrt and cov run in float32 in the model
    torch.testing.assert_close(found.logits, best.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts_of(found), found.logits, rtol=1e-12, atol=1e-12)
    expected = logits.softmax(1).gather(1, best.indices)
    torch.testing.assert_close(found.probabilities.double(), expected, rtol=1e-4, atol=1e-6)


def test_against_the_gradient_of_the_whole_model():
    """For an exact method position m contributes ⟨x̄ₘ, ∂logit/∂x̄ₘ⟩, by the backward of the model itself."""
    model = model_of(method="polar", reduction="linear")
    images, kept = images_of(model), []
    model.global_pool.channel_dropout.register_forward_hook(lambda _, args, out: kept.append(out))
    logits = model(images)
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), kept[0])
    centred = kept[0] - kept[0].mean((2, 3), keepdim=True)
    found = timm_gcp.explain(model, images, classes=[1, 3])
    assert found.classes.tolist() == [[1, 3], [1, 3]]
    torch.testing.assert_close(found.covariance[:, 1], (centred * gradient).sum(1))
    torch.testing.assert_close(found.logits, logits[:, [1, 3]])


@pytest.mark.parametrize(
    ("backbone", "head", "size", "grid"),
    [
        ("test_vit", {"first_order": "mean+class"}, None, (10, 10)),
        ("test_vit", {"first_order": "class", "normalize_parts": True}, None, (10, 10)),
        ("test_vit", {"dynamic_img_size": True}, (96, 160), (6, 10)),
        ("test_convnext", {"first_order": "mean"}, (96, 160), (3, 5)),
        pytest.param("swin_tiny_patch4_window7_224", {"reduce": 32}, None, (7, 7), marks=pytest.mark.slow),
        pytest.param("mixer_s32_224", {"reduce": 32}, None, (7, 7), marks=pytest.mark.slow),
    ],
)
def test_tokens_and_maps_of_other_layouts(backbone, head, size, grid):
    torch.manual_seed(0)
    dynamic = {"dynamic_img_size": True} if head.pop("dynamic_img_size", False) else {}
    model = graft(timm.create_model(backbone, num_classes=5, **dynamic), "polar", **head).double().eval()
    nn.init.normal_(model.get_classifier().weight)
    images = images_of(model, size=size)
    found = timm_gcp.explain(model, images)
    assert found.covariance.shape == (2, 3, *grid)
    assert (found.token is None) == ("class" not in (head.get("first_order") or ""))
    torch.testing.assert_close(parts_of(found), model(images).topk(3).values)


def test_tokens_lie_row_by_row():
    """A change of one patch's features changes the contributions at its place most."""
    model = model_of("test_vit", "cov", reduce=0)
    model.blocks = nn.Identity()  # patches do not see one another
    images = images_of(model, 1) * 0.01
    images[..., 3 * 16 : 4 * 16, 7 * 16 : 8 * 16] = torch.randn(16, 16, dtype=torch.float64)
    found = timm_gcp.explain(model, images).covariance[0, 0].abs()
    assert divmod(int(found.argmax()), 10) == (3, 7)


def test_float32_inference_mode_and_more_classes_than_there_are():
    model = model_of().float()
    images = images_of(model).float()
    with torch.inference_mode():
        found = timm_gcp.explain(model, images.clone(), top=50)
    assert found.classes.shape == (2, 5)
    torch.testing.assert_close(
        found.logits.float(), model(images).sort(1, descending=True).values, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: timm.create_model("test_resnet"), "has no covariance pool to explain"),
        (lambda: graft(timm.create_model("test_resnet"), "logm"), "Method 'logm' cannot be explained"),
        (lambda: graft(timm.create_model("test_resnet"), "mp", reduce=64), "Method 'mp' cannot be explained"),
        (lambda: graft(timm.create_model("test_resnet", num_classes=0)), "has no linear classifier to explain"),
    ],
)
def test_refusals(model, message):
    with pytest.raises(GCPError, match=message):
        timm_gcp.explain(model(), torch.randn(1, 3, 64, 64))


def test_classes_and_hidden_layers_are_checked():
    model = model_of()
    for given, message in (([7], "`classes` has 7; give labels from 0 to 4"), ([], "`classes` has no class")):
        with pytest.raises(GCPError, match=message):
            timm_gcp.explain(model, images_of(model), classes=given)
    for wrong in (images_of(model)[0], images_of(model)[:0]):
        with pytest.raises(GCPError, match="`images` is a batch"):
            timm_gcp.explain(model, wrong)
    with pytest.raises(GCPError, match="`top=0`"):
        timm_gcp.explain(model, images_of(model), top=0)
    with torch.device("meta"):
        hidden = graft(timm.create_model("vgg11"), "polar")
    with pytest.raises(GCPError, match="hidden layers between pool and classifier"):
        timm_gcp.explain(hidden, torch.randn(1, 3, 64, 64))


def test_grids():
    assert grid_of(196, (224, 224)) == (14, 14)
    assert grid_of(60, (96, 160)) == (6, 10)
    assert grid_of(15 * 20, (480, 640)) == (15, 20)
    for tokens in (197, 50):
        with pytest.raises(GCPError, match=f"The {tokens} tokens of an image of 224x224 pixels are no grid"):
            grid_of(tokens, (224, 224))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["polar", "isqrt"])
def test_the_map_points_at_the_texture_that_decides(method):
    """Noise with a patch of one of two textures somewhere: the evidence for its class is in that corner."""
    patches = TextureDataset("train", 2, 50, img_size=48, seed=1)
    random = np.random.default_rng(0)

    def picture(index, place):
        image = 0.02 * torch.from_numpy(random.standard_normal((3, 160, 160))).float()
        patch, label = patches[index]
        image[:, place[0] : place[0] + 48, place[1] : place[1] + 48] = to_tensor(patch) - 0.5
        return 4 * image, label

    images, labels = zip(*(picture(i, random.integers(0, 113, 2)) for i in range(96)), strict=True)
    backbone = timm.create_model("test_resnet_svdpade.grocery", pretrained=True)
    given = torch.stack(images), torch.tensor(labels)
    found = timm_gcp.probe(backbone, given, method=method, first_order="none", device="cpu", say=lambda _: None)
    for place in ((0, 0), (0, 112), (112, 0), (112, 112)):
        pictures = torch.stack([picture(index, place)[0] for index in (96, 98)])
        corner = torch.zeros(10, 10, dtype=torch.bool)
        rows, columns = (slice(0, 4) if edge == 0 else slice(6, 10) for edge in place)
        corner[rows, columns] = True
        for shares in timm_gcp.explain(found.model, pictures, classes=[0]).covariance[:, 0]:
            assert shares.shape == (10, 10)
            assert corner.flatten()[shares.argmax()]
            assert shares[corner].sum() > 0.8 * shares.sum()
            assert shares[corner].mean() > 2 * shares[~corner].abs().mean()


@pytest.mark.parametrize("other", ["explain", "forward"])
def test_a_model_that_two_threads_use(other):
    """Each gets the explanation of its own images, and the model is as it was."""
    model = model_of(reduction="linear").train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0  # a forward pass in training mode leaves the statistics, whichever pass is first
    batches = [images_of(model, size=(64, 64)) for _ in range(2)]
    alone = [timm_gcp.explain(model, images) for images in batches]
    model.conv1.register_forward_hook(lambda *_: time.sleep(0.1))  # the two forward passes overlap, if they may
    calls = [timm_gcp.explain, timm_gcp.explain if other == "explain" else lambda model, images: model(images)]
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(call, model, images) for call, images in zip(calls, batches, strict=True)]
        found = [each.result() for each in running]
    for one, two in zip(found if other == "explain" else found[:1], alone, strict=False):
        torch.testing.assert_close(one.covariance, two.covariance, rtol=0, atol=0)
        assert torch.equal(one.probabilities, two.probabilities)
    assert all(module.training for module in model.modules())
