"""Published checkpoints become model folders; what does not fit, or means harm, is refused in a sentence."""

import json
import os
import pickle
import struct
import zipfile

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.support.published import GOLDEN, PADE, image, state_dict
from tests.support.tools import slow_but, timm_gcp_command, write_images
from timm_gcp.commands import convert as command
from timm_gcp.commands.convert_variants import choose_by_images
from timm_gcp.errors import GCPError
from timm_gcp.weights.upstream import Published, convert, read_published
from timm_gcp.weights.upstream_layouts import is_published

STANDALONE = "fm.mpncovresnet50.standalone"
CLASSES = 3


@pytest.fixture(scope="module")
def weights():
    """The published ResNet-50 with SVD-Padé, of few classes; tests take copies."""
    return state_dict(PADE, CLASSES)


@pytest.fixture(scope="module")
def checkpoint(weights, tmp_path_factory):
    """The same as upstream's training saves it."""
    file = tmp_path_factory.mktemp("published") / "model_best.pth.tar"
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    saved = {"epoch": 60, "arch": "resnet50", "state_dict": weights, "best_prec1": torch.tensor(77.0)}
    torch.save({**saved, "optimizer": optimizer}, file)
    return file


def logits(model, size=64):
    with torch.no_grad():
        return model(image(size))


def test_a_file_is_converted_whatever_its_wrapper(weights, checkpoint, tmp_path):
    expected = read_published(checkpoint)
    assert expected.num_classes == CLASSES
    bare, whole = tmp_path / "bare.pth", {f"module.{key}": value for key, value in weights.items()}
    torch.save(whole, bare)
    for other in (read_published(bare), convert({k.replace(".module", ""): v for k, v in weights.items()})):
        assert other.model_args == expected.model_args
        assert all(torch.equal(value, expected.weights[key]) for key, value in other.weights.items())


def test_the_stride_comes_from_arch_or_from_the_order_of_the_entries(weights):
    behind = {k: v for k, v in weights.items() if not k.startswith("representation")}
    behind.update(weights)
    behind = {k: behind[k] for k in [*(k for k in behind if not k.startswith("repr")), *behind]}
    assert list(behind)[-1].startswith("representation")
    assert convert(weights).model_args["last_stride"] == 2
    assert convert(behind).model_args["last_stride"] == 1
    assert convert(behind, "resnet50").model_args["last_stride"] == 2
    assert convert(weights, "mpncovresnet50").model_args["last_stride"] == 1


def test_safetensors_sort_their_entries_so_the_stride_stays_open(weights, tmp_path):
    file = tmp_path / "pade.safetensors"
    save_file(weights, file)
    published = read_published(file)
    assert published.stride_open
    with pytest.raises(GCPError, match=r"does not tell the stride .* --last-stride 2"):
        published.build("svdpade")
    two = logits(published.build("svdpade", last_stride=2))
    assert torch.equal(two, logits(convert(weights).build("svdpade")))
    assert not torch.allclose(two, logits(published.build("svdpade", last_stride=1)), rtol=1e-2)


def test_a_network_fine_tuned_from_a_covariance_network():
    weights = state_dict(STANDALONE, CLASSES)
    places = ["conv1", "bn1", "-", "-", "layer1", "layer2", "layer3", "layer4", "layer_reduce", "layer_reduce_bn"]
    tuned = {}
    for key, value in weights.items():
        first, _, rest = key.partition(".")
        new = f"classifier.{rest}" if first == "fc" else f"features.module.{places.index(first)}.{rest}"
        tuned[new] = value
    one, other = convert(weights), convert(tuned)
    assert one.model_args == other.model_args == {"reduce": 256, "last_stride": 1}
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(value, other.weights[key]) for key, value in one.weights.items())


def test_weights_of_half_precision_and_without_counted_batches(weights):
    old = {k: v.half() if v.is_floating_point() else v for k, v in weights.items() if "num_batches" not in k}
    model = convert(old).build("isqrt")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.isfinite(logits(model)).all()


def test_the_older_order_of_the_triangle():
    n = 5
    matrix = torch.randn(n, n, dtype=torch.float64)
    matrix = matrix + matrix.T
    older = torch.ones(n, n).triu().t().reshape(-1).nonzero().squeeze(1)  # the entries that the older code took
    weight = torch.randn(2, n * (n + 1) // 2, dtype=torch.float64)

    def published(sha256):
        return Published({"fc.weight": weight}, "resnet50", 2, {}, False, "fc", "it", sha256)

    rows, columns = torch.triu_indices(n, n)
    ours = published("").state_dict("column")["fc.weight"] @ matrix[rows, columns]
    assert torch.allclose(ours, weight @ matrix.reshape(-1)[older])
    assert torch.equal(published("").state_dict()["fc.weight"], weight)
    # The two files of that time are known by their hashes.
    assert published("15991845" + "0" * 56).triu_order == published("ade9737a" + "0" * 56).triu_order == "column"
    assert not torch.equal(published("15991845" + "0" * 56).state_dict()["fc.weight"], weight)


def _without(weights, prefix):
    return {key: value for key, value in weights.items() if not key.startswith(prefix)}


CHANGES = {
    "unknown layer": (
        lambda w: {**w, "features.module.7.2.se.weight": torch.ones(1)},
        r"unexpected layer4\.2\.se\.weight",
    ),
    "another layer": (lambda w: {**w, "attention.weight": torch.ones(1)}, r"it has attention\.weight; give"),
    "missing block": (lambda w: _without(w, "features.module.7.2.bn1"), r"missing layer4\.2\.bn1\.weight"),
    "other shape": (lambda w: {**w, "features.module.1.bias": torch.ones(65)}, r"bn1\.bias \(65, not 64\)"),
    "fewer blocks": (lambda w: _without(w, "features.module.6.5"), "3-4-5-3 blocks"),
    "average pooling": (
        lambda w: {**_without(w, "repr"), "classifier.weight": torch.ones(CLASSES, 2048)},
        "no covariance head: its classifier sees 2048",
    ),
    "bilinear": (lambda w: {**w, "classifier.weight": torch.ones(CLASSES, 65536)}, "sees 65536 values"),
    "no classifier": (lambda w: _without(w, "classifier"), r"lacks the matrix classifier\.weight"),
    "no reduction": (lambda w: _without(w, "representation"), "of 2048 channels has 2098176"),
    "another task": (
        lambda w: {"backbone.conv.weight": torch.ones(1), "rpn.head": torch.ones(1)},
        "begin with backbone",
    ),
    "NaN": (
        lambda w: {**w, "features.module.1.bias": torch.full((64,), torch.nan)},
        r"holds NaN or infinite weights \(bn1\.bias\)",
    ),
    "infinity": (lambda w: {**w, "classifier.bias": torch.full((CLASSES,), torch.inf)}, r"\(fc\.bias\)"),
    "a view beyond its storage": (
        lambda w: {**w, "classifier.bias": torch.ones(1).expand(10**12)},
        r"without values of their own \(classifier\.bias\)",
    ),
    "no values": (lambda w: {**w, "classifier.bias": torch.ones(3, device="meta")}, "without values of their own"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_fit_is_refused_by_name(change, weights):
    make, message = CHANGES[change]
    with pytest.raises(GCPError, match=message) as refusal:
        convert(make(weights), "resnet50")
    assert "\n" not in str(refusal.value)


class Poison:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def poisoned(file, marker):
    torch.save({"epoch": 1, "arch": "resnet50", "state_dict": {"a": Poison(marker)}}, file)


def poisoned_legacy(file, marker):
    file.write_bytes(pickle.dumps(Poison(marker), protocol=2))


def empty(file, marker):
    file.write_bytes(b"")


def page(file, marker):
    file.write_text("<!DOCTYPE html><html><head><title>Google Drive</title></head></html>")


def truncated(file, marker):
    torch.save({"state_dict": {"a": torch.ones(10_000)}}, file)
    file.write_bytes(file.read_bytes()[:20_000])


def noise(file, marker):
    file.write_bytes(b"\x80\x02" + bytes(range(256)) * 8)


def rewritten(file, change, compression=zipfile.ZIP_STORED):
    torch.save({"state_dict": {"a": torch.zeros(10)}}, file)
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: change(info.filename, archive.read(info)) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def zip_bomb(file, marker):
    rewritten(file, lambda name, content: bytes(10**8) if name.endswith("/0") else content, zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 10**6


def size_bomb(file, marker):
    billions = b"J" + struct.pack("<i", 2 * 10**9)
    rewritten(file, lambda name, content: content.replace(b"K\x0a", billions) if name.endswith(".pkl") else content)


def numbered(file, marker):
    torch.save({0: torch.ones(3)}, file)


FILES = {
    poisoned: "holds pickled Python objects",
    poisoned_legacy: "damaged or not a PyTorch checkpoint",
    empty: "is empty",
    page: "is a web page",
    truncated: "damaged",
    noise: "damaged",
    zip_bomb: "is a compressed archive",
    size_bomb: "damaged",
    numbered: "holds no weights",
}


@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
def test_a_harmful_or_damaged_file_is_refused_unopened(make, tmp_path, capsys):
    file, marker, out = tmp_path / "checkpoint.pth.tar", tmp_path / "ran", tmp_path / "out"
    make(file, marker)
    with pytest.raises(GCPError, match=FILES[make]):
        command.main([str(file), "--model", "resnet50_svdpade", "--out", str(out)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name]


def test_the_poison_would_have_worked(tmp_path):
    poisoned_legacy(tmp_path / "file", tmp_path / "ran")
    pickle.loads((tmp_path / "file").read_bytes())
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 20) + b"{}", b""])
def test_a_safetensors_file_whose_header_lies(content, tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    with pytest.raises(GCPError, match=r"not a safetensors file|is empty"):
        read_published(file)


@pytest.fixture(scope="module")
def recognisable(tmp_path_factory):
    """A checkpoint that recognises some images with last stride 1 and the older order, and these images."""
    folder = write_images(tmp_path_factory.mktemp("recognisable"), per_class=2, splits=("all",)) / "all"
    files = [(file, label) for label, place in enumerate(sorted(folder.iterdir())) for file in sorted(place.iterdir())]
    weights = state_dict(PADE, CLASSES)
    model = convert(weights).build("isqrt", last_stride=1)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**{**config, "input_size": (3, 96, 96)}, is_training=False)
    with torch.no_grad():
        inputs = torch.stack([transform(Image.open(file)) for file, _ in files])
        pooled = model.forward_head(model.forward_features(inputs), pre_logits=True)
        centred = pooled - pooled.mean(0)
        rows = (
            torch.linalg.pinv(centred)
            @ torch.nn.functional.one_hot(torch.tensor([label for _, label in files])).float()
        )
    triangle = torch.zeros(CLASSES, 256, 256)
    i, j = torch.triu_indices(256, 256)
    triangle[:, j, i] = 1000 * rows.T  # below the diagonal, where the older code read, row by row
    i, j = torch.tril_indices(256, 256)
    weights["classifier.weight"] = triangle[:, i, j]
    weights["classifier.bias"] = -1000 * rows.T @ pooled.mean(0)
    return weights, folder, files


@pytest.mark.slow
def test_the_variant_is_found_by_images(recognisable):
    weights, _, files = recognisable
    lines = []
    config = {"input_size": (3, 96, 96)}
    choice = choose_by_images(convert(weights), "isqrt", files, data_config=config, report=lines.append)
    assert (choice.last_stride, choice.triu_order, choice.top1) == (1, "column", 100.0)
    assert len(lines) == 4
    assert lines[1].startswith("last stride 1, triangle by column: top-1 100.0 % of 6 images, loss ")
    fixed = choose_by_images(
        convert(weights), "isqrt", files, last_stride=2, triu_order="row", data_config=config, report=lines.append
    )
    assert (fixed.last_stride, fixed.triu_order) == (2, "row")
    assert len(lines) == 5


def test_images_that_cannot_decide(recognisable, tmp_path):
    weights, _, files = recognisable
    published, config = convert(weights), {"input_size": (3, 96, 96)}
    wrong = [(file, (label + 1) % CLASSES) for file, label in files]
    with pytest.raises(GCPError, match="recognises any of the 6 images"):
        choose_by_images(published, "isqrt", wrong, last_stride=1, triu_order="column", data_config=config, report=str)
    with pytest.raises(GCPError, match="no images"):
        choose_by_images(published, "isqrt", [])
    with pytest.raises(GCPError, match="has the label 3"):
        choose_by_images(published, "isqrt", [(files[0][0], 3)])
    (tmp_path / "bad.jpg").write_bytes(b"no")
    with pytest.raises(GCPError, match=r"bad\.jpg cannot be read"):
        choose_by_images(published, "isqrt", [(tmp_path / "bad.jpg", 0)])


def test_the_command_writes_a_folder_that_timm_loads(weights, checkpoint, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("wren\nrobin\nrook\n")
    out = tmp_path / "models" / "pade"
    done = timm_gcp_command(
        "convert", checkpoint, "--model", "resnet50_svdpade", "--out", out, "--class-names", names, "--img-size", 64
    )
    assert done.returncode == 0, done.stderr
    assert "resnet50, 3 classes, last stride 2, triangle by row." in done.stdout
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert torch.equal(logits(model), logits(convert(weights).build("svdpade")))
    config = json.loads((out / "config.json").read_text())
    assert config["label_names"] == ["wren", "robin", "rook"]
    assert config["model_args"]["last_stride"] == 2
    assert config["pretrained_cfg"]["crop_pct"] == 0.875
    card = (out / "README.md").read_text()
    assert f"from `{checkpoint.name}`, SHA-256 `{read_published(checkpoint).sha256}`" in card
    assert "Unverified" in card
    assert str(checkpoint.parent) not in card


@pytest.mark.slow
def test_the_command_finds_the_variant_by_images(recognisable, tmp_path, capsys):
    weights, folder, _ = recognisable
    torch.save(weights, tmp_path / "older.pth")
    arguments = ["--model", "resnet50_isqrt", "--out", str(tmp_path / "out"), "--img-size", "96"]
    assert command.main([str(tmp_path / "older.pth"), *arguments, "--images", str(folder)]) == 0
    assert "last stride 1, triangle by column." in capsys.readouterr().out
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert torch.equal(logits(model), logits(convert(weights).build("isqrt", 1, "column")))
    assert "chosen by images (top-1 100.0 %)" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_an_alexnet_without_batch_norm_says_so_in_its_folder(tmp_path, monkeypatch):
    shapes = {**GOLDEN["fm.alexnet.MPNCOV"]["keys"], "classifier.6.weight": [2, 4096], "classifier.6.bias": [2]}
    published = convert({key: torch.zeros(shape) for key, shape in shapes.items()}, "alexnet")
    monkeypatch.setattr(command, "read_published", lambda path: published)
    written = {}
    monkeypatch.setattr(command, "save_folder", lambda model, folder, **arguments: written.update(arguments))
    assert command.main(["given", "--model", "alexnet_isqrt", "--out", str(tmp_path / "out")]) == 0
    assert written["model_args"] == {"batch_norm": False}
    assert "without batch norm" in written["origin"]


@pytest.mark.slow
def test_bad_commands(checkpoint, tmp_path):
    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.tex").write_text("")
    one = tmp_path / "one.txt"
    one.write_text("wren\n")
    out, svdpade = ["--out", str(tmp_path / "out")], ["--model", "resnet50_svdpade"]
    images = write_images(tmp_path / "images", per_class=1, classes=("a", "b"), splits=("all",)) / "all"
    for arguments, message in [
        (out, "--model resnet50_isqrt .* or --model resnet50_svdpade"),
        ([*out, "--model", "resnet101_isqrt"], "holds a resnet50, not a resnet101; give --model resnet50_isqrt"),
        ([*out, "--model", "resnet50_svdpad"], "did you mean svdpade"),
        ([*out, "--model", "resnet50_bcnn"], "of another shape fc.weight"),
        (["--out", str(used), *svdpade], "exists and is not a model folder"),
        ([*out, *svdpade, "--class-names", str(one)], "has 1 classes, and .* 3"),
        ([*out, *svdpade, "--class-names", str(tmp_path / "none.txt")], "cannot be read"),
        ([*out, *svdpade, "--sha256", "0123abcd"], "has the SHA-256 .*, not 0123abcd"),
        ([*out, *svdpade, "--sha256", "wren"], "hexadecimal"),
        ([*out, *svdpade, "--crop-pct", "2"], "--crop-pct"),
        ([*out, *svdpade, "--images", str(images)], "has 2 classes, and .* 3: give --class-names"),
    ]:
        with pytest.raises(GCPError, match=message):
            command.main([str(checkpoint), *arguments])
    with pytest.raises(GCPError, match="There is no checkpoint"):
        command.main([str(tmp_path / "none.pth"), *out])
    assert not (tmp_path / "out").exists()
    assert (used / "thesis.tex").exists()


@pytest.mark.parametrize("network", [PADE, STANDALONE, pytest.param("ds.alexnet.SVD_Pade", marks=pytest.mark.slow)])
@pytest.mark.parametrize("prefix", slow_but({"lit.encoder."}, ["model.", "net.", "module.model.", "lit.encoder."]))
def test_published_layouts_under_the_prefix_of_a_wrapper(network, prefix, tmp_path, caplog):
    plain = state_dict(network, CLASSES)
    beside = {"criterion.weight": torch.ones(CLASSES), "head.bias": torch.ones(2)}
    file = tmp_path / "lightning.ckpt"
    torch.save({"state_dict": {**{f"{prefix}{key}": value for key, value in plain.items()}, **beside}}, file)
    assert command._trained(str(file)) is None, "taken for a checkpoint in timm's layout"
    expected, found = convert(plain), read_published(file)
    assert (found.backbone, found.model_args) == (expected.backbone, expected.model_args)
    assert found.weights.keys() == expected.weights.keys()
    assert all(torch.equal(value, found.weights[key]) for key, value in expected.weights.items())
    assert "took the" in caplog.text
    assert "left criterion.weight" in caplog.text


def test_several_published_networks_in_a_file_are_refused_unless_one_is_usual(weights):
    def under(*prefixes):
        return {f"{prefix}.{key}": value for prefix in prefixes for key, value in weights.items()}

    with pytest.raises(GCPError, match="holds the model several times"):
        convert(under("student", "teacher"))
    assert convert(under("teacher", "model")).num_classes == CLASSES


def test_a_wrapped_model_of_timm_is_not_taken_for_a_published_one():
    for name in ("test_resnet", "vgg11_bn", "mobilenetv3_small_050", "densenet121"):
        with torch.device("meta"):
            keys = timm.create_model(name).state_dict()
        assert not is_published({f"model.{key}": value for key, value in keys.items()}), name
