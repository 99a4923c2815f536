"""The manifest, and from a row to a file: zoo folder, package, Hub, the authors' release; without a network first."""

import concurrent.futures
import dataclasses
import http.server
import json
import os
import subprocess
import sys
import threading
import time

import pytest
import safetensors.torch
import timm
import torch

from timm_gcp import GCPError
from timm_gcp.files import sha256_of
from timm_gcp.models import cfgs
from timm_gcp.weights import manifest
from timm_gcp.weights.manifest import Checkpoint, Upstream, read_manifest, write_manifest
from timm_gcp.weights.resolve import arguments_of, resolve

PACKAGED = "test_resnet_svdpade.grocery"
ROW = Checkpoint(name="test_resnet_polar.tiny", description="A test.", upstream=Upstream("http://127.0.0.1:9/none"))


def offline(code, home):
    """Runs code in a new process with an empty cache and no network."""
    env = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=env)


def test_every_row_of_the_package_is_valid_and_registered():
    rows = read_manifest()
    assert PACKAGED in rows
    for row in rows.values():
        assert timm.is_model(row.architecture)
        cfg = timm.models.get_pretrained_cfg(row.name)
        assert (cfg.num_classes, cfg.input_size, cfg.mean) == (row.num_classes, row.input_size, row.mean)
        assert row.name in timm.list_models(pretrained=True)
        assert row.verified is not None or row.upstream is not None
        for metric in row.metrics:
            assert metric["by"] == "upstream" or metric["command"]
        with torch.device("meta"):
            model = timm.create_model(row.name)  # the tag's own arguments, without its weights
        for key, value in row.model_args.items():
            assert model.gcp_args[key] == value


def test_a_manifest_comes_back_and_is_never_half_written(tmp_path):
    rows = read_manifest()
    write_manifest(rows, tmp_path / "m.json")
    assert read_manifest(tmp_path / "m.json") == rows
    assert (tmp_path / "m.json").read_text() == manifest.MANIFEST.read_text()
    bad = dataclasses.replace(ROW, hub="org/name@main")
    with pytest.raises(GCPError, match="no valid hub and sha256"):
        write_manifest({bad.name: bad}, tmp_path / "m.json")
    assert read_manifest(tmp_path / "m.json") == rows
    assert os.listdir(tmp_path) == ["m.json"]


@pytest.mark.parametrize(
    "change",
    [
        dict(name="resnet50"),
        dict(name="resnet50_polar.init"),
        dict(name="resnet50_polar.init-a1_in1k"),
        dict(hub="org/name@0123abc", sha256="0" * 64),
        dict(package="../x.safetensors", sha256="0" * 64),
        dict(package="x.safetensors"),
        dict(label_names=("a", "b")),
    ],
)
def test_rows_that_cannot_be_trusted_are_refused(change):
    with pytest.raises(GCPError, match="no valid"):
        dataclasses.replace(ROW, **change).check()


def test_a_manifest_with_a_tag_of_the_plain_backbones_weights_is_refused(tmp_path):
    row = {"name": "resnet50_polar.init-a1_in1k", "description": "x", "upstream": {"source": "drive:1"}}
    (tmp_path / "m.json").write_text(json.dumps([row]))
    with pytest.raises(GCPError, match=r"resnet50_polar\.init-a1_in1k.* the tags of the plain backbone's weights"):
        read_manifest(tmp_path / "m.json")


def test_files_that_are_no_manifest(tmp_path):
    path = tmp_path / "m.json"
    row = {"name": "a_polar.b", "description": "x", "upstream": {"source": "drive:1"}}
    for text in ("", "{", "[1]", '[{"name": "a_polar.b", "colour": 1}]', '{"a": 1}'):
        path.write_text(text)
        with pytest.raises(GCPError, match="no manifest"):
            read_manifest(path)
    path.write_text(json.dumps([row, row]))
    with pytest.raises(GCPError, match="twice"):
        read_manifest(path)


@pytest.mark.slow
def test_a_packaged_model_works_offline_and_another_says_what_to_do(tmp_path):
    code = (
        "import time, timm, timm_gcp\n"
        "m = timm.create_model('test_resnet_svdpade', pretrained=True)\n"
        "print(m.num_classes, m.pretrained_cfg['label_names'][6], m.pretrained_cfg['tag'])\n"
        "print(timm.create_model('test_resnet_svdpade', pretrained=True, num_classes=5).fc.out_features)\n"
        "start = time.monotonic()\n"
        "try:\n    timm.create_model('resnet50_svdpade', pretrained=True)\n"
        "except timm_gcp.GCPError as error:\n    print(time.monotonic() - start < 10, error)\n"
    )
    done = offline(code, tmp_path)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == "81 Banana grocery"
    assert second == "5"
    assert third.startswith("True ")
    assert "timm-gcp convert" in third
    assert not list(tmp_path.rglob("*.safetensors"))


def test_without_a_network_an_upstream_tag_fails_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("timm_gcp.weights.resolve.cache_folder", lambda: tmp_path)
    start = time.monotonic()
    with pytest.raises(GCPError, match="local-dir:DIR"):
        resolve(ROW)
    assert time.monotonic() - start < 10
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_a_row_that_is_not_published_yet():
    row = dataclasses.replace(ROW, upstream=None)
    row.check()
    with pytest.raises(GCPError, match="not published yet"):
        resolve(row)


def test_the_zoo_folder_comes_first(tmp_path, monkeypatch):
    model = timm.create_model("test_resnet_svdpade", num_classes=81)
    safetensors.torch.save_file(model.state_dict(), tmp_path / f"{PACKAGED}.safetensors")
    monkeypatch.setenv("TIMM_GCP_ZOO", str(tmp_path))
    ours = timm.create_model(PACKAGED, pretrained=True)
    assert torch.equal(ours.fc.weight, model.fc.weight)
    (tmp_path / PACKAGED).mkdir()
    safetensors.torch.save_file(ours.state_dict(), tmp_path / PACKAGED / "model.safetensors")
    assert resolve(read_manifest()[PACKAGED]) == tmp_path / PACKAGED / "model.safetensors"
    monkeypatch.setenv("TIMM_GCP_ZOO", str(tmp_path / "nowhere"))
    with pytest.raises(GCPError, match="TIMM_GCP_ZOO"):
        resolve(read_manifest()[PACKAGED])


def test_a_file_that_the_user_names_wins(tmp_path):
    model = timm.create_model("test_resnet_svdpade", num_classes=81)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    overlay = dict(file=str(tmp_path / "mine.pth"))
    mine = timm.create_model(PACKAGED, pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(mine.fc.weight, model.fc.weight)


def test_a_package_file_with_another_sha256_is_refused():
    row = dataclasses.replace(read_manifest()[PACKAGED], sha256="0" * 64)
    with pytest.raises(GCPError, match="another sha256"):
        resolve(row)
    assert sha256_of(resolve(read_manifest()[PACKAGED])) == read_manifest()[PACKAGED].sha256


def test_the_tags_arguments_belong_to_the_tag_alone():
    with torch.device("meta"):
        default = timm.create_model("resnet50_svdpade")
        tagged = timm.create_model("resnet50_svdpade.in1k")
        asked = timm.create_model("resnet50_svdpade.in1k", last_stride=1)
    assert default.gcp_args["last_stride"] == 1
    assert default.pretrained_cfg["pool_size"] == (14, 14)
    assert tagged.gcp_args["last_stride"] == 2
    assert tagged.pretrained_cfg["pool_size"] == (7, 7)
    assert asked.gcp_args["last_stride"] == 1


def test_pretrained_alone_never_gives_a_random_classifier():
    for name, remedy in (("resnet18_polar", r"resnet18_polar\.init"), ("resnet101_svdpade", r"resnet101_isqrt\.in1k")):
        with pytest.raises(GCPError, match=remedy):
            timm.create_model(name, pretrained=True)
    with pytest.raises(GCPError, match=r"resnet50_bcnn\.init"):  # of another width
        timm.create_model("resnet50_bcnn", pretrained=True)
    with pytest.raises(GCPError, match="start from random weights by --no-pretrained"):
        timm.create_model("alexnet_polar", pretrained=True)
    assert "resnet50_isqrt.in1k" in timm.list_models("*_isqrt*", pretrained=True)
    assert "resnet18_isqrt" not in timm.list_models("*_isqrt*", pretrained=True)


def test_weights_without_a_licence_have_to_be_named():
    without = [row for row in read_manifest().values() if row.licence is None]
    assert {row.architecture for row in without} == {f"resnet{n}_isqrt" for n in (18, 34, 50, 101)}
    for row in without:
        assert row.upstream is not None
        assert row.package is None
        assert row.hub is None
        assert "never publishes it" in row.description
        assert timm.get_pretrained_cfg(row.architecture).tag != row.tag
        assert timm.get_pretrained_cfg(row.name).url == row.upstream.source
        assert row.name in timm.list_models(f"{row.architecture}*", pretrained=True)
    with pytest.raises(GCPError, match=r"resnet18_isqrt\.init' starts .*resnet18_isqrt\.in1k_2020' has weights whose"):
        timm.create_model("resnet18_isqrt", pretrained=True)
    with torch.device("meta"):
        assert timm.create_model("resnet18_isqrt.in1k_2020").gcp_args["last_stride"] == 1
    assert timm.get_pretrained_cfg("resnet50_isqrt").tag == "in1k"


def test_features_of_a_checkpoint_are_its_own():
    whole = timm.create_model(PACKAGED, pretrained=True).eval()
    net = timm.create_model(PACKAGED, pretrained=True, features_only=True).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.allclose(net(x)[-1], whole.forward_features(x), atol=1e-5)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release in upstream's layout, on the loopback interface: the files served, and what was asked for."""
    folder, asked = tmp_path_factory.mktemp("release"), []
    model = timm.create_model("resnet50_isqrt", num_classes=3)
    names = {"global_pool.reduce.conv": "layer_reduce", "global_pool.reduce.norm": "layer_reduce_bn"}
    upstream = {}
    for key, value in model.state_dict().items():
        layer, _, kind = key.rpartition(".")
        upstream[f"{names.get(layer, layer)}.{kind}"] = value
    torch.save(upstream, folder / "good.pth")
    torch.save({**upstream, "fc.bias": torch.full((3,), torch.nan)}, folder / "nan.pth")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked, model
        server.shutdown()


def row_of(url):
    return Checkpoint(name="resnet50_isqrt.three", description="A test.", upstream=Upstream(url), num_classes=3)


def test_an_upstream_release_is_downloaded_once_converted_and_kept(release, tmp_path, monkeypatch):
    address, asked, model = release
    monkeypatch.setattr("timm_gcp.weights.resolve.cache_folder", lambda: tmp_path)
    row = row_of(f"{address}/good.pth")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first, second = pool.map(resolve, [row, row])
    assert first == second == resolve(row)
    assert asked == ["/good.pth"]
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".lock"] == [".safetensors"]
    assert arguments_of(first)["last_stride"] == 1  # what the file tells
    weights = safetensors.torch.load_file(first)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    # create_model takes it from the cache, with the file's own arguments.
    monkeypatch.setitem(cfgs._CHECKPOINTS, row.name, row)
    known = timm.models.get_pretrained_cfg("resnet50_isqrt.in1k")
    cfg = dataclasses.replace(known, tag="three", num_classes=3, url=row.upstream.source)
    again = timm.create_model("resnet50_isqrt", pretrained=True, pretrained_cfg=cfg)
    assert torch.equal(again.fc.weight, model.fc.weight)
    assert again.gcp_args["last_stride"] == 1


def test_a_release_that_cannot_be_used_leaves_nothing_in_the_cache(release, tmp_path, monkeypatch):
    address, _, _ = release
    monkeypatch.setattr("timm_gcp.weights.resolve.cache_folder", lambda: tmp_path)
    other = dataclasses.replace(row_of(f"{address}/good.pth"), name="resnet101_isqrt.three")
    checked = dataclasses.replace(row_of(""), upstream=Upstream(f"{address}/good.pth", sha256="0123"))
    for row, message in (
        (row_of(f"{address}/nan.pth"), "NaN"),
        (row_of(f"{address}/missing.pth"), "404"),
        (other, "is a resnet50 of 3 classes"),
        (checked, "sha256|SHA-256|hash"),
    ):
        with pytest.raises(GCPError, match=message):
            resolve(row)
        assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
