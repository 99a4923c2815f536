"""Until timm_gcp is released, the name on a package index could be anybody's: nothing tells a user to install it."""

import re

import pytest

from tests.support.tools import ROOT

FILES = [*ROOT.glob("timm_gcp/**/*.py"), *ROOT.glob("hub/*.py"), *ROOT.glob("eval/*.py"), ROOT / "README.md"]


@pytest.mark.parametrize("name", ["timm-gcp", "timm_gcp"])
def test_nothing_advises_a_distribution_that_is_not_released(name):
    advice = re.compile(rf"pip install[^\n&]*{name}\b")
    assert not [str(file) for file in FILES if advice.search(file.read_text(encoding="utf-8"))]
