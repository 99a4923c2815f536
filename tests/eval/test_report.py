"""The report of the results."""

from pathlib import Path

import pytest
from PIL import Image

from eval import experiment_settings as settings
from eval import report
from eval.record import provenance, write_table
from tests.eval.rows import row_of
from timm_gcp import GCPError


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Lines as the experiment writes them: two seeds of some heads, five epochs."""
    folder = tmp_path_factory.mktemp("results")
    level = {"average": 60, "isqrt": 65, "polar": 62, "svdpade": 62.2, "svdpade-hybrid": 65.1, "rsqrt": 64}
    common = dict(provenance(), date="2026-01-01")
    rows, curves = [], []
    for head in ("average", *settings.CANDIDATES):
        for rate in (0.1, 0.2):
            for fold in settings.SEARCH_FOLDS:
                top1 = level[head] - 10 * abs(rate - 0.1)
                rows.append({**row_of(head, rate, fold, top1, 24), **common})
    for head, top1 in (("average", 70), ("isqrt", 80)):
        for seed in (0, 1):
            own = row_of(head, 0.1, settings.FRESH_FOLD, top1 + seed * (head == "isqrt"), 24)
            rows.append({**own, "seed": seed, **common})
    for head, top1 in (("average", 30), ("isqrt", 40)):
        rows.append({**row_of(head, 1e-3, settings.SEARCH_FOLDS[0], top1, 24, backbone="test_vit"), **common})
        own = row_of(head, 1e-3, "", top1 + 1, 24, backbone="test_vit")
        rows += [{**own, "seed": seed, "held_top1": top1 + seed * (head == "isqrt"), **common} for seed in (0, 1)]
    for head, rate, top1 in (("isqrt-conv", 0.1, 62), ("isqrt-conv", 0.2, 70), ("isqrt-linear", 0.1, 61)):
        rows.append({**row_of(head, rate, settings.SEARCH_FOLDS[0], top1, 24), **common})
    rows += [{**row_of("isqrt-conv", 0.2, "", 55 + seed, 24), "seed": seed, **common} for seed in (0, 1)]
    for head, top1 in level.items():
        for seed in (0, 1):
            own = row_of(head, 0.1, "", top1 + 0.1 * seed * (head != "isqrt"), 24)
            rows.append({**own, "seed": seed, **common})
            for epoch, lr in enumerate((0.01, 0.1, 0.06, 0.03, 0.001)):
                seen = dict(epoch=epoch, lr=lr, method=head, train_top1=9, eval_top1=epoch * top1 / 5)
                seen |= dict(kappa="" if head == "average" else 10 ** (5 - epoch), rank=48, under_eps=0.0)
                curves.append({"backbone": settings.BACKBONE, "head": head, "seed": seed, **seen})
    write_table(folder / "experiment.csv", rows)
    write_table(folder / "experiment_curves.csv", curves)
    (folder / "notes").mkdir()
    (folder / "notes" / "experiment.md").write_text("Written by hand.\n")
    return folder


@pytest.mark.slow
def test_the_page(results):
    report.main(["--results", str(results)])
    page = (results / "README.md").read_text(encoding="utf-8")
    assert "2026-01-01; " in page
    assert "## Results of the paper\n\nNot measurements of this project" in page
    assert page.index("| SVD-Padé (`svdpade`) | 87.05 / 87.29 |") > page.index("## Results of the paper")
    assert "| average | 0.1 | 60.0, 60.1 | 60.0 ± 0.1 | 95.0 |  | -4.9 ± 0.6 |" in page
    assert "| isqrt | **65.0** | 64.0 |" in page
    assert "test part: `isqrt`." in page
    assert "`isqrt` against `polar`: higher, +2.9 ± 0.6 (2 seeds, paired)." in page
    assert "`svdpade-hybrid` against `isqrt`: not significant" in page
    assert "`isqrt`: median κ 5.5e+03 while the learning rate is above half of its peak, 1.0e+01 once" in page
    assert "Written by hand." in page
    assert "| test_resnet | `conv` | 0.2 | **70.0** | 55.0, 56.0 | 55.5 ± 0.7 |  |" in page
    assert "| test_resnet | `linear` | 0.1 | 61.0 |  |  |  |" in page
    assert "isqrt-conv |" not in page  # not among the methods
    assert "`average`: 70.0 ± 0.0 (70.0, 70.0)." in page
    assert "`isqrt`: 80.5 ± 0.7 (80.0, 81.0); against `average`: higher, +10.5 ± 6.4 (2 seeds, paired)." in page
    assert (
        "`test_vit`, lr 0.001, 95.0 on the training part: `isqrt`: 40.5 ± 0.7 (40.0, 41.0); against `average`: " in page
    )
    assert "higher, +10.5 ± 6.4 (2 seeds, paired)." in page
    for name in ("backbones", "heads", "same_shops", "curves", "gap", "conditioning", "hybrid"):
        with Image.open(results / f"experiment_{name}.png") as plot:
            assert min(plot.size) > 300
    before = page
    report.main(["--results", str(results)])
    assert (results / "README.md").read_text(encoding="utf-8") == before


def test_a_page_of_nothing(tmp_path):
    with pytest.raises(GCPError, match="measure something first"):
        report.main(["--results", str(tmp_path)])


@pytest.mark.slow
def test_the_committed_page_is_what_the_command_makes(tmp_path):
    committed = Path(report.__file__).parent / "results"
    for file in committed.rglob("*"):
        if file.suffix in (".csv", ".md") and file.name != "README.md":
            target = tmp_path / file.relative_to(committed)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    report.main(["--results", str(tmp_path)])
    assert (tmp_path / "README.md").read_bytes() == (committed / "README.md").read_bytes()
