"""``python -m hub verify``, and what a pinned row resolves to, on a Hub of the loopback interface."""

import re
import subprocess
import sys

import pytest

from hub.__main__ import main
from tests.support.loopback_hub import TOKEN, Fault
from tests.support.maintainer import NAME, REPO
from timm_gcp.weights.manifest import Checkpoint, read_manifest, write_manifest


def test_verify(maintainer, published, tmp_path):
    manifest = published[0]
    status, out, err = maintainer.command("verify", "--manifest", manifest)
    assert (status, err) == (0, "")
    assert re.search(rf"{NAME} +{REPO}@\w+ +ok", out)

    maintainer.hub.faults = [Fault("GET", "/revision/", None, 1), Fault("HEAD", "/resolve/", 503, 1)]
    status, _, err = maintainer.command("verify", "--manifest", manifest)
    assert status == 0
    assert re.search(r"While reading org/.*: the transfer broke off \(.+\); again in", err)
    maintainer.hub.calm()

    # The same revisions with other content: what no honest server gives.
    row = read_manifest(manifest)[NAME]
    files = maintainer.hub.repos[REPO].commits[row.hub.partition("@")[2]]
    honest = files["config.json"]
    files["config.json"] = honest.replace(b'"reduce": 32', b'"reduce": 64')
    assert "has model_args" in maintainer.command("verify", "--manifest", manifest, NAME)[1]
    files["config.json"] = honest.replace(b"test_resnet_svdlyap", b"test_resnet_isqrt")
    assert "has architecture test_resnet_isqrt" in maintainer.command("verify", "--manifest", manifest)[1]
    files["config.json"] = honest
    maintainer.hub.corrupt = "model.safetensors"
    status, out, _ = maintainer.command("verify", "--manifest", manifest)
    assert status == 1
    assert "model.safetensors has sha256" in out
    maintainer.hub.calm()

    # A good row beside one whose revision does not exist.
    other = Checkpoint("resnet18_svdlyap.gone", "Gone.", hub=f"{REPO}@{40 * 'a'}", sha256=64 * "0")
    write_manifest({NAME: row, other.name: other}, tmp_path / "m.json")
    status, out, _ = maintainer.command("verify", "--manifest", tmp_path / "m.json")
    assert status == 1
    assert f"{NAME} " in out
    assert "404" in out


def test_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hub", "verify", "nothing.here"])
    assert main() == 2
    error = capsys.readouterr().err
    assert error.startswith("hub: error: The manifest has no row 'nothing.here'")
    assert "Traceback" not in error


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
def test_a_pinned_row_resolves_to_its_checked_file(maintainer, published, tmp_path):
    def run(**env):
        argv = [sys.executable, "-c", RESOLVE, str(published[0]), NAME]
        home = {"HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(argv, text=True, capture_output=True, env={**maintainer.env, **home, **env})
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    wrong, right = run(HF_TOKEN=TOKEN)
    assert "another sha256" in wrong
    assert wrong.endswith("cached: 0")
    assert right == "model.safetensors cached: 1"
    # The first call found the good file, refused it for the wrong hash, and took it out of the cache.
    _, offline = run(HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline
