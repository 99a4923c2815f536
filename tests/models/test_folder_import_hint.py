"""A saved folder names `import timm_gcp` in its first lines."""

import pytest
import timm

import timm_gcp
from timm_gcp.models.folder import save_folder


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_the_first_lines_lead_to_the_import(backbone, tmp_path):
    folder = save_folder(timm_gcp.graft(timm.create_model(backbone, num_classes=3)), tmp_path / "m")
    first = (folder / "config.json").read_text().splitlines()[1]
    assert "import timm_gcp" in first
    assert ("register_backbone" in first) == (backbone == "test_efficientnet")
    card = (folder / "README.md").read_text().partition("# ")[2]
    assert "import timm_gcp" in "".join(card.splitlines()[:4])
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 3


def test_a_plain_network_needs_nothing(tmp_path):
    folder = save_folder(timm.create_model("test_resnet"), tmp_path / "m")
    assert "requires" not in (folder / "config.json").read_text()
