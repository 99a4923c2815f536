"""The session on the page about Python runs, in the order of the page."""

import re

import pytest

import timm_gcp
from tests.support.tools import ROOT

PAGE = ROOT / "docs" / "python.md"


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_session_runs(tmp_path, monkeypatch):
    session = blocks(PAGE.read_text(encoding="utf-8").partition("\n## ")[0])
    assert len(session) == 3
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(session), names)
    assert names["result"].metrics["top1"] > 40  # of four classes
    assert names["found"].top1 == pytest.approx(names["result"].metrics["top1"])
    assert len(names["entries"]) == 81
    assert not names["model"].training


def test_the_errors_are_those_of_the_page():
    calls = re.findall(r"^>>> (.*)\nGCPError: (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert calls
    for call, message in calls:
        with pytest.raises(timm_gcp.GCPError) as error:
            eval(call, {"timm_gcp": timm_gcp})
        assert str(error.value) == message
