"""Downloads against a server on this machine that behaves as Google Drive, and as bad networks, do."""

import hashlib
import http.server
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from huggingface_hub import constants

from tests.support.published import PADE, state_dict
from timm_gcp.__main__ import main
from timm_gcp.errors import GCPError
from timm_gcp.weights import download as module
from timm_gcp.weights.download import download, is_web_page

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CONFIRM = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<p>Google Drive can't scan this file for viruses.</p><form id="download-form" action="{action}" method="get">
<input type="submit" value="Download anyway"/><input type="hidden" name="id" value="{id}">
<input type="hidden" name="export" value="download"><input type="hidden" name="confirm" value="t">
<input type="hidden" name="uuid" value="12ab"></form></body></html>"""
QUOTA = """<html><head><title>Google Drive - Quota exceeded</title></head><body><p>Sorry, you can't view or download
this file at this time. Too many users have viewed or downloaded this file recently.</p></body></html>"""


class Server(http.server.ThreadingHTTPServer):
    """What it serves, and how badly; ``requests`` are those it had: path and headers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.ranges, self.length, self.status = CONTENT, '"one"', True, True, 200
        self.cuts, self.pages, self.delay, self.total = [], {}, 0.0, None
        self.requests = []

    @property
    def at(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        place, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        page = server.pages.get(place)
        if callable(page):
            page = page(query)
        if page is not None:
            status, text = page
            self.send_response(status)
            if status == 302:
                self.send_header("Location", text)
                text = ""
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        asked = self.headers.get("Range") if server.ranges else None
        if asked and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            total = server.total or len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{total}")
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.length:
            self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        body = server.content[start:]
        cut = server.cuts.pop(0) if server.cuts else len(body)
        self.wfile.write(body[: cut // 2])
        self.wfile.flush()
        time.sleep(server.delay)
        self.wfile.write(body[cut // 2 : cut])


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "weights.pth"


def left(target):
    """What is in the target's folder, without the lock."""
    return sorted(path.name for path in target.parent.glob("*") if not path.name.endswith(".lock"))


def refused(message, source, target, **arguments):
    arguments = {"what": "The weights", "remedy": "get them elsewhere", **arguments}
    with pytest.raises(GCPError, match=message) as refusal:
        download(source, target, **arguments)
    text = str(refusal.value)
    assert text.startswith("The weights cannot be downloaded")
    assert text.endswith("; get them elsewhere.")
    assert "\n" not in text
    return text


def test_a_file_is_fetched_once(server, target):
    for _ in range(2):
        assert download(f"{server.at}/w", target, sha256=SHA256, size=len(CONTENT)) == target
    assert target.read_bytes() == CONTENT
    assert left(target) == ["weights.pth"]
    assert len(server.requests) == 1
    download(f"{server.at}/w", target, sha256=SHA256[:8].upper())  # digits as in torch.hub's names
    assert len(server.requests) == 1


def test_what_is_wrong_under_the_targets_name_is_fetched_anew(server, target):
    target.parent.mkdir()
    for wrong in (b"<!DOCTYPE html><html>", b"", b"other"):
        target.write_bytes(wrong)
        download(f"{server.at}/w", target, sha256=SHA256)
        assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("etag", ['"one"', None, 'W/"weak"'])
@pytest.mark.parametrize("seed", range(3))
def test_a_connection_cut_anywhere_is_continued(server, target, seed, etag):
    rng = random.Random(seed)
    server.etag, server.cuts = etag, [rng.randrange(1, 90_000) for _ in range(3)]
    download(f"{server.at}/w", target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert left(target) == ["weights.pth"]
    assert len(server.requests) == 4
    (_, first), *rest = server.requests
    assert "Range" not in first
    assert all(headers["Range"].startswith("bytes=") for _, headers in rest)
    assert {headers.get("If-Range") for _, headers in rest} == {etag if etag == '"one"' else None}


def test_the_next_call_continues(server, target):
    server.cuts = [100_000, 0]
    refused(r"broke off after 100000 of 300000 bytes", f"{server.at}/w", target)
    assert left(target) == ["weights.pth.part", "weights.pth.part.json"]
    download(f"{server.at}/w", target)
    assert target.read_bytes() == CONTENT
    assert server.requests[-1][1]["Range"] == "bytes=100000-"
    assert left(target) == ["weights.pth"]


def test_a_whole_part_needs_no_server(server, target):
    download(f"{server.at}/w", target)
    whole = target.rename(target.with_name("weights.pth.part"))
    record = f'{{"source": "{server.at}/w", "validator": null, "total": {len(CONTENT)}}}'
    whole.with_name("weights.pth.part.json").write_text(record)
    download(f"{server.at}/w", target)
    assert len(server.requests) == 1


@pytest.mark.parametrize("cuts", [[100_000, 200_000], [100_000, 100_000]])
def test_a_server_without_ranges_begins_again(server, target, cuts):
    server.ranges, server.cuts = False, cuts
    if cuts[0] < cuts[1]:
        download(f"{server.at}/w", target, sha256=SHA256)
        assert target.read_bytes() == CONTENT
    else:  # nothing is won by another attempt
        refused("broke off after 100000 of 300000 bytes", f"{server.at}/w", target)


@pytest.mark.parametrize("how", ["etag", "length", "shorter"])
def test_a_file_that_changed_meanwhile_begins_again(server, target, how):
    server.etag = '"one"' if how == "etag" else None
    server.cuts = [100_000, 0]
    refused("broke off", f"{server.at}/w", target)
    server.content = random.Random(1).randbytes({"etag": 300_000, "length": 310_000, "shorter": 50_000}[how])
    server.etag = '"two"' if how == "etag" else None
    download(f"{server.at}/w", target)
    assert target.read_bytes() == server.content


def test_another_source_does_not_continue_the_part(server, target, monkeypatch):
    server.cuts = [100_000, 0]
    refused("broke off", f"{server.at}/one", target)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
        refused("more than the disk has left", f"{server.at}/two", target)
    server.cuts = [50_000]
    download(f"{server.at}/two", target)
    assert ["Range" in headers for _, headers in server.requests[-2:]] == [False, True]
    assert target.read_bytes() == CONTENT


def test_a_wrong_hash_or_size_leaves_nothing(server, target):
    refused(f"its SHA-256 is {SHA256[:8]}…, not 01234567", f"{server.at}/w", target, sha256="01234567")
    assert left(target) == []
    refused("the server has 300000 bytes of it, not 5", f"{server.at}/w", target, size=5)
    server.length = False
    refused("more than 5 bytes", f"{server.at}/w", target, size=5)
    refused("300000 bytes, not 400000", f"{server.at}/w", target, size=400_000)
    assert left(target) == []
    server.content = b""
    refused("it is empty", f"{server.at}/w", target)
    assert left(target) == []


def test_a_web_page_is_not_the_file(server, target):
    server.pages["/w"] = (200, "\n <!doctype HTML><html>sign in</html>")
    refused("a web page, not the file", f"{server.at}/w", target)
    assert left(target) == []


def test_web_pages_are_told_from_weights():
    assert is_web_page(b"\xef\xbb\xbf<!-- -->")
    assert is_web_page(b"<HTML lang='en'>")
    for head in (b"PK\x03\x04", b"\x80\x02", b"<\x00\x00\x00\x00\x00\x00\x00{}", b"<!\x00\x00\x00\x00\x00\x00{", b""):
        assert not is_web_page(head)


def drive(server, first):
    """Drive's answers: ``first`` to the first request, the file to the one that follows its form."""
    server.pages["/download"] = lambda query: None if query.get("uuid") == ["12ab"] else first
    return {"drive": f"{server.at}/download"}


@pytest.mark.parametrize("action", ["/download", "{at}/download"])
def test_drives_question_is_answered(server, target, action):
    page = CONFIRM.format(action=action.format(at=server.at), id="1x_-Y")
    server.cuts = [70_000]
    download("drive:1x_-Y", target, sha256=SHA256, **drive(server, (200, page)))
    assert target.read_bytes() == CONTENT
    first, second, third = (parse_qs(urlsplit(path).query) for path, _ in server.requests)
    assert first == {"id": ["1x_-Y"], "export": ["download"], "confirm": ["t"]}
    assert second == third == {**first, "uuid": ["12ab"]}
    assert server.requests[2][1]["Range"] == "bytes=70000-"


def test_a_small_file_of_drive_comes_at_once(server, target):
    download("drive:1x_-Y", target, sha256=SHA256, **drive(server, None))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, QUOTA), "quota for this file is used up"),
        ((403, QUOTA), "quota for this file is used up"),
        ((302, "/ServiceLogin?continue=x"), "asks to sign in"),
        ((200, "<html><title>Sorry</title></html>"), r"with a web page \('Sorry'\)"),
        ((404, "<html>Not Found</html>"), r"answers 404 \(Not Found\)"),
        ((200, CONFIRM.format(action="/again/download", id="1")), "again and again"),
    ],
)
def test_drives_refusals(server, target, answer, message):
    server.pages["/ServiceLogin"] = (200, "<html><title>Sign in</title></html>")
    server.pages["/again/download"] = answer
    said = refused(message, "drive:1x_-Y", target, **drive(server, answer))
    assert "from https://drive.google.com/file/d/1x_-Y: " in said
    assert left(target) == []


def test_a_servers_refusals(server, target):
    for status, reason in ((404, "Not Found"), (403, "Forbidden"), (503, "Service Unavailable")):
        server.status = status
        refused(rf"the server answers {status} \({reason}\)", f"{server.at}/w", target)
    assert left(target) == []


@pytest.mark.parametrize("source", ["file:///etc/hosts", "ftp://127.0.0.1/w", "weights.pth", ""])
def test_other_sources_are_refused(source, target):
    refused("neither an http", source, target)


def test_no_network_is_found_out_in_time(target, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        refused("no connection .*refused", f"http://127.0.0.1:{port}/w", target)
        listening.listen()
        began = time.monotonic()
        refused("no answer within 0.3 seconds|timed out", f"http://127.0.0.1:{port}/w", target)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(3))
        refused("no answer within 0.3 seconds", "http://nowhere.invalid/w", target)
        assert time.monotonic() - began < 2.5
    assert left(target) == []


def test_a_stalled_transfer_is_continued(server, target, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    server.delay, server.cuts = 1.0, [100_000]
    threading.Timer(0.5, lambda: setattr(server, "delay", 0.0)).start()
    download(f"{server.at}/w", target, sha256=SHA256)
    assert len(server.requests) > 1


def test_offline_mode(server, target, monkeypatch):
    monkeypatch.setattr(module.constants, "HF_HUB_OFFLINE", True)
    refused("HF_HUB_OFFLINE is set", f"{server.at}/w", target)
    assert not target.parent.exists()
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    assert download(f"{server.at}/w", target, sha256=SHA256) == target
    assert not server.requests


def test_a_full_disk_and_a_folder_that_cannot_be_written(server, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    refused("more than the disk has left", f"{server.at}/w", target)
    target.parent.rmdir() if not os.listdir(target.parent) else shutil.rmtree(target.parent)
    target.parent.write_text("a file")
    with pytest.raises(GCPError, match=r"cannot be written to .*; get them elsewhere\."):
        download(f"{server.at}/w", target, what="The weights", remedy="get them elsewhere")


@pytest.mark.slow
def test_two_processes_fetch_a_file_once(server, target):
    server.delay = 1.0
    code = (
        "import sys; from timm_gcp.weights.download import download; "
        f"download('{server.at}/w', sys.argv[1], sha256='{SHA256}', what='The weights')"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(target)], stderr=subprocess.PIPE, text=True) for _ in "12"
    ]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert sorted(said)[0] == ""


def test_convert_downloads_what_it_is_given(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state_dict(PADE, 2).items()}, tmp_path / "w")
    server.content = (tmp_path / "w").read_bytes()
    digits = hashlib.sha256(server.content).hexdigest()[:8]
    source, out = f"{server.at}/pade.pth", tmp_path / "out"
    arguments = ("--model", "resnet50_svdpade", "--out", str(out))
    cache = tmp_path / "hub" / "checkpoints"
    assert main(["convert", source, "--sha256", digits, *arguments]) == 0
    assert (out / "model.safetensors").is_file()
    assert f"from `{source}`" in (out / "README.md").read_text()
    assert [path.name[12:] for path in cache.glob("*.pth")] == ["-pade.pth"]
    # What is no checkpoint does not stay in the cache.
    server.content = CONTENT
    again = (*arguments, "--overwrite")
    assert main(["convert", f"{server.at}/noise.pth", *again]) == 2
    assert "damaged" in capsys.readouterr().err
    assert (out / "model.safetensors").is_file()
    assert len(list(cache.glob("*.pth"))) == 1
    assert not list(cache.glob("*.part*"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["convert", "drive:1ecVE3EklMgg0", *again]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "download it by hand from https://drive.google.com/file/d/1ecVE3EklMgg0 and convert it with" in error
