"""The HTML of results in a notebook is complete, loads nothing, and fits the width of a browser."""

import json
import re

import pytest
from PIL import Image

import timm_gcp
from tests.support.page import checked_html, chromium, in_chromium


@pytest.fixture(scope="module")
def results(images, run, tmp_path_factory):
    photo = tmp_path_factory.mktemp("photos") / "a <b> & c.jpg"
    Image.new("RGB", (60, 40), (200, 30, 30)).save(photo)
    return {
        "train": timm_gcp.TrainResult(run),
        "evaluate": timm_gcp.evaluate(run, images, device="cpu", workers=0),
        "predict": timm_gcp.predict([photo, images / "validation" / "fine"], model=run, device="cpu"),
    }


def test_it_is_whole_and_loads_nothing(results):
    pages = {name: checked_html(result._repr_html_()) for name, result in results.items()}
    assert pages["predict"].pictures == 13
    assert any(text.endswith("a <b> & c.jpg") for text in pages["predict"].texts)
    train = results["train"]
    assert {f"{train.best_epoch + 1} of 4", "evaluation top-1", "svdpade"} <= set(pages["train"].texts)
    found = results["evaluate"]
    assert f"{found.top1:.2f} %" in pages["evaluate"].texts
    assert {"coarse", "fine", "middle", "most often taken for"} <= set(pages["evaluate"].texts)


@pytest.mark.slow
@chromium
def test_in_chromium(results, tmp_path):
    """Nothing is wider than its cell, pictures are loaded, and texts of charts have the colour of the notebook."""
    cells = "".join(
        f'<div class="cell" style="width: {width}px; color: rgb(1, 200, 3)">{result._repr_html_()}</div>'
        for width in (360, 960, 1500)
        for result in results.values()
    )
    path = tmp_path / "cells.html"
    path.write_text(f"<!DOCTYPE html><html><head><title>-</title></head><body>{cells}</body></html>")
    script = """
    const told = {};
    told.wide = [...document.querySelectorAll(".cell")].filter((cell) => cell.scrollWidth > cell.clientWidth).length;
    told.pictures = [...document.querySelectorAll("img")].map((image) => image.naturalWidth);
    const fill = (text) => getComputedStyle(text).fill;
    told.colours = [...new Set([...document.querySelectorAll("svg text")].map(fill))];
    told.lines = document.querySelectorAll("svg path").length;
    document.title = JSON.stringify(told);
    """
    dom, errors = in_chromium(path, tmp_path, script)
    assert not errors
    told = json.loads(re.search(r"<title>(\{.*?)</title>", dom)[1])
    assert told["wide"] == 0
    assert told["pictures"] == [60, *[48] * 12] * 3
    assert "rgb(1, 200, 3)" in told["colours"]
    assert "rgb(0, 0, 0)" not in told["colours"]
    assert told["lines"] > 50
