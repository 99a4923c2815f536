"""Model cards: their content and metadata, and the code on them."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from hub import cards
from hub.logits import logits_of, same_logits
from hub.model_card import render_card
from tests.support.maintainer import CLASSES, NAME, REPO, ROW
from timm_gcp import GCPError
from timm_gcp.sharing.recipe import read_recipe
from timm_gcp.weights.manifest import read_manifest


def test_card(maintainer, published):
    repo = maintainer.hub.repos[REPO]
    card = repo.commits[repo.head]["README.md"].decode()
    assert card.startswith("---\nlibrary_name: timm\nlicense: apache-2.0\n")
    assert "| textures\\|validation | 91.50 |  | us | `timm-gcp validate` |" in card
    results = [(r.metric_name, r.metric_value, r.dataset_name) for r in ModelCard(card).data.eval_results]
    assert results == [("Top-1 accuracy", 91.5, "textures|validation")]
    assert "timm-gcp train --data-dir textures --lr 0.1" in card
    assert str(maintainer.folder) not in card
    for text in (
        "Not verified",
        "![Loss and accuracy by epoch](curves.png)",
        "3 of 4",
        "@inproceedings{song2021",
        "Apache-2.0",
    ):
        assert text in card


@pytest.mark.slow
def test_the_card_works_in_a_new_process(maintainer, published, tmp_path):
    repo = maintainer.hub.repos[REPO]
    code = re.search(r"```python\n(.*?)```", repo.commits[repo.head]["README.md"].decode(), re.DOTALL)[1]
    assert code.startswith("import timm_gcp\n")
    assert f'"hf-hub:{REPO}"' in code
    noise = np.random.default_rng(0).integers(0, 256, (180, 200, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation of a camera held upright: the width and height of the file are exchanged
    Image.fromarray(noise).save(tmp_path / "image.jpg", exif=exif)
    code += "\nassert image.size == (180, 200), image.size\n"
    code += "\nimport sys; sys.path.insert(0, '.')\nfrom hub.logits import logits_of\n"
    code += "torch.save(logits_of(model, (3, 160, 160)), 'logits.pt')\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=maintainer.env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert sorted(line.split()[1] for line in done.stdout.splitlines()) == sorted(CLASSES)
    assert same_logits(logits_of(maintainer.model, (3, 160, 160)), torch.load(tmp_path / "logits.pt"))


def test_cards(maintainer, tmp_path, manifest):
    cards.main(["--out", str(tmp_path / "ours")])
    cards.main(["--out", str(tmp_path / "cards"), "--manifest", str(manifest)])
    assert {path.stem for path in (tmp_path / "ours").iterdir()} == {*read_manifest(), "index"}
    index = (tmp_path / "cards" / "index.md").read_text()
    millions = sum(p.numel() for p in maintainer.model.parameters()) / 1e6
    line = f"| [{NAME}]({NAME}.md) | 3 × 160 × 160 | {millions:.2f} M | textures\\|validation | 91.50 |  | us | no |"
    assert f"{line} Apache-2.0 | the authors' release (https://example.org/textures.pth) |" in index
    card = (tmp_path / "cards" / f"{NAME}.md").read_text()
    assert f'timm.create_model("{NAME}", pretrained=True)' in card


def test_card_of_a_verified_row_without_names():
    row = dataclasses.replace(ROW, verified="validate, 2026-11-20.", label_names=None, metrics=())
    card = render_card(row, repo=None, parameters=None)
    assert "Not verified" not in card
    assert "Verified: validate, 2026-11-20.\n" in card
    assert "The names of the classes are not known." in card
    compile(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], "card", "exec")


def test_the_papers_results_are_named_as_the_papers():
    card = render_card(read_manifest()["resnet50_svdpade.in1k"], repo=None, parameters=None)
    paper = card.partition("## The paper's results")[2].partition("\n## ")[0]
    assert "not of the weights on this card, and this project has not measured them" in paper
    assert "| `resnet50` | SVD-Padé (`svdpade`) | 22.67 / 6.51 | 22.60 / 6.44 |" in paper
    assert "| SVD-Padé (`svdpade`) | 87.05 / 87.29 | 83.40 / 84.34 | 92.55 / 92.99 |" in paper
    assert "`resnet101`" not in paper
    assert "22.60" not in card.replace(paper, "")
    assert "paper's results" not in render_card(ROW, repo=None, parameters=None)


def test_recipes(tmp_path):
    assert read_recipe(tmp_path / "model") is None
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(GCPError, match="was not written by"):
        read_recipe(tmp_path / "model")
