"""``timm-gcp push``, with the real client, on a Hub of the loopback interface."""

import json
import shutil
import subprocess
import sys
import types

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image

from tests.support.loopback_hub import Fault
from tests.support.maintainer import CLASSES, Maintainer
from tests.support.tools import write_images
from timm_gcp.__main__ import main
from timm_gcp.sharing.accuracy import accuracies_of

REPO = "jane/birds"
FILES = {".gitattributes", "README.md", "config.json", "curves.png", "model.safetensors"}


@pytest.fixture(scope="module")
def _user(tmp_path_factory):
    made = Maintainer(tmp_path_factory.mktemp("user"))
    yield made
    made.close()


@pytest.fixture
def user(_user):
    """A run with its model, and an empty Hub without faults."""
    _user.hub.calm()
    _user.hub.repos.clear()
    return _user


@pytest.fixture
def run(user, tmp_path):
    """A run as ``timm-gcp train`` leaves it."""
    folder = tmp_path / "run"
    shutil.copytree(user.run, folder)
    record = {"command": f"timm-gcp train {tmp_path}/photos --lr 0.1", "top1": 91.25, "top5": 100.0, "split": "test"}
    record |= {"tta": "flip", "epoch": 3, "epochs": 4, "data": {"name": "photos", "images": {"train": 9, "test": 8}}}
    (folder / "result.json").write_text(json.dumps(record))
    return folder


def push(user, *argv, **kwargs):
    return user.command("push", *argv, program="timm-gcp", **kwargs)


def test_push(user, run):
    status, out, err = push(user, run, "--to", REPO, "--license", "CC-BY-4.0")
    assert status == 0, err
    repo = user.hub.repos[REPO]
    assert repo.private
    assert len(repo.commits) == 2  # the one that makes a repository, and ours
    files = repo.commits[repo.head]
    assert set(files) == FILES
    assert files["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
    config = json.loads(files["config.json"])
    assert config["pretrained_cfg"].pop("license") == "cc-by-4.0"
    assert config == json.loads((run / "model" / "config.json").read_text())
    card = files["README.md"].decode()
    data = ModelCard(card).data
    assert (data.license, data.library_name, data.model_name) == ("cc-by-4.0", "timm", "birds")
    (result,) = data.eval_results  # top-5 of three classes says nothing
    assert (result.dataset_name, result.dataset_split, result.metric_type) == ("photos", "test", "accuracy")
    assert (result.metric_name, result.metric_value) == ("Top-1 accuracy, test-time augmentation flip", 91.25)
    assert f'timm.create_model("hf-hub:{REPO}", pretrained=True)' in card
    assert str(run.parent) not in card
    assert f"{user.hub.url}/{REPO} (commit {repo.head[:12]})" in out
    assert f"timm.create_model('hf-hub:{REPO}', pretrained=True)" in out.splitlines()[-1]

    status, out, _ = push(user, run / "model", "--to", REPO, "--license", "cc-by-4.0")
    assert status == 0
    assert "no commit is made" in out
    assert len(repo.commits) == 2


@pytest.mark.parametrize("answer_is_lost", [False, True])
def test_the_curves_of_an_earlier_model_are_removed(user, run, answer_is_lost):
    argv = (run, "--to", REPO, "--license", "mit")
    assert push(user, *argv)[0] == 0
    repo = user.hub.repos[REPO]
    repo.commit({"notes.txt": b"mine", "curves.txt": b"mine too"})
    (run / "curves.png").unlink()
    user.hub.lose_answer = answer_is_lost
    status, _, err = push(user, *argv)
    assert status == 0, err
    assert set(repo.commits[repo.head]) == FILES - {"curves.png"} | {"notes.txt", "curves.txt"}
    assert len(repo.commits) == 4


@pytest.mark.slow
def test_the_printed_line_loads_the_model(user, run):
    _, out, _ = push(user, run, "--to", REPO, "--license", "other", "--public")
    assert not user.hub.repos[REPO].private
    code = out.splitlines()[-1].replace("timm.create", "model = timm.create")
    code += "\nprint(model.pretrained_cfg['label_names'], model.fc.weight.tolist()[0][:9])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=user.env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{list(CLASSES)} {user.model.fc.weight.tolist()[0][:9]}"


def test_private_and_public(user, run):
    argv = (run, "--to", REPO, "--license", "mit")
    assert push(user, *argv, "--public")[0] == 0
    head = user.hub.repos[REPO].head
    (run / "curves.png").unlink()
    status, _, err = push(user, *argv)
    assert status == 2
    assert "is public; make it private in its settings, or add --public" in err
    assert user.hub.repos[REPO].head == head
    user.hub.repos[REPO].private = True
    status, out, _ = push(user, *argv, "--public")
    assert status == 0
    assert "What was private before stays so" in out


def test_a_push_that_breaks_off_leaves_the_repository_as_it_was(user, run):
    user.hub.faults = [Fault("POST", "/commit/", 503, 99)]
    status, _, err = push(user, run, "--to", REPO, "--license", "mit")
    assert status == 2
    assert "kept failing while uploading" in err
    assert set(user.hub.repos[REPO].commits[user.hub.repos[REPO].head]) == {".gitattributes"}


def test_refusals(user, run, tmp_path):
    good = (run, "--to", REPO, "--license", "mit")
    for argv, message in (
        ((run, "--to", REPO), "No licence is recorded for these weights; state it by --license ID"),
        ((run, "--to", REPO, "--license", "my own"), "'my own' is not an identifier"),
        ((run, "--to", "birds", "--license", "mit"), "--to USER/NAME"),
        ((run, "--to", "jane/my birds", "--license", "mit"), "not a valid repository name; correct --to"),
        ((tmp_path / "none", "--to", REPO, "--license", "mit"), "is not a folder; give a run folder"),
        ((tmp_path, "--to", REPO, "--license", "mit"), "is not a model folder: it has no config.json"),
    ):
        status, _, err = push(user, *argv)
        assert status == 2
        assert message in err
    status, _, err = push(user, *good, token=None)
    assert status == 2
    assert "Not logged in to the Hugging Face Hub; run `hf auth login`" in err
    assert user.hub.requests == []
    status, _, err = push(user, *good, token="hf_of_somebody_else")
    assert status == 2
    assert "answers 401" in err
    config = json.loads((run / "model" / "config.json").read_text())
    for damaged, message in (
        ({}, "config.json lacks the entry"),
        (config | {"num_classes": 0, "label_names": []}, "config.json lacks 'num_classes', or 'input_size'"),
    ):
        (run / "model" / "config.json").write_text(json.dumps(damaged))
        assert message in push(user, *good)[2]
    assert user.hub.repos == {}


def test_the_model_folder_that_is_read_is_not_replaced(user, run, tmp_path, capsys):
    copied = shutil.copytree(run, tmp_path / "copied")
    before = {file: file.read_bytes() for file in copied.rglob("*") if file.is_file()}
    for given in (copied, copied / "model"):
        assert main(["push", str(given), "--to", "a/b", "--license", "mit", "--out", str(copied)]) == 2
        assert "would replace the model folder that is read" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in copied.rglob("*") if file.is_file()} == before


def test_space(user, run, tmp_path, monkeypatch):
    argv = (run, "--to", REPO, "--license", "mit", "--space")
    status, out, err = push(user, *argv)
    assert status == 0, err
    space = user.hub.repos[f"spaces/{REPO}"]
    assert space.private
    files = space.commits[space.head]
    assert set(files) == {".gitattributes", "README.md", "app.py", "requirements.txt"}
    assert f"{user.hub.url}/spaces/{REPO}" in out
    assert "needs a secret HF_TOKEN" in out
    assert ModelCard(files["README.md"].decode()).data.to_dict()["sdk"] == "gradio"

    user.hub.calm()
    assert push(user, *argv, "--out", tmp_path / "out", token=None)[0] == 0
    assert user.hub.requests == []
    assert (tmp_path / "out" / "space" / "app.py").read_bytes() == files["app.py"]
    assert {file.name for file in (tmp_path / "out" / "model").iterdir()} == FILES - {".gitattributes"}
    gradio = types.SimpleNamespace(Interface=lambda *args, **kwargs: args, Image=dict, Label=dict)
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    monkeypatch.setenv("MODEL", f"local-dir:{tmp_path / 'out' / 'model'}")
    app = {"__name__": "app"}
    exec(compile(files["app.py"], "app.py", "exec"), app)
    image = Image.effect_noise((200, 180), 80)
    predicted = app["predict"](image)
    model = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        expected = model(transform(image.convert("RGB")).unsqueeze(0)).softmax(-1)[0].tolist()
    assert predicted == pytest.approx(dict(zip(CLASSES, expected, strict=True)))
    assert list(predicted.values()) == sorted(predicted.values(), reverse=True)
    assert app["predict"](None) == {}


def test_no_file_of_an_earlier_push_stays(user, run, tmp_path):
    argv = (run, "--to", REPO, "--license", "mit", "--out", tmp_path / "out")
    assert push(user, *argv, "--space")[0] == 0
    (tmp_path / "out" / "model" / "note.txt").write_text("of the user")
    (run / "curves.png").unlink()
    assert push(user, *argv)[0] == 0
    model = {file.name for file in (tmp_path / "out" / "model").iterdir()}
    assert model == FILES - {".gitattributes", "curves.png"} | {"note.txt"}
    assert not (tmp_path / "out" / "space").exists()
    assert push(user, *argv, "--space")[0] == 0
    (tmp_path / "out" / "space" / "note.txt").write_text("of the user")
    assert push(user, *argv)[0] == 0
    assert [file.name for file in (tmp_path / "out" / "space").iterdir()] == ["note.txt"]
    for name in ("app.py", "README.md"):
        (tmp_path / "out" / "space" / name).write_text("of another program")
    assert push(user, *argv)[0] == 0
    assert len(list((tmp_path / "out" / "space").iterdir())) == 3


def test_the_accuracy_of_a_probe(user, tmp_path):
    photos, backbone = write_images(tmp_path / "photos", per_class=4), tmp_path / "backbone"
    shutil.copytree(user.run / "model", backbone)
    argv = ["--model", str(backbone), "--components", "8", "--img-size", "64", "-j", "0", "--device", "cpu"]
    assert main(["probe", str(photos), *argv, "--no-report", "--output", str(tmp_path / "probe")]) == 0
    assert main(["push", str(tmp_path / "probe"), "--to", REPO, "--license", "mit", "--out", str(tmp_path / "o")]) == 0
    card = (tmp_path / "o" / "model" / "README.md").read_text()
    record = json.loads((tmp_path / "probe" / "result.json").read_text())
    (result,) = ModelCard(card).data.eval_results
    assert (result.dataset_name, result.dataset_split) == ("photos", "validation")
    assert result.metric_value == record["heads"][0]["validation"]
    assert "Started from `backbone`" in card
    left_out = {"heads": [{"validation": None, "left_out": 75.0}]}
    (only,) = accuracies_of({"training": {"data": {"name": "photos", "images": {"train": 36}}}}, left_out)
    assert (only.name, only.split, only.value) == ("Top-1 accuracy, leave-one-out", "train", 75.0)
