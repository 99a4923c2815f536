"""Printing never ends a command: encodings that lack a character, closed pipes, full disks, lost terminals."""

import errno
import io
import os
import subprocess
import sys

import pytest
from rich.console import Console
from tqdm import tqdm

from tests.support.broken_output import broken_text
from timm_gcp.__main__ import main
from timm_gcp.output import LenientStream, fold, lenient_output, lost

TEXT = "isqrt → svdpade, κ 1e+05, 3×224×224, Padé – ok"
ENCODINGS = {
    "utf-8": TEXT,
    "cp1252": "isqrt -> svdpade, kappa 1e+05, 3×224×224, Padé – ok",
    "latin-1": "isqrt -> svdpade, kappa 1e+05, 3×224×224, Padé - ok",
    "ascii": "isqrt -> svdpade, kappa 1e+05, 3x224x224, Pade - ok",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_an_encoding_lacks_is_spelled(encoding, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, newline="\n"))
    with lenient_output():
        print(TEXT)
        Console(highlight=False).print(TEXT)
        tqdm.write(TEXT)
        print("\U0001f600 \udcff")
    lines = raw.getvalue().split(b"\n")
    assert [line.decode(encoding) for line in lines[:3]] == [ENCODINGS[encoding]] * 3
    # A character without a spelling, and a byte of a file name that is no text.
    assert lines[3].endswith(b" \xff")
    assert b"?" not in lines[3]


def test_a_stream_of_another_library_that_refuses_a_character():
    class Strict(io.StringIO):
        def write(self, text):
            text.encode("ascii")
            return super().write(text)

    stream = Strict()
    LenientStream(stream).write(TEXT)
    assert stream.getvalue() == ENCODINGS["ascii"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EPIPE])
def test_a_stream_that_cannot_be_written(number, monkeypatch):
    reason = "" if number == errno.EPIPE else os.strerror(number)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, broken_text(number))
    with lenient_output() as output:
        for _ in range(3):
            print("x" * 100, flush=True)
            print("x" * 100, file=sys.stderr)
        Console().print("x")
        with tqdm(range(3), file=sys.stderr) as bar:
            list(bar)
        assert lost(output) == reason


@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_stream_that_is_not_there(stream, monkeypatch):
    gone = stream and io.StringIO()
    if gone:
        gone.close()
    monkeypatch.setattr(sys, "stdout", gone)
    assert main(["--version"]) == 0


def test_results_that_could_not_be_printed_are_an_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", broken_text(errno.ENOSPC))
    assert main(["--version"]) == 2
    assert "Standard output could not be written (No space left on device)" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdout", broken_text(errno.EPIPE))
    assert main(["--version"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_head_closes_the_pipe():
    """As ``… | true`` does: nothing is said of it, not at Python's exit either."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "timm_gcp", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_fold():
    parts = ["epoch 3/30", "train loss 1.2345 top1 45.00", "", "lr 0.1", "12.3 s"]
    assert fold(parts, None) == "epoch 3/30  train loss 1.2345 top1 45.00  lr 0.1  12.3 s"
    assert fold(parts, 40) == "epoch 3/30  train loss 1.2345 top1 45.00\n  lr 0.1  12.3 s"
    assert fold(parts, 39) == "epoch 3/30\n  train loss 1.2345 top1 45.00  lr 0.1\n  12.3 s"
