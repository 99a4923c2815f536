"""``timm_gcp.probe`` from Python: a folder, a loader, arrays."""

import copy
import itertools

import pytest
import timm
import torch
from torch.utils.data import DataLoader, TensorDataset

import timm_gcp
from timm_gcp import GCPError
from timm_gcp.probing import api, directions


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=4).eval()


@pytest.fixture
def arrays():
    """Images of two classes: the colours are correlated in one, and not in the other."""
    torch.manual_seed(1)
    labels = torch.arange(48) % 2
    grey = torch.randn(48, 1, 64, 64).expand(-1, 3, -1, -1)
    return torch.where(labels[:, None, None, None] == 0, grey, torch.randn(48, 3, 64, 64)), labels


def fitted(backbone, train, *more, **options):
    return timm_gcp.probe(backbone, train, *more, device="cpu", say=lambda line: None, **options)


def test_arrays(backbone, arrays):
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    images, labels = arrays
    found = fitted(backbone, arrays, arrays, components=8, class_names=["grey", "coloured"])
    assert found.results[0].left_out == 100
    assert found.results[0].validation == 100
    with torch.inference_mode():
        assert (found.model(images).argmax(1) == labels).all()
    assert found.metrics == {"top1": 100, "top1_left_out": 100}
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_directions_are_found_in_images_of_all_classes(backbone, arrays, monkeypatch):
    """In arrays that are sorted by class, the first images are of one class."""
    images, labels = arrays
    order = labels.argsort(stable=True)
    monkeypatch.setattr(directions, "SUBSET", 12)
    monkeypatch.setattr(api, "SUBSET", 12)
    seen = []
    real = api._some_maps
    monkeypatch.setattr(api, "_some_maps", lambda _, batches: seen.extend(batches) or real(_, batches))
    fitted(backbone, (images[order], labels[order]), components=8, batch_size=6)
    found = torch.cat([given for _, given in seen])
    assert len(found) == 12
    assert found.bincount().tolist() == [6, 6]


def test_predictions_are_those_of_the_model(backbone, arrays):
    images, labels = arrays
    noisy = torch.where(torch.arange(48) < 6, 1 - labels, labels)  # labels that no head can fit
    found = fitted(backbone, arrays, (images, noisy), components=8, class_names=["grey", "coloured"])
    predictions = found.predictions()
    with torch.inference_mode():
        logits = found.model(images)
    assert predictions.images == [str(k) for k in range(48)]
    assert predictions.class_names == ["grey", "coloured"]
    assert (torch.tensor(predictions.predicted) == logits.argmax(1)).all()
    expected = torch.nn.functional.cross_entropy(logits, noisy, reduction="none")
    torch.testing.assert_close(torch.tensor(predictions.loss).float(), expected, rtol=1e-2, atol=1e-3)
    left_out = fitted(backbone, (images, noisy), components=8)
    right = left_out.predictions().right
    assert 100 * right.mean() == pytest.approx(left_out.results[0].left_out)


def test_a_shuffled_loader_gives_what_arrays_give(backbone, arrays):
    torch.manual_seed(2)
    loader = DataLoader(TensorDataset(*arrays), 7, shuffle=True)
    one, two = fitted(backbone, arrays, components=8), fitted(backbone, loader, components=8)
    x = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(one.model(x), two.model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("kind", "cuts"), [(tuple, (0, 20, 48)), (list, (0, 2, 48)), (list, (0, 20, 30, 48))])
def test_batches_in_a_list_are_no_pair_of_arrays(kind, cuts, backbone, arrays):
    images, labels = arrays
    batches = kind(kind((images[start:stop], labels[start:stop])) for start, stop in itertools.pairwise(cuts))
    one, two = fitted(backbone, arrays, arrays, components=8), fitted(backbone, batches, batches, components=8)
    assert one.results[0].validation == two.results[0].validation
    x = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(one.model(x), two.model(x), rtol=1e-3, atol=1e-3)


def test_a_pair_of_two_images_and_their_labels_is_one(backbone, arrays):
    found = fitted(backbone, arrays, (arrays[0][:2].tolist(), [0, 1]), components=8)
    assert found.results[0].validation == 100


def test_numpy_arrays(backbone, arrays):
    found = fitted(backbone, tuple(each.numpy() for each in arrays), components=8)
    assert found.results[0].left_out == 100


def test_a_folder(backbone, images, tmp_path):
    found = fitted(backbone, images, img_size=64, workers=0, batch_size=8, compare=True, cache=tmp_path / "cache")
    assert any((tmp_path / "cache").iterdir())
    assert found.class_names == sorted(path.name for path in (images / "train").iterdir())
    assert len(found.results) == 4
    assert "leave-one-out" in str(found)
    assert found._repr_html_().startswith("<pre>")
    found.save(tmp_path / "model")
    again = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(x), found.model(x))


def test_all_heads_of_a_backbone_with_a_class_token(arrays):
    torch.manual_seed(0)
    found = fitted(timm.create_model("test_vit", img_size=64, num_classes=0), arrays, compare=True, components=8)
    assert found.head.first_order == "class"
    heads = {result.head for result in found.results}
    assert {"class token", "mean", "mean and class token", "nearest neighbours of the class token"} < heads


def test_mean_and_class_token_beside_the_covariance(arrays):
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", img_size=64, num_classes=0)
    found = fitted(vit, arrays, components=8, first_order="mean+class")
    assert found.results[0].head == "mean, class token and isqrt of the covariance"
    assert found.results[0].features == 2 * vit.num_features + 36 == found.model.get_classifier().in_features
    with torch.inference_mode():
        assert (found.model(arrays[0]).argmax(1) == arrays[1]).double().mean() > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"komponents": 8}, "no option 'komponents'; did you mean components"),
        ({"val_split": "x"}, "`val_split` goes with a folder"),
        ({"views": 2}, "`views` goes with a folder"),
        ({"cache": "x"}, "`cache` goes with a folder"),
        ({"components": 999}, "`components=999`: the feature map has"),
        ({"first_order": "class"}, "needs a class token"),
        ({"first_order": "median"}, "`first_order=median` of a probe is unknown"),
        ({"classifier": "rigde"}, "`classifier=rigde` of a probe is unknown; there are ridge, logistic; did you mean"),
        ({"batch_size": 0}, "`batch_size=0`: give 1 or more"),
        ({"views": 3}, "`views=3`: give 1, or 2"),
        ({"views": 0}, "`views=0`: give 1, or 2"),
        ({"method": "bcnn"}, "`method=bcnn` is no function of the covariance"),
        ({"class_names": ["grey"]}, "`class_names` names 1 of 2 classes"),
    ],
)
def test_refused_options(options, message, backbone, arrays):
    with pytest.raises(GCPError) as error:
        fitted(backbone, arrays, **options)
    assert message in str(error.value)


@pytest.mark.parametrize("classifier", ["ridge", "logistic"])
def test_labels_of_one_class(classifier, backbone, arrays):
    with pytest.raises(GCPError, match="two classes or more"):
        fitted(backbone, (arrays[0][:8], torch.ones(8).long()), classifier=classifier, components=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, labels: ((images * 20 + 128).byte(), labels), "The images are of uint8: give floating-point"),
        (lambda images, labels: (images, labels - 1), "There is a label -1; number the classes from 0"),
        (lambda images, labels: (images, labels.double()), "of float64: give whole numbers"),
        (lambda images, labels: [(images[:4], labels[:4].view(2, 2))] * 3, "The labels are [2, 2] of int64"),
        (
            lambda images, labels: (images.movedim(1, 3), labels),
            "The images are [8, 64, 64, 3]: give [B, C, H, W] with C=3",
        ),
        (lambda images, labels: [(images[:4].movedim(1, 3), labels[:4])] * 2, "The images are [4, 64, 64, 3]: give [B"),
        (
            lambda images, labels: (images[:, :1], labels),
            "The images are [8, 1, 64, 64]: give [B, C, H, W] with C",
        ),
        (lambda images, labels: (images[:, 0], labels), "The images are [8, 64, 64]: give [B, C, H, W] with C=3"),
        (lambda images, labels: [images, images, images], "Images and labels are given as two tensors or arrays"),
        (
            lambda images, labels: [{"image": images, "label": labels}],
            "two tensors or arrays, [B, C, H, W] and [B]",
        ),
        (lambda images, labels: (1, 2, 3), "Images and labels are given as two tensors or arrays"),
        (lambda images, labels: 3, "Something of type int holds no images; give a folder, batches or a pair of arrays"),
    ],
)
@pytest.mark.parametrize("evaluated", [False, True])
def test_refused_arrays(change, message, evaluated, backbone, arrays):
    some = arrays[0][:8], arrays[1][:8]
    given = (some, change(*some)) if evaluated else (change(*some),)
    with pytest.raises(GCPError) as error:
        fitted(backbone, *given, components=8)
    assert message in str(error.value)


def test_images_of_a_model_of_one_channel(arrays):
    grey = timm.create_model("test_resnet", in_chans=1, num_classes=4).eval()
    assert fitted(grey, (arrays[0][:16, :1], arrays[1][:16]), components=8).model.num_classes == 2
    with pytest.raises(GCPError, match="with C=1, as the model takes them"):
        fitted(grey, arrays, components=8)


def test_a_label_that_the_training_images_lack(backbone, arrays):
    some = arrays[0][:8], arrays[1][:8]
    with pytest.raises(GCPError, match="`evaluation` has the label 2"):
        fitted(backbone, some, (some[0], some[1] + 1), components=8)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_arrays_and_models_of_another_precision(kind, backbone, arrays):
    """The probe is that of float32."""
    images, labels = arrays[0][:16].to(kind), arrays[1][:16]
    model = copy.deepcopy(backbone).to(kind)
    plain = fitted(copy.deepcopy(model).float(), (images.float(), labels), components=8)
    found = fitted(model, (images, labels), components=8)
    assert next(model.parameters()).dtype == kind
    assert {each.dtype for each in found.model.parameters()} == {torch.float32}
    x = torch.randn(3, 3, 64, 64)
    assert torch.equal(found.model(x), plain.model(x))


def test_a_compiled_model(backbone, arrays):
    some = arrays[0][:16], arrays[1][:16]
    found = fitted(torch.compile(backbone), some, components=8)
    x = torch.randn(3, 3, 64, 64)
    assert torch.equal(found.model(x), fitted(backbone, some, components=8).model(x))


def test_refused_input(backbone, arrays, images):
    with pytest.raises(GCPError, match="A pair of arrays"):
        fitted(backbone, (arrays[0], arrays[1][:5]))
    with pytest.raises(GCPError, match="two classes or more"):
        fitted(backbone, (arrays[0], torch.zeros(48).long()))
    with pytest.raises(GCPError, match="more than once"):
        fitted(backbone, iter(DataLoader(TensorDataset(*arrays), 64)))
    with pytest.raises(GCPError, match="not finite"):
        fitted(backbone, (arrays[0] * torch.nan, arrays[1]))
    with pytest.raises(GCPError, match="its own evaluation split"):
        fitted(backbone, images, arrays)
