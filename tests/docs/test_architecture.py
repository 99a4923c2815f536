"""The architecture page: every path that it names exists."""

import re

from tests.support.tools import ROOT

PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "architecture.svg"


def named_paths():
    yield from re.findall(r"`([\w/]+(?:\.py|/))`", PAGE.read_text(encoding="utf-8"))
    yield from re.findall(r'class="path"[^>]*>([^<]*)<', PICTURE.read_text(encoding="utf-8"))


def test_every_path_exists():
    paths = [path for path in named_paths() if path != "timm_gcp/"]
    assert len(paths) > 30
    assert not [path for path in paths if not (ROOT / "timm_gcp" / path).exists()]


def test_names_of_the_trainer_exist():
    from timm_gcp.training.trainer import Trainer

    for name in re.findall(r"`Trainer\.(\w+)`", PAGE.read_text(encoding="utf-8")):
        assert hasattr(Trainer, name), name
