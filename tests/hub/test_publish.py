"""``python -m hub publish``, with the real client, on a Hub of the loopback interface."""

import dataclasses
import hashlib
import json

import pytest

from hub import publish
from hub.model_card import render_card
from tests.support.loopback_hub import Fault
from tests.support.maintainer import CLASSES, NAME, REPO, ROW, fresh_hub
from timm_gcp import GCPError
from timm_gcp.weights.manifest import read_manifest, write_manifest


def test_publish(maintainer, published):
    manifest, out, err = published
    assert f"While uploading to {REPO}: server error 503; again in" in err
    repo = maintainer.hub.repos[REPO]
    assert len(repo.commits) == 2  # the one that makes a repository, and ours
    files = repo.commits[repo.head]
    assert set(files) == {".gitattributes", "README.md", "config.json", "curves.png", "model.safetensors"}
    weights = (maintainer.run / "model" / "model.safetensors").read_bytes()
    assert files["model.safetensors"] == weights
    config = json.loads(files["config.json"])
    assert (config["architecture"], config["num_classes"]) == ("test_resnet_svdlyap", 3)
    assert (config["model_args"], config["label_names"]) == (ROW.model_args, list(CLASSES))
    assert config["pretrained_cfg"]["crop_pct"] == 0.95
    row = read_manifest(manifest)[NAME]
    assert row.hub == f"{REPO}@{repo.head}"
    assert (row.sha256, row.size) == (hashlib.sha256(weights).hexdigest(), len(weights))
    assert repo.head in out


def test_unchanged_content_makes_no_commit(maintainer, published, manifest):
    head = maintainer.hub.repos[REPO].head
    status, out, _ = maintainer.publish(manifest)
    assert status == 0
    assert "no commit is made" in out
    assert maintainer.hub.repos[REPO].head == head
    assert not any("/commit/" in path or path.startswith("/lfs/") for _, path in maintainer.hub.writes())
    assert read_manifest(manifest)[NAME].hub == f"{REPO}@{head}"
    assert "is public" in maintainer.publish(manifest, "--private")[2]


def test_server_errors_that_last(maintainer, manifest):
    before = manifest.read_text()
    with fresh_hub(maintainer) as hub:
        hub.faults = [Fault("POST", "/commit/", 500, 99)]
        status, _, err = maintainer.publish(manifest)
        assert (status, len(hub.repos[REPO].commits)) == (2, 1)
    assert err.count("again in") == 3
    last = f"hub: error: The Hub kept failing while uploading to {REPO}: server error 500; try again later."
    assert err.splitlines()[-1] == last
    assert manifest.read_text() == before


def test_a_commit_whose_answer_was_lost_counts(maintainer, manifest):
    with fresh_hub(maintainer) as hub:
        hub.lose_answer = True
        status, _, err = maintainer.publish(manifest, "--private")
        assert status == 0, err
        assert len(hub.repos[REPO].commits) == 2
        assert hub.repos[REPO].private
        assert read_manifest(manifest)[NAME].hub == f"{REPO}@{hub.repos[REPO].head}"


def test_another_checksum_on_download(maintainer, manifest):
    before = manifest.read_text()
    with fresh_hub(maintainer) as hub:
        hub.corrupt = "model.safetensors"
        status, _, err = maintainer.publish(manifest)
    assert status == 2
    assert "The downloaded model.safetensors is not the one that was sent" in err
    assert manifest.read_text() == before


def test_a_commit_of_somebody_else(maintainer, manifest):
    before = manifest.read_text()
    with fresh_hub(maintainer) as hub:
        hub.foreign = "README.md"
        status, _, err = maintainer.publish(manifest)
        files = hub.repos[REPO].commits[hub.repos[REPO].head]
    assert status == 2
    assert "Somebody else committed to org/" in err
    assert files["README.md"] == b"somebody else\n"
    assert "model.safetensors" not in files
    assert manifest.read_text() == before


def test_logins(maintainer, manifest):
    status, _, err = maintainer.publish(manifest, token=None)
    assert (status, maintainer.hub.requests) == (2, [])
    assert "hf auth login" in err
    with fresh_hub(maintainer) as hub:
        status, _, err = maintainer.publish(manifest, token="hf_of_somebody_else")
        assert status == 2
        assert "answers 401 while creating the repository" in err
        assert "hf auth login" in err
        assert "hf_of_somebody_else" not in err
        hub.faults = [Fault("POST", "/commit/", 403, 1)]
        status, _, err = maintainer.publish(manifest)
        assert status == 2
        assert "answers 403 while uploading" in err
        assert len(hub.repos[REPO].commits) == 1


def test_dry_run(maintainer, manifest):
    before = manifest.read_text()
    status, out, _ = maintainer.publish(manifest, "--dry-run", token=None)
    assert (status, maintainer.hub.requests) == (0, [])
    assert manifest.read_text() == before
    weights = (maintainer.run / "model" / "model.safetensors").read_bytes()
    for text in (hashlib.sha256(weights).hexdigest(), f"{len(weights):,} bytes", "# test_resnet_svdlyap.textures"):
        assert text in out
    assert f'+    "hub": "{REPO}@<the commit>"' in out


def test_the_licence_that_the_hub_does_not_know(maintainer, tmp_path):
    row = dataclasses.replace(ROW, licence="unheard-of")
    write_manifest({NAME: row}, tmp_path / "m.json")
    status, _, err = maintainer.publish(tmp_path / "m.json")
    assert status == 2
    assert "refuses the card's metadata (- license: not known)" in err


def test_the_row_of_the_package(maintainer, tmp_path):
    """Without a folder: the weights are those that the row resolves to."""
    name = "test_resnet_svdpade.grocery"
    row = read_manifest()[name]
    write_manifest({name: row}, tmp_path / "m.json")
    status, _, err = maintainer.command("publish", name, "--org", "org", "--manifest", tmp_path / "m.json")
    assert status == 0, err
    repo = maintainer.hub.repos[f"org/{name}"]
    published = read_manifest(tmp_path / "m.json")[name]
    assert published == dataclasses.replace(row, hub=f"org/{name}@{repo.head}")
    card = repo.commits[repo.head]["README.md"].decode()
    assert f"```bash\n{row.recipe}\n```" in card
    assert f"Verified: {row.verified}" in card


def test_weights_whose_authors_state_no_licence_are_never_published(maintainer):
    name = "resnet50_isqrt.in1k_2020"
    with pytest.raises(GCPError, match="has no licence, so it may not be published"):
        publish.main([name, "--org", "org", "--folder", str(maintainer.run / "model"), "--dry-run"])
    card = render_card(read_manifest()[name], repo=None, parameters=None)
    assert "this project never publishes it" in card
    assert "\nlicense:" not in card


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
def test_rows_that_are_refused(maintainer, tmp_path, change, message):
    row = dataclasses.replace(ROW, **change)
    write_manifest({row.name: row}, tmp_path / "m.json")
    argv = [NAME, "--org", "org", "--manifest", str(tmp_path / "m.json"), "--folder", str(maintainer.run / "model")]
    with pytest.raises(GCPError, match=message):
        publish.main([*argv, "--dry-run"])
