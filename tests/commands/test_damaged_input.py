"""Damaged input of every kind ends in a clear error or a counted skip, never in a traceback.

Every case is a real file, broken by a seeded random change. ``TIMM_GCP_FUZZ=5000`` tries that many of each kind.
"""

import json
import os
import random
import re
import shutil
import warnings
from pathlib import Path

import pytest
import timm
import torch
import yaml

from tests.support.tools import MODEL, write_images
from timm_gcp.__main__ import main
from timm_gcp.commands.train import parse_train_args
from timm_gcp.data import check_images, create_dataset
from timm_gcp.errors import GCPError
from timm_gcp.models.folder import save_folder
from timm_gcp.models.named import create_model, model_from_checkpoint
from timm_gcp.weights.file import load_training_checkpoint, read_weights
from timm_gcp.weights.manifest import MANIFEST, read_manifest
from timm_gcp.weights.upstream import read_published

CASES = int(os.environ.get("TIMM_GCP_FUZZ", "60"))


def damaged(content, chance):
    """A random change of some bytes: cut, grown, flipped, zeroed, or a part of it somewhere else."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 3, 10))):
        at = chance.randrange(max(len(data), 1))
        length = chance.choice((1, 2, 16, 300))
        kind = chance.randrange(6)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at:at] = chance.randbytes(length)
        elif kind == 2 and data:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 3:
            data[at : at + length] = bytes(length)
        elif kind == 4:
            data[at : at + length] = data[:length]
        else:
            del data[at : at + length]
    return bytes(data)


ODD = (None, True, -1, 0, 1, 3.5, float("nan"), 10**30, "", "x", "é\u2028", [], [1], {}, {"a": 1}, [[]], "../../etc")


def distorted(value, chance):
    """A random change of a value of JSON or YAML: something odd in one place, a key less or more."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        kind = chance.random()
        if kind < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.25:
            return {**value, chance.choice(("", "odd", "0", key + "s")): chance.choice(ODD)}
        return {**value, key: distorted(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        return [*value[:at], distorted(value[at], chance), *value[at + 1 :]]
    return chance.choice(ODD)


def chances(kind):
    for case in range(CASES):
        yield random.Random(f"{kind}-{case}")


def accepts(call, chance_description):
    """Runs a call that may only succeed or raise GCPError with a message of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except GCPError as error:
        message = str(error)
        assert message.strip(), chance_description
        assert "\n" not in message.strip(), f"{chance_description}: {message}"
        return False
    except SystemExit as error:  # a parser's own message
        status = error.code
    else:
        return True
    assert status == 2, chance_description
    return False


def test_images(tmp_path):
    folder = write_images(tmp_path / "images", per_class=4, classes=("a", "b"), splits=("train",))
    files = sorted(folder.rglob("*.jpg"))
    whole = [file.read_bytes() for file in files]
    skipped = refused = 0
    for chance in chances("images"):
        broken = chance.randrange(len(files))
        for file, content in zip(files, whole, strict=True):
            file.write_bytes(content)
        files[broken].write_bytes(damaged(whole[broken], chance))
        strict = create_dataset("", folder, "train", is_training=True)
        refused += not accepts(lambda strict=strict: check_images(strict, progress=False), files[broken])
        tolerant = create_dataset("", folder, "train", is_training=True, skip_bad_images=True)
        out = check_images(tolerant, progress=False)
        skipped += len(out)
        assert len(out) <= 1
        assert len(tolerant) == len(files) - len(out)
        for index in range(len(tolerant)):
            assert tolerant[index][0].size[0] > 0
    assert refused == skipped > 0


def test_lists(tmp_path):
    folder = write_images(tmp_path / "images", per_class=3, classes=("a", "b"), splits=("train",))
    lines = [f"train/{name}/{i}.jpg, {label}, 0" for label, name in enumerate("ab") for i in range(3)]
    texts = {
        "train.txt": "\n".join(lines) + "\n",
        "classes.csv": "Class Name (str),Class ID (int)\na,0\nb,1\n",
    }
    for chance in chances("lists"):
        for name, text in texts.items():
            (folder / name).write_text(text)
        name = chance.choice(list(texts))
        (folder / name).write_bytes(damaged(texts[name].encode(), chance))
        accepts(lambda: create_dataset("list", folder, "train", is_training=True), name)


def test_manifests(tmp_path):
    rows = json.loads(MANIFEST.read_text())
    file = tmp_path / "manifest.json"
    for chance in chances("manifests"):
        if chance.random() < 0.3:
            file.write_bytes(damaged(MANIFEST.read_bytes(), chance))
        else:
            file.write_text(json.dumps(distorted(rows, chance)))
        accepts(lambda: read_manifest(file), file.read_bytes()[:200])


def test_configs(tmp_path):
    good = {"model": MODEL, "img_size": 64, "mean": [0.5, 0.5, 0.5], "opt_kwargs": {"nesterov": True}, "lr": 0.1,
            "hybrid": False, "epochs": 3, "method_args": {"alpha": 0.5}, "sched": "cosine", "seed": 1}  # fmt: skip
    file = tmp_path / "config.yaml"
    for chance in chances("configs"):
        if chance.random() < 0.4:
            file.write_bytes(damaged(yaml.safe_dump(good).encode(), chance))
        else:
            file.write_text(yaml.safe_dump(distorted(good, chance)))
        accepts(lambda: parse_train_args(["--config", str(file), "photographs"]), file.read_bytes())


def test_checkpoints(run, tmp_path):
    whole = (run / "last.pth.tar").read_bytes()
    file = tmp_path / "last.pth.tar"
    for chance in chances("checkpoints"):
        file.write_bytes(damaged(whole, chance))
        accepts(lambda: load_training_checkpoint(file), "resume")
        accepts(lambda: model_from_checkpoint(file), "validate")
        accepts(lambda: read_published(file), "convert")


@pytest.mark.slow
def test_checkpoints_of_odd_content(run, tmp_path):
    """Whole files in which a value is not what it should be."""
    state = torch.load(run / "last.pth.tar", weights_only=False)
    file = tmp_path / "last.pth.tar"
    plain = {key: value for key, value in state.items() if key not in ("state_dict", "optimizer", "args")}
    for chance in chances("content"):
        kept = {"state_dict": state["state_dict"], "optimizer": state["optimizer"]}
        if chance.random() < 0.3:
            kept["state_dict"] = chance.choice((*ODD, {"fc.weight": torch.zeros(2)}, {"fc.weight": "x"}, {0: 1}))
        other = distorted(plain, chance)
        torch.save({**other, **kept} if isinstance(other, dict) else other, file)
        accepts(lambda: model_from_checkpoint(file), other)
        accepts(lambda: read_published(file), other)
        accepts(lambda: load_training_checkpoint(file), other)


def test_weight_files(tmp_path, run):
    whole = (run / "model" / "model.safetensors").read_bytes()
    file = tmp_path / "model.safetensors"
    for chance in chances("weights"):
        # Most of a file is numbers, any of which may stand there: damage its header too.
        content = damaged(whole[:2000], chance) + whole[2000:] if chance.random() < 0.6 else damaged(whole, chance)
        file.write_bytes(content)
        accepts(lambda: read_weights(file), content[:100])


def test_model_folders(run, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(run / "model", folder)
    config = (folder / "config.json").read_bytes()
    for chance in chances("folders"):
        if chance.random() < 0.3:
            (folder / "config.json").write_bytes(damaged(config, chance))
        else:
            (folder / "config.json").write_text(json.dumps(distorted(json.loads(config), chance)))
        accepts(
            lambda: create_model(f"local-dir:{folder}", pretrained=True), (folder / "config.json").read_text("latin1")
        )


@pytest.mark.parametrize("command", ["train", "validate", "predict", "convert", "export", "list"])
def test_command_lines(command, images, run, tmp_path, capsys, monkeypatch):
    """Words of the command line that do not belong together: one line on standard error, status 2."""
    monkeypatch.chdir(tmp_path)
    words = ["--model", MODEL, str(run / "model"), str(images), "--checkpoint", str(run / "last.pth.tar"), "nowhere",
             "--epochs", "-1", "--img-size", "0", "--split", "none", "--resume", "auto", "--method", "polarr", "--out",
             str(run / "result.json"), "--lr", "nan", "--data-dir", "--method-args", "degree=x", "--top",
             "--csv"]  # fmt: skip
    for chance in list(chances(command))[: max(CASES // 4, 10)]:
        given = chance.sample(words, chance.randint(1, 6))
        if {"--lr", "--epochs"} & set(given) or command in ("predict", "export", "convert", "validate"):
            given = [word for word in given if word != str(images)]  # nothing may really start
        try:
            status = main([command, *given])
        except SystemExit as leaving:
            status = leaving.code
        shown = capsys.readouterr()
        assert status in (0, 2), given
        assert "Traceback" not in shown.err + shown.out, given
        if status == 2:
            assert shown.err.strip(), given


def test_a_config_that_is_no_text(tmp_path):
    (tmp_path / "config.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(GCPError, match="config"):
        parse_train_args(["--config", str(tmp_path / "config.yaml")])
    assert not Path("output").exists()


TEXT_FILES = {
    "config": ["train", "{images}", "--config", "{file}"],
    "class weights": ["train", "{images}", "--model", MODEL, "--class-weights", "{file}", "--device", "cpu"],
    "class names": ["convert", "{checkpoint}", "--class-names", "{file}", "--out", "{out}"],
}


@pytest.mark.parametrize("case", TEXT_FILES)
@pytest.mark.parametrize(
    ("file", "reason", "remedy"),
    [
        ("missing", "No such file or directory", "give the path of a file that you may read"),
        ("folder/", "Is a directory", "give the path of a file that you may read"),
        ("binary", "it is not UTF-8 text", "save it as UTF-8 text"),
    ],
)
def test_a_text_file_that_cannot_be_read(case, file, reason, remedy, images, run, tmp_path, capsys, monkeypatch):
    if (case, file) == ("class names", "folder/"):
        pytest.skip("it takes a folder of images as well")
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("binary").write_bytes(b"\xff\xfe\x00")
    places = {"images": images, "file": file, "checkpoint": run / "model_best.pth.tar", "out": "model"}
    argv = [part.format(**places) for part in TEXT_FILES[case]]
    assert main(argv) == 2
    option = argv[argv.index(file) - 1]
    assert capsys.readouterr().err == f"timm-gcp: error: {option} {file} cannot be read ({reason}): {remedy}.\n"


@pytest.mark.parametrize("command", ["doctor", "predict", "validate", "probe", "embed", "train"])
def test_a_damaged_configuration_of_a_model_folder(command, tmp_path, capsys):
    """The first command that looks into the folder says so, whichever it is."""
    data = write_images(tmp_path / "images", per_class=1)
    folder = tmp_path / "model"
    folder.mkdir()
    more = {"embed": ["--out", str(tmp_path / "vectors.npz")], "train": ["--pretrained"]}.get(command, [])
    for content in (b"not json", b"[1]", b"\xff\xfe", b"[" * 100000, b'"text"'):
        (folder / "config.json").write_bytes(content)
        assert main([command, str(data), "--model", str(folder), *more]) == 2
        error = capsys.readouterr().err
        assert str(folder / "config.json") in error
        assert error.endswith("give another model folder.\n")
        assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["doctor", "export", "predict", "validate", "probe", "embed", "train"])
def test_a_file_as_the_model(command, images, run, tmp_path, capsys, monkeypatch):
    """Whatever it is called, wherever it lies: the message says that it is there, and what takes a checkpoint."""
    monkeypatch.chdir(tmp_path)
    for name in ("model.pth.tar", "test_resnet.pth"):  # the second begins as a name of timm's does
        shutil.copy(run / "model_best.pth.tar", name)
    more = {"embed": ["--out", "vectors.npz"], "export": ["--out", "model.onnx"]}.get(command, [])
    for file in ("model.pth.tar", "test_resnet.pth", "local-dir:model.pth.tar", str(run / "model_best.pth.tar")):
        named = [file, "--images", str(images)] if command == "export" else [str(images), "--model", file]
        assert main([command, *named, *more]) == 2
        error = capsys.readouterr().err
        assert f"{file.removeprefix('local-dir:')} is a file, not a model folder: give a checkpoint by " in error
        assert {"--checkpoint", "--initial-checkpoint"} <= set(re.findall(r"--[a-z-]+", error))
        assert (f"or give the folder {run} as the model" in error) == file.startswith(str(run))
        assert error.count("\n") == 1


def test_a_model_whose_logits_are_not_finite(tmp_path, capsys, caplog):
    """It recognises no image; what is written is valid JSON; and it predicts nothing."""
    data = write_images(tmp_path / "images", per_class=2, splits=("validation",))
    model = timm.create_model("test_resnet_isqrt", num_classes=3)
    with torch.no_grad():
        model.fc.bias.fill_(torch.nan)
    save_folder(model, tmp_path / "model")
    given = ["--model", str(tmp_path / "model"), "--img-size", "64", "--device", "cpu"]
    written = ["--report", str(tmp_path / "report"), "--results-file", str(tmp_path / "row.json")]
    assert main(["validate", str(data), *given, "-j", "0", *written]) == 0
    assert "The logits of 6 of 6 images are not finite, and count as wrong" in caplog.text
    for file in (tmp_path / "report" / "result.json", tmp_path / "row.json"):
        row = json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert (row["top1"], row["top5"], row["loss"]) == (0, 0, None)
    for more in ([], ["--explain", str(tmp_path / "explained")]):
        assert main(["predict", str(data / "validation"), *given, *more]) == 2
        shown = capsys.readouterr()
        assert "are not finite; check the weights of the model." in shown.err
        assert "nan%" not in shown.out
