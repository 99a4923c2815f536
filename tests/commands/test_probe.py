"""``timm-gcp probe``: features, classifier and model folder of a frozen backbone, on real JPEG files."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
import timm
import torch
from PIL import Image

import timm_gcp
from tests.support.tools import timm_gcp_command, write_images
from timm_gcp import pool_features
from timm_gcp.__main__ import main
from timm_gcp.commands import probe as commands
from timm_gcp.commands.validate import parse_validate_args, validate
from timm_gcp.models.folder import save_folder, training_record
from timm_gcp.probing import cache as caches
from timm_gcp.probing import fits, heads
from timm_gcp.probing.backbone import Backbone
from timm_gcp.probing.fits import Gain, Result
from timm_gcp.probing.options import ProbeOptions

COMMON = ("--img-size", "64", "-j", "0", "-b", "8", "--device", "cpu")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Folders of plain networks with random weights."""
    found = {}
    for name in ("test_resnet", "test_vit"):
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("backbones") / name
        save_folder(timm.create_model(name, num_classes=4), folder)
        found[name] = folder
    return found


def probe(images, model, output, *more):
    return main(["probe", str(images), "--model", str(model), "--output", str(output), *COMMON, *map(str, more)])


@pytest.fixture(scope="module")
def probed(images, backbones, tmp_path_factory):
    output = tmp_path_factory.mktemp("probed")
    assert probe(images, backbones["test_resnet"], output, "--compare", "--components", "16") == 0
    return output


def test_smoke(images, backbones, tmp_path):
    argv = ["probe", images, "--model", backbones["test_resnet"], "--output", tmp_path, *COMMON]
    done = timm_gcp_command(*argv)
    assert done.returncode == 0, done.stderr
    assert "Model folder" in done.stdout


def test_what_it_writes(probed):
    result = json.loads((probed / "result.json").read_text())
    with open(probed / "heads.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["head"] for row in rows] == [each["head"] for each in result["heads"]]
    assert rows[0]["head"] == "mean and isqrt of the covariance"
    assert {"mean", "nearest neighbours of the mean", "isqrt of the covariance"} < {row["head"] for row in rows}
    assert int(rows[0]["features"]) == timm.create_model("test_resnet").num_features + 16 * 17 // 2
    assert result["components"] == 16
    with Image.open(probed / "heads.png") as image:
        assert image.size[0] > 300


def test_heads_that_were_not_measured_are_not_drawn(tmp_path, monkeypatch):
    """Logistic regression and Moment Probing have no leave-one-out: without an evaluation split, no accuracy."""
    drawn = []
    monkeypatch.setattr(commands, "save_figure", lambda figure, path: drawn.append(figure))
    picture = tmp_path / "heads.png"
    picture.write_bytes(b"of an earlier call")
    unmeasured = Result("isqrt of the covariance", 3, None, None, None, 0.1)
    results = [unmeasured, *(Result(f"head {k}", 3, k, None, None, 0.1) for k in (40.0, 20.0))]
    commands._draw(results, picture)
    (axes,) = drawn[0].axes
    assert [bar.get_width() for bar in axes.patches] == [20, 40]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["head 20.0", "head 40.0"]
    assert picture.exists()
    commands._draw(results[:2], picture)
    assert len(drawn) == 1
    assert not picture.exists()


def test_the_table_ranks_heads_that_were_not_measured_last(images, backbones):
    model = timm.create_model(f"local-dir:{backbones['test_resnet']}", pretrained=True)
    lines = []
    given = {"img_size": 64, "workers": 0, "device": "cpu", "val_split": "", "classifier": "logistic", "compare": True}
    found = timm_gcp.probe(model, images, say=lines.append, **given)
    shown = str(found).splitlines()
    measured = [each.head for each in found.results if each.accuracy is not None]
    assert measured == ["nearest neighbours of the mean"]
    rows = [line.strip(" │") for line in shown]
    first = next(row for row in rows if row.startswith(tuple(each.head for each in found.results)))
    assert first.startswith(measured[0])
    assert not any(": ," in line for line in lines)


def test_the_folder_gives_the_accuracy_of_the_table(probed, images):
    argv = ["--model", str(probed / "model"), "--data-dir", str(images), "-j", "0", "--device", "cpu"]
    row = validate(parse_validate_args(argv)).row
    first = json.loads((probed / "result.json").read_text())["heads"][0]
    assert row["top1"] == pytest.approx(first["validation"], abs=1e-3)


@pytest.mark.parametrize(("name", "first"), [("test_resnet", "mean"), ("test_vit", "class"), ("test_vit", "mean")])
def test_logits_are_those_of_the_features(name, first, images, backbones, tmp_path):
    """The model's own reduction, pool and classifier, against the same in float64 by hand."""
    size = () if name == "test_resnet" else ("--img-size", "160")
    assert probe(images, backbones[name], tmp_path, "--first-order", first, "--components", "12", *size) == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    plain = Backbone(timm.create_model(f"local-dir:{backbones[name]}", pretrained=True), ProbeOptions(device="cpu"))
    x = torch.randn(3, *model.pretrained_cfg["input_size"])
    features = plain.features(x)
    directions = model.global_pool.reduce.conv.weight.flatten(1).double()
    triangle = pool_features(directions @ features.maps.double(), "isqrt")
    vector = features.token if first == "class" else features.maps.mean(2)
    classifier = model.get_classifier()
    expected = torch.cat([vector.double(), triangle], 1) @ classifier.weight.T.double() + classifier.bias.double()
    logits = model(x).double()
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_stopped_and_started_again(images, backbones, tmp_path, monkeypatch):
    """The features that are there are kept, and the model is the same to the last bit."""
    assert probe(images, backbones["test_resnet"], tmp_path / "whole") == 0
    real, calls = caches._Writer.add, []

    def stopping(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self, *args)

    monkeypatch.setattr(caches._Writer, "add", stopping)
    assert probe(images, backbones["test_resnet"], tmp_path / "stopped") == 130
    assert not (tmp_path / "stopped" / "model").exists()
    assert probe(images, backbones["test_resnet"], tmp_path / "stopped") == 0
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()
    monkeypatch.undo()
    # Everything is there: no image is looked at again.
    monkeypatch.setattr(Backbone, "batches", lambda *args, **kwargs: pytest.fail("read again"))
    assert probe(images, backbones["test_resnet"], tmp_path / "stopped") == 0


def test_features_beyond_memory(images, backbones, tmp_path, monkeypatch):
    """They lie in a file that is gone afterwards; the model is the same."""
    assert probe(images, backbones["test_resnet"], tmp_path / "memory") == 0
    monkeypatch.setattr(heads, "IN_MEMORY", 0)
    assert probe(images, backbones["test_resnet"], tmp_path / "file") == 0
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("memory", "file")]
    assert files[0].read_bytes() == files[1].read_bytes()
    names = [{file.name for file in (tmp_path / name / "cache").rglob("*")} for name in ("memory", "file")]
    assert names[0] == names[1]


FULL = """
import resource, signal, sys
from timm_gcp.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write over the limit fails as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_full_disk_is_one_sentence(images, backbones, tmp_path):
    argv = ["probe", str(images), "--model", str(backbones["test_resnet"]), "--output", str(tmp_path), *COMMON]
    done = subprocess.run([sys.executable, "-c", FULL, "100000", *argv], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "cannot be written to" in done.stderr
    assert "give another --output" in done.stderr
    assert "Traceback" not in done.stderr
    assert main(argv) == 0  # with room again


def test_space_is_reserved_before_the_first_image(images, backbones, tmp_path, monkeypatch, capsys):
    """A write to a mapped file on a disk that has become full would kill the process without a word."""

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert probe(images, backbones["test_resnet"], tmp_path) == 2
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    assert probe(images, backbones["test_resnet"], tmp_path) == 0


def test_predict_and_export_take_the_folder(probed, images, tmp_path, capsys):
    model = str(probed / "model")
    assert main(["predict", str(images / "validation"), "--model", model, "--csv", str(tmp_path / "p.csv")]) == 0
    with open(tmp_path / "p.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(list((images / "validation").rglob("*.jpg")))
    pytest.importorskip("onnxruntime")
    assert main(["export", model, "--out", str(tmp_path / "p.onnx")]) == 0
    assert (tmp_path / "p.onnx").is_file()


@pytest.mark.parametrize("change", ["image", "weights", "size", "views"])
def test_a_stale_cache_is_not_used(change, images, backbones, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    model, more = backbones["test_resnet"], ()
    assert probe(tmp_path / "images", model, tmp_path / "out") == 0
    before = set((tmp_path / "out" / "cache").iterdir())
    if change == "image":
        file = next((tmp_path / "images" / "train").rglob("*.jpg"))
        Image.new("RGB", (80, 80), "red").save(file)
    elif change == "weights":
        torch.manual_seed(9)
        model = tmp_path / "other"
        save_folder(timm.create_model("test_resnet", num_classes=4), model)
    else:
        more = ("--img-size", "96") if change == "size" else ("--views", "2")
    assert probe(tmp_path / "images", model, tmp_path / "out", *more) == 0
    assert set((tmp_path / "out" / "cache").iterdir()) > before


def test_views_and_logistic_regression(images, backbones, tmp_path):
    more = ("--views", "2", "--classifier", "logistic", "--val-split", "")
    assert probe(images, backbones["test_resnet"], tmp_path, *more) == 0
    first = json.loads((tmp_path / "result.json").read_text())["heads"][0]
    assert first["left_out"] is first["validation"] is None
    assert timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).num_classes == 3


@pytest.mark.parametrize(("name", "first"), [("test_resnet", "mean"), ("test_vit", "class token")])
def test_moment_probing(name, first, images, backbones, tmp_path):
    """The folder has the accuracy of the table, and the same command gives it again to the last bit."""
    size = () if name == "test_resnet" else ("--img-size", "160")
    more = (*size, "--head", "mp", "--mp-args", "epochs=3", "width=56", "--components", "12")
    assert probe(images, backbones[name], tmp_path, *more, "--compare") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    heads = {each["head"]: each for each in result["heads"]}
    trained = heads[f"{first} and Moment Probing"]
    assert result["method"] == "mp"
    assert trained["left_out"] is None
    assert {f"{first} and isqrt of the covariance", "isqrt of the covariance", "mean"} < set(heads)
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    assert trained["features"] == model.get_classifier().in_features == model.num_features + 3 * 2 * 2
    argv = ["--model", str(tmp_path / "model"), "--data-dir", str(images), "-j", "0", "--device", "cpu"]
    row = validate(parse_validate_args(argv)).row
    assert row["top1"] == pytest.approx(trained["validation"], abs=1e-3)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert probe(images, backbones[name], tmp_path, *more) == 0
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    picture = next((images / "validation").rglob("*.jpg"))
    assert main(["predict", str(picture), "--model", str(tmp_path / "model"), "--device", "cpu"]) == 0


def bad_weights(backbones, tmp_path):
    model = timm.create_model(f"local-dir:{backbones['test_resnet']}", pretrained=True)
    with torch.no_grad():
        model.conv1[0].weight[0, 0, 0, 0] = torch.nan
    save_folder(model, tmp_path / "bad")
    return tmp_path / "bad"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--components", "9999"), "--components 9999: the feature map has"),
        (("--num-classes", "3"), "--num-classes has no effect"),
        (("--components", "0"), "--components: must be at least 1"),
        (("--first-order", "class"), "--first-order class needs a class token"),
        (("--method", "bcnn"), "no function of the covariance"),
        (("--mp-args", "epochs=3"), "--mp-args goes with --head mp"),
        (("--head", "mp", "--mp-args", "epoch=3"), "did you mean epochs?"),
        (("--head", "mp", "--mp-args", "epochs=0.5"), "epochs is a whole number"),
        (("--head", "mp", "--mp-args", "held_out=2"), "less than 1"),
        (("--method", "isqr"), "isqrt"),
        (("--img-size", "8"), "1 position"),
        (("--val-split", "dev"), "dev"),
    ],
)
def test_refused(more, message, images, backbones, tmp_path, capsys):
    assert probe(images, backbones["test_resnet"], tmp_path, *more) == 2
    error = capsys.readouterr().err
    assert message in error.replace("\n", " ")
    assert "Traceback" not in error
    assert not (tmp_path / "model").exists()


def test_features_that_are_not_finite(images, backbones, tmp_path, capsys):
    assert probe(images, bad_weights(backbones, tmp_path), tmp_path / "out") == 2
    assert "not finite" in capsys.readouterr().err


def test_one_class(backbones, tmp_path, capsys):
    write_images(tmp_path / "images", per_class=4, classes=("only",))
    assert probe(tmp_path / "images", backbones["test_resnet"], tmp_path / "out", "--val-split", "") == 2
    assert "two classes or more" in capsys.readouterr().err


def test_the_folder_starts_fine_tuning(probed, images, tmp_path, capsys):
    """Directions and classifier are those of the probe: the first epochs begin at its accuracy."""
    given = ["--model", str(probed / "model"), "--data-dir", str(images), "--img-size", "64", "-j", "0", "-b", "8"]
    more = [
        "--epochs",
        "1",
        "--lr",
        "1e-9",
        "--warmup-epochs",
        "0",
        "--no-aug",
        "--device",
        "cpu",
        "--output",
        str(tmp_path),
    ]
    assert main(["train", *given, *more, "--experiment", "x", "--smoothing", "0"]) == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'x' / 'model'}", pretrained=True)
    start = timm.create_model(f"local-dir:{probed / 'model'}", pretrained=True)
    assert torch.allclose(model.global_pool.reduce.conv.weight, start.global_pool.reduce.conv.weight, atol=1e-5)
    assert "with its classifier of 3 classes" in capsys.readouterr().out


def test_a_backbone_that_was_trained_on_the_images(images, backbones, tmp_path, capsys):
    """Its features of the training images are too good, so the evaluation split says whether covariance is worth it."""
    given = ["--data-dir", str(images), "--model", f"local-dir:{backbones['test_resnet']}", "--output", str(tmp_path)]
    assert main(["train", *given, *COMMON, "--epochs", "1", "--no-report", "--experiment", "x"]) == 0
    assert probe(images, tmp_path / "x", tmp_path / "seen", "--compare") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "trained on images of this name, so leave-one-out is too high" in shown
    assert "points of validation accuracy" in shown
    result = json.loads((tmp_path / "seen" / "result.json").read_text())
    best = max(head["validation"] for head in result["heads"] if "covariance" not in head["head"])
    assert result["validation_gain"]["points"] == pytest.approx(result["heads"][0]["validation"] - best, abs=1e-3)

    assert probe(images, tmp_path / "x", tmp_path / "alone", "--val-split", "") == 0
    assert "give a --val-split of other images" in " ".join(capsys.readouterr().out.split())

    assert probe(images, backbones["test_resnet"], tmp_path / "unseen", "--compare") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "too high" not in shown
    assert "points of leave-one-out accuracy" in shown


@pytest.mark.parametrize("first", ["probe", "train-only"])
def test_a_backbone_under_a_trained_head_has_not_seen_the_images(images, backbones, tmp_path, capsys, first):
    """A probe, and a run with ``--train-only``, train the head alone, so leave-one-out stays right."""
    if first == "probe":
        assert probe(images, backbones["test_resnet"], tmp_path) == 0
        start = tmp_path / "model"
    else:
        given = ["--data-dir", str(images), "--model", f"local-dir:{backbones['test_resnet']}", "--train-only", "head"]
        start = tmp_path / "x"
        assert (
            main(["train", *given, *COMMON, *("--epochs", "1"), *("--output", str(tmp_path), "--experiment", "x")]) == 0
        )
    assert probe(images, start, tmp_path / "second", "--compare") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "too high" not in shown
    assert "points of leave-one-out accuracy" in shown


@pytest.mark.parametrize("more", [["--train-split", "", "--val-split", ""], ["--val-fraction", "0.4"]])
def test_one_training_image_per_class(backbones, tmp_path, capsys, more):
    """There is no leave-one-out, hence none in the table, the record and the card; probabilities are usable."""
    folder = write_images(tmp_path / "photos", per_class=1 if more[0] == "--train-split" else 2, splits=("train",))
    where = folder / "train" if more[0] == "--train-split" else folder
    assert probe(where, backbones["test_resnet"], tmp_path / "out", "--compare", "--components", "8", *more) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "No class has two training images, so there is no leave-one-out" in shown
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["gain"] is None
    assert {head["left_out"] for head in result["heads"]} == {None}
    assert "top1_left_out" not in (tmp_path / "out" / "model" / "README.md").read_text()
    argv = ["predict", str(where), "--model", str(tmp_path / "out" / "model"), "--csv", str(tmp_path / "found.csv")]
    assert main([*argv, "--device", "cpu"]) == 0
    with open(tmp_path / "found.csv", newline="") as file:
        confidences = [float(row["probability_1"]) for row in csv.DictReader(file)]
    assert max(confidences) > 0.5  # 1/3 is chance


@pytest.mark.parametrize(
    ("only_head", "only_baseline", "text"),
    [
        (12, 2, "Covariance is worth it here: 'both' has +20.0 points of validation accuracy against 'mean'"),
        (2, 12, "Covariance is not worth it here: 'both' has -20.0 points"),
        (3, 1, "It is open whether covariance is worth it here: 'both' has +4.0 points"),
        (0, 0, "It is open whether covariance is worth it here: 'both' has +0.0 points"),
    ],
)
def test_the_verdict_is_of_the_head_that_is_saved(only_head, only_baseline, text):
    """Significant for and against, and neither; few images are no certainty."""
    gain = Gain("both", "mean", 50, only_head, only_baseline)
    assert commands._verdict(gain, "validation").startswith(text)
    right = torch.tensor([1.0] * only_head + [0.0] * only_baseline + [1.0] * (50 - only_head - only_baseline))
    other = torch.tensor([0.0] * only_head + [1.0] * only_baseline + [1.0] * (50 - only_head - only_baseline))
    better = torch.ones(50)
    found = fits._gain({"mean and isqrt of the covariance": right, "mean": other, "isqrt of the covariance": better})
    assert found == Gain("mean and isqrt of the covariance", "mean", 50, only_head, only_baseline)
    assert found.error == pytest.approx(100 * float((right - other).std(unbiased=False)) / 50**0.5)


def test_the_function_builds_the_model_of_the_command(images, backbones, tmp_path):
    """A ViT for images of another size than its own, from a model folder or the folder of an earlier run."""
    output, size = tmp_path / "probe", {"img_size": 64, "device": "cpu", "workers": 0}
    assert probe(images, backbones["test_vit"], output, "--components", "8") == 0
    for model in (backbones["test_vit"], output):
        found = timm_gcp.probe(str(model), str(images), components=8, say=lambda line: None, **size)
        assert found.model.patch_embed.img_size == (64, 64)
        assert found.results[0].validation == json.loads((output / "result.json").read_text())["heads"][0]["validation"]


def test_a_backbone_that_had_a_covariance_pool(images, tmp_path):
    """Its backbone is probed, and the pool of the probe takes the place of its own."""
    assert probe(images, "test_resnet_svdpade.grocery", tmp_path, "--components", "16", "--first-order", "none") == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    before = timm.create_model("test_resnet_svdpade.grocery", pretrained=True).eval()
    assert model.global_pool.method == "isqrt"
    assert model.get_classifier().in_features == 16 * 17 // 2
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.forward_features(x), before.forward_features(x))


def test_a_part_held_out_is_recorded(images, backbones, tmp_path, capsys, caplog):
    """``validate --val-fraction`` evaluates the same images, and refuses others."""
    folder, model = images / "train", backbones["test_resnet"]
    assert probe(folder, model, tmp_path, "--val-fraction", "0.25") == 0
    first = json.loads((tmp_path / "result.json").read_text())["heads"][0]
    training = training_record(tmp_path / "model")
    assert training["data"]["held_out"]["fraction"] == 0.25
    assert training["started_from"]["name"] == "test_resnet"
    argv = ["--model", str(tmp_path / "model"), "--data-dir", str(folder), "-j", "0", "--device", "cpu"]
    row = validate(parse_validate_args([*argv, "--val-fraction", "0.25"])).row
    assert row["top1"] == pytest.approx(first["validation"], abs=1e-3)
    assert "trained without --val-fraction" not in caplog.text
    assert main(["validate", *argv, "--val-fraction", "0.5"]) == 2
    assert "was trained with --val-fraction 0.25" in capsys.readouterr().err


def test_mixed_precision_has_features_of_its_own(images, backbones, tmp_path):
    assert probe(images, backbones["test_resnet"], tmp_path) == 0
    before = set((tmp_path / "cache").iterdir())
    assert probe(images, backbones["test_resnet"], tmp_path, "--amp", "--amp-dtype", "bfloat16") == 0
    assert set((tmp_path / "cache").iterdir()) > before
