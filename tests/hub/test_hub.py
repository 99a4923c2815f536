"""Publishing on a Hub of the loopback interface, with the real client."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image

import timm_gcp  # noqa: F401
from hub import cards, publish
from hub.logits import logits_of, same_logits
from hub.model_card import render_card
from hub.recipe import read_recipe
from tests.support.loopback_hub import TOKEN, Fault, LoopbackHub
from tests.support.tools import ROOT
from timm_gcp import GCPError
from timm_gcp.models.folder import save_folder
from timm_gcp.weights.manifest import Checkpoint, Upstream, read_manifest, write_manifest

NAME = "test_resnet_svdlyap.textures"
REPO = f"org/{NAME}"
CLASSES = ("coarse", "fine", "middle")
ROW = Checkpoint(
    NAME,
    "A tiny ResNet on synthetic textures.",
    licence="Apache-2.0",
    model_args={"reduce": 32, "last_stride": 1},
    upstream=Upstream("https://example.org/textures.pth"),
    input_size=(3, 160, 160),
    crop_pct=0.95,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    num_classes=3,
    label_names=CLASSES,
    metrics=({"data": "textures|validation", "top1": 91.5, "top5": None, "by": "us", "command": "timm-gcp validate"},),
)

# One process for all commands: importing torch takes longer than most of them. The pauses of the client stay.
WORKER = """
import contextlib, io, json, os, sys
answers = sys.stdout
import hub.retry
from hub.__main__ import main
hub.retry.PAUSES = (0.01, 0.02, 0.03)
for line in sys.stdin:
    sys.argv, token = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": token} if token else {})
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main()
    print(json.dumps([status, out.getvalue(), err.getvalue()]), file=answers, flush=True)
"""


class Desk:
    """A maintainer's desk: the commands, a Hub, a model folder."""

    def __init__(self, folder):
        self.hub, self.folder = LoopbackHub(), folder
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            **{"HF_ENDPOINT": self.hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"},
            **{"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "250"},
            "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
        }
        self.worker = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL},
            text=True,
            env=self.env,
            cwd=folder,
        )
        torch.manual_seed(0)
        self.model = timm.create_model("test_resnet_svdlyap", num_classes=3, reduce=32).eval()
        self.run = folder / "run"
        save_folder(self.model, self.run / "model", class_names=CLASSES)
        (self.run / "result.json").write_text(
            json.dumps({"command": f"timm-gcp train --data-dir {folder}/textures --lr 0.1", "epoch": 3, "epochs": 4})
        )
        Image.new("RGB", (8, 8)).save(self.run / "curves.png")

    def command(self, *argv, token=TOKEN):
        self.worker.stdin.write(json.dumps([["hub", *map(str, argv)], token]) + "\n")
        self.worker.stdin.flush()
        status, out, err = json.loads(self.worker.stdout.readline())
        assert TOKEN not in out + err
        return status, out, err

    def publish(self, manifest, *argv, token=TOKEN):
        curves = ("--curves", self.run / "curves.png", "--folder", self.run / "model")
        return self.command("publish", NAME, "--org", "org", "--manifest", manifest, *curves, *argv, token=token)

    def close(self):
        self.worker.stdin.close()
        self.worker.wait(timeout=30)
        self.hub.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    made = Desk(tmp_path_factory.mktemp("desk"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _calm(desk):
    desk.hub.calm()


@pytest.fixture
def manifest(tmp_path):
    """A manifest whose row is not on the Hub."""
    write_manifest({NAME: ROW}, tmp_path / "manifest.json")
    return tmp_path / "manifest.json"


@pytest.fixture(scope="module")
def published(desk, tmp_path_factory):
    """Manifest and output of a publication during which the server failed twice in mid-upload."""
    path = tmp_path_factory.mktemp("published") / "manifest.json"
    write_manifest({NAME: ROW}, path)
    desk.hub.calm()
    desk.hub.faults = [Fault("PUT", "/lfs/", 500, 1), Fault("POST", "/commit/", 503, 1)]
    status, out, err = desk.publish(path)
    assert status == 0, err
    return path, out, err


@contextlib.contextmanager
def fresh_hub(desk):
    """No repository is there, and those that were come back."""
    before, desk.hub.repos = desk.hub.repos, {}
    yield desk.hub
    desk.hub.repos = before


def test_publish(desk, published):
    manifest, out, err = published
    assert f"While uploading to {REPO}: server error 503; again in" in err
    repo = desk.hub.repos[REPO]
    assert len(repo.commits) == 2  # the one that makes a repository, and ours
    files = repo.commits[repo.head]
    assert set(files) == {".gitattributes", "README.md", "config.json", "curves.png", "model.safetensors"}
    weights = (desk.run / "model" / "model.safetensors").read_bytes()
    assert files["model.safetensors"] == weights
    config = json.loads(files["config.json"])
    assert (config["architecture"], config["num_classes"]) == ("test_resnet_svdlyap", 3)
    assert (config["model_args"], config["label_names"]) == (ROW.model_args, list(CLASSES))
    assert config["pretrained_cfg"]["crop_pct"] == 0.95
    row = read_manifest(manifest)[NAME]
    assert row.hub == f"{REPO}@{repo.head}"
    assert (row.sha256, row.size) == (hashlib.sha256(weights).hexdigest(), len(weights))
    assert repo.head in out


def test_card(desk, published):
    repo = desk.hub.repos[REPO]
    card = repo.commits[repo.head]["README.md"].decode()
    assert card.startswith("---\nlibrary_name: timm\nlicense: apache-2.0\n")
    assert "| textures\\|validation | 91.50 |  | us | `timm-gcp validate` |" in card
    results = [(r.metric_name, r.metric_value, r.dataset_name) for r in ModelCard(card).data.eval_results]
    assert results == [("Top-1 accuracy", 91.5, "textures|validation")]
    assert "timm-gcp train --data-dir textures --lr 0.1" in card
    assert str(desk.folder) not in card
    for text in (
        "Not verified",
        "![Loss and accuracy by epoch](curves.png)",
        "3 of 4",
        "@inproceedings{song2021",
        "Apache-2.0",
    ):
        assert text in card


@pytest.mark.slow
def test_the_card_works_in_a_new_process(desk, published, tmp_path):
    repo = desk.hub.repos[REPO]
    code = re.search(r"```python\n(.*?)```", repo.commits[repo.head]["README.md"].decode(), re.DOTALL)[1]
    assert code.startswith("import timm_gcp\n")
    assert f'"hf-hub:{REPO}"' in code
    noise = np.random.default_rng(0).integers(0, 256, (180, 200, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation of a camera held upright: the width and height of the file are exchanged
    Image.fromarray(noise).save(tmp_path / "image.jpg", exif=exif)
    code += "\nassert image.size == (180, 200), image.size\n"
    code += "\nimport sys; sys.path.insert(0, '.')\nfrom hub.logits import logits_of\n"
    code += "torch.save(logits_of(model, (3, 160, 160)), 'logits.pt')\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=desk.env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert sorted(line.split()[1] for line in done.stdout.splitlines()) == sorted(CLASSES)
    assert same_logits(logits_of(desk.model, (3, 160, 160)), torch.load(tmp_path / "logits.pt"))


def test_unchanged_content_makes_no_commit(desk, published, manifest):
    head = desk.hub.repos[REPO].head
    status, out, _ = desk.publish(manifest)
    assert status == 0
    assert "no commit is made" in out
    assert desk.hub.repos[REPO].head == head
    assert not any("/commit/" in path or path.startswith("/lfs/") for _, path in desk.hub.writes())
    assert read_manifest(manifest)[NAME].hub == f"{REPO}@{head}"
    assert "is public" in desk.publish(manifest, "--private")[2]


def test_verify(desk, published, tmp_path):
    manifest = published[0]
    status, out, err = desk.command("verify", "--manifest", manifest)
    assert (status, err) == (0, "")
    assert re.search(rf"{NAME} +{REPO}@\w+ +ok", out)

    desk.hub.faults = [Fault("GET", "/revision/", None, 1), Fault("HEAD", "/resolve/", 503, 1)]
    status, _, err = desk.command("verify", "--manifest", manifest)
    assert status == 0
    assert re.search(r"While reading org/.*: the transfer broke off \(.+\); again in", err)
    desk.hub.calm()

    # The same revisions with other content: what no honest server gives.
    row = read_manifest(manifest)[NAME]
    files = desk.hub.repos[REPO].commits[row.hub.partition("@")[2]]
    honest = files["config.json"]
    files["config.json"] = honest.replace(b'"reduce": 32', b'"reduce": 64')
    assert "has model_args" in desk.command("verify", "--manifest", manifest, NAME)[1]
    files["config.json"] = honest.replace(b"test_resnet_svdlyap", b"test_resnet_isqrt")
    assert "has architecture test_resnet_isqrt" in desk.command("verify", "--manifest", manifest)[1]
    files["config.json"] = honest
    desk.hub.corrupt = "model.safetensors"
    status, out, _ = desk.command("verify", "--manifest", manifest)
    assert status == 1
    assert "model.safetensors has sha256" in out
    desk.hub.calm()

    # A good row beside one whose revision does not exist.
    other = Checkpoint("resnet18_svdlyap.gone", "Gone.", hub=f"{REPO}@{40 * 'a'}", sha256=64 * "0")
    write_manifest({NAME: row, other.name: other}, tmp_path / "m.json")
    status, out, _ = desk.command("verify", "--manifest", tmp_path / "m.json")
    assert status == 1
    assert f"{NAME} " in out
    assert "404" in out


def test_server_errors_that_last(desk, manifest):
    before = manifest.read_text()
    with fresh_hub(desk) as hub:
        hub.faults = [Fault("POST", "/commit/", 500, 99)]
        status, _, err = desk.publish(manifest)
        assert (status, len(hub.repos[REPO].commits)) == (2, 1)
    assert err.count("again in") == 3
    last = f"hub: error: The Hub kept failing while uploading to {REPO}: server error 500; try again later."
    assert err.splitlines()[-1] == last
    assert manifest.read_text() == before


def test_a_commit_whose_answer_was_lost_counts(desk, manifest):
    with fresh_hub(desk) as hub:
        hub.lose_answer = True
        status, _, err = desk.publish(manifest, "--private")
        assert status == 0, err
        assert len(hub.repos[REPO].commits) == 2
        assert hub.repos[REPO].private
        assert read_manifest(manifest)[NAME].hub == f"{REPO}@{hub.repos[REPO].head}"


def test_another_checksum_on_download(desk, manifest):
    before = manifest.read_text()
    with fresh_hub(desk) as hub:
        hub.corrupt = "model.safetensors"
        status, _, err = desk.publish(manifest)
    assert status == 2
    assert "The downloaded model.safetensors is not the one that was sent" in err
    assert manifest.read_text() == before


def test_a_commit_of_somebody_else(desk, manifest):
    before = manifest.read_text()
    with fresh_hub(desk) as hub:
        hub.foreign = "README.md"
        status, _, err = desk.publish(manifest)
        files = hub.repos[REPO].commits[hub.repos[REPO].head]
    assert status == 2
    assert "Somebody else committed to org/" in err
    assert files["README.md"] == b"somebody else\n"
    assert "model.safetensors" not in files
    assert manifest.read_text() == before


def test_logins(desk, manifest):
    status, _, err = desk.publish(manifest, token=None)
    assert (status, desk.hub.requests) == (2, [])
    assert "hf auth login" in err
    with fresh_hub(desk) as hub:
        status, _, err = desk.publish(manifest, token="hf_of_somebody_else")
        assert status == 2
        assert "answers 401 while creating the repository" in err
        assert "hf auth login" in err
        assert "hf_of_somebody_else" not in err
        hub.faults = [Fault("POST", "/commit/", 403, 1)]
        status, _, err = desk.publish(manifest)
        assert status == 2
        assert "answers 403 while uploading" in err
        assert len(hub.repos[REPO].commits) == 1


def test_dry_run(desk, manifest):
    before = manifest.read_text()
    status, out, _ = desk.publish(manifest, "--dry-run", token=None)
    assert (status, desk.hub.requests) == (0, [])
    assert manifest.read_text() == before
    weights = (desk.run / "model" / "model.safetensors").read_bytes()
    for text in (hashlib.sha256(weights).hexdigest(), f"{len(weights):,} bytes", "# test_resnet_svdlyap.textures"):
        assert text in out
    assert f'+    "hub": "{REPO}@<the commit>"' in out


def test_the_licence_that_the_hub_does_not_know(desk, tmp_path):
    row = dataclasses.replace(ROW, licence="unheard-of")
    write_manifest({NAME: row}, tmp_path / "m.json")
    status, _, err = desk.publish(tmp_path / "m.json")
    assert status == 2
    assert "refuses the card's metadata (- license: not known)" in err


def test_the_row_of_the_package(desk, tmp_path):
    """Without a folder: the weights are those that the row resolves to."""
    name = "test_resnet_svdpade.grocery"
    row = read_manifest()[name]
    write_manifest({name: row}, tmp_path / "m.json")
    status, _, err = desk.command("publish", name, "--org", "org", "--manifest", tmp_path / "m.json")
    assert status == 0, err
    repo = desk.hub.repos[f"org/{name}"]
    published = read_manifest(tmp_path / "m.json")[name]
    assert published == dataclasses.replace(row, hub=f"org/{name}@{repo.head}")
    card = repo.commits[repo.head]["README.md"].decode()
    assert f"```bash\n{row.recipe}\n```" in card
    assert f"Verified: {row.verified}" in card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licence": None}, "has no licence"),
        ({"name": "test_resnet_svdlyap.other"}, "has no row"),
        ({"num_classes": 4, "label_names": None}, "num_classes 3 instead of 4"),
        ({"crop_pct": 0.875}, "crop_pct 0.95 instead of 0.875"),
        ({"model_args": {}}, "correct the row's model_args"),
        ({"model_args": {"reduce": 32, "last_stride": 2}}, "different logits"),
        ({"package": "textures.safetensors", "sha256": 64 * "0"}, "are not those of"),
    ],
)
def test_rows_that_are_refused(desk, tmp_path, change, message):
    row = dataclasses.replace(ROW, **change)
    write_manifest({row.name: row}, tmp_path / "m.json")
    argv = [NAME, "--org", "org", "--manifest", str(tmp_path / "m.json"), "--folder", str(desk.run / "model")]
    with pytest.raises(GCPError, match=message):
        publish.main([*argv, "--dry-run"])


def test_cards(desk, tmp_path, manifest):
    cards.main(["--out", str(tmp_path / "ours")])
    cards.main(["--out", str(tmp_path / "cards"), "--manifest", str(manifest)])
    assert {path.stem for path in (tmp_path / "ours").iterdir()} == {*read_manifest(), "index"}
    index = (tmp_path / "cards" / "index.md").read_text()
    millions = sum(p.numel() for p in desk.model.parameters()) / 1e6
    line = f"| [{NAME}]({NAME}.md) | 3 × 160 × 160 | {millions:.2f} M | textures\\|validation | 91.50 |  | us | no |"
    assert f"{line} Apache-2.0 | the authors' release (https://example.org/textures.pth) |" in index
    card = (tmp_path / "cards" / f"{NAME}.md").read_text()
    assert f'timm.create_model("{NAME}", pretrained=True)' in card


def test_card_of_a_verified_row_without_names():
    row = dataclasses.replace(ROW, verified="validate, 2026-11-20.", label_names=None, metrics=())
    card = render_card(row, repo=None, parameters=None)
    assert "Not verified" not in card
    assert "Verified: validate, 2026-11-20.\n" in card
    assert "The names of the classes are not known." in card
    compile(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], "card", "exec")


def test_recipes(tmp_path):
    assert read_recipe(tmp_path / "model") is None
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(GCPError, match="was not written by"):
        read_recipe(tmp_path / "model")


def test_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "hub", "verify", "nothing.here"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert done.stderr.startswith("hub: error: The manifest has no row 'nothing.here'")
    assert "Traceback" not in done.stderr


RESOLVE = """
import dataclasses, os, sys
from pathlib import Path
from timm_gcp import GCPError
from timm_gcp.weights.manifest import read_manifest
from timm_gcp.weights.resolve import resolve
row = read_manifest(sys.argv[1])[sys.argv[2]]
cached = lambda: len([p for p in Path(os.environ["HF_HOME"]).rglob("model.safetensors")])
try:
    resolve(dataclasses.replace(row, sha256="0" * 64))
except GCPError as error:
    print(error, "cached:", cached())
try:
    print(resolve(row).name, "cached:", cached())
except GCPError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_pinned_row_resolves_to_its_checked_file(desk, published, tmp_path):
    def run(**env):
        argv = [sys.executable, "-c", RESOLVE, str(published[0]), NAME]
        home = {"HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(argv, text=True, capture_output=True, env={**desk.env, **home, **env})
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    wrong, right = run(HF_TOKEN=TOKEN)
    assert "another sha256" in wrong
    assert wrong.endswith("cached: 0")
    assert right == "model.safetensors cached: 1"
    # The first call found the good file, refused it for the wrong hash, and took it out of the cache.
    _, offline = run(HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline
