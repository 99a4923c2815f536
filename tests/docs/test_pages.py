"""The pages: tables are those of the code, links lead somewhere, modules that are named exist."""

import importlib.util
import re
import sys

import pytest

from tests.support.tools import ROOT

sys.path.insert(0, str(ROOT / "docs"))

import tables

PAGES = [*tables.pages(), ROOT / "CONTRIBUTING.md", ROOT / "RELEASING.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_code(page):
    text = page.read_text(encoding="utf-8")
    assert tables.render(text) == text, "run python docs/tables.py"


def test_a_stale_table_is_noticed():
    stale = "<!-- table: methods -->\n| old |\n<!-- end of table -->"
    assert "`svdpade`" in tables.render(stale)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:timm_gcp|hub|eval|tests|docs)/[\w/]+\.(?:py|md|json))`", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"-m (timm_gcp[\w.]*|hub|eval)\b", text):
        assert importlib.util.find_spec(module), module
