"""The experiment on a miniature of the grocery data set, and the report that is made from its lines."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eval import experiment, rate_search, report
from eval import experiment_settings as settings
from eval.experiment_settings import Run
from eval.folds import split_blocks, write_folds
from eval.intervals import mean_interval, paired, unpaired
from eval.record import append_row, provenance, read_cells, write_table
from timm_gcp import GCPError


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grocery")
    rng = np.random.default_rng(0)
    for split, number in (("train", 20), ("val", 2), ("test", 3)):
        lines = []
        for label, name in enumerate(("Apple", "Milk")):
            for i in range(number):
                path = folder / split / name / f"{name}_{i:03}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (40, 30 + 10 * label, 3), dtype=np.uint8)).save(path)
                lines.append(f"{path.relative_to(folder)}, {label}, 0")
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    names = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)\n"
    (folder / "classes.csv").write_text(names + "Apple,0,Food,0\nMilk,1,Food,0\n")
    return folder


def test_folds_are_blocks_of_file_numbers(photographs, tmp_path):
    lines = (photographs / "train.txt").read_text().splitlines()
    held = [split_blocks(lines, fold)[1] for fold in range(2)]
    assert sorted(line for fold in held for line in fold) == sorted(lines)
    assert [Path(line.split(",")[0]).stem for line in held[1]] == [
        f"{n}_{i:03}" for n in ("Apple", "Milk") for i in range(10, 20)
    ]
    data = write_folds(photographs, tmp_path / "folds")
    train, held0 = ((data / f"fold0-{part}.txt").read_text().splitlines() for part in ("train", "val"))
    assert sorted(train + held0) == sorted(lines)
    for name in ("fold0-val", "val", "test"):
        assert (data / (data / f"{name}.txt").read_text().split(",")[0]).is_file()
    assert write_folds(photographs, data) == data  # a second time does no harm


def test_the_order_is_that_of_the_numbers():
    lines = [f"a/x_{i}.jpg, 0" for i in (10, 9, 2, 1, 100)]
    assert split_blocks(lines, 1)[1] == [f"a/x_{i}.jpg, 0" for i in (9, 10, 100)]
    assert split_blocks(lines, 0)[1] == [f"a/x_{i}.jpg, 0" for i in (1, 2)]


@pytest.mark.slow
def test_a_hybrid_starts_from_the_shared_checkpoint_bit_for_bit(photographs, tmp_path):
    """A hybrid has the same results trained from the first epoch and from the other hybrid's checkpoint."""
    base = Run(settings.BASE_HYBRID, 0.05, 1, 6)
    row, curves = experiment.train(base, photographs, tmp_path)
    assert 0 <= float(row["held_top1"]) <= 100
    assert "--experiment final-test_resnet-svdpade-hybrid-lr0.05-seed1" in row["command"]
    assert str(tmp_path) not in row["command"]
    assert list(curves["method"].iloc[[0, -1]]) == ["isqrt", "svdpade"]
    # What is finished is not trained again.
    before = (tmp_path / base.name / "result.json").stat().st_mtime_ns
    assert experiment.train(base, photographs, tmp_path)[0] == row
    assert (tmp_path / base.name / "result.json").stat().st_mtime_ns == before

    other = Run("polar-hybrid", 0.05, 1, 6)
    branched, epochs = experiment.train(other, photographs, tmp_path)
    alone, whole = experiment.train(other, photographs, tmp_path / "alone")
    started = [(folder / f"{other.name}.log").read_text() for folder in (tmp_path, tmp_path / "alone")]
    assert "epochs 1 to 6" in started[1]
    assert "epochs 1 to 6" not in started[0]
    different = {"date", "seconds"}
    assert {k: v for k, v in branched.items() if k not in different} == {
        k: v for k, v in alone.items() if k not in different
    }
    assert epochs.equals(whole)


def test_the_search_widens_until_the_best_has_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr(rate_search, "SEARCH_FOLDS", (0, 1))
    limits = (0.0125, 1.6)
    assert rate_search.with_neighbours({0.1, 0.2}, 0.2, limits) == {0.1, 0.2, 0.4}
    assert rate_search.with_neighbours({0.1, 0.2}, 0.1, limits) == {0.05, 0.1, 0.2}
    assert rate_search.with_neighbours({0.1, 0.2, 0.4}, 0.2, limits) == {0.1, 0.2, 0.4}
    assert rate_search.with_neighbours({0.8, 1.6}, 1.6, limits) == {0.8, 1.6}
    with pytest.raises(GCPError, match="--stage 1"):
        rate_search.rate_of(tmp_path, "isqrt", 12)
    for rate, fold, top1 in ((0.1, 0, 60), (0.1, 1, 70), (0.2, 0, 66), (0.2, 1, 65)):
        append_row(tmp_path / "experiment.csv", line("isqrt", rate, fold, top1, 12, 5000))
    # Every covariance head takes the rate of Newton–Schulz.
    assert rate_search.rate_of(tmp_path, "isqrt", 12) == rate_search.rate_of(tmp_path, "svd-hybrid", 12) == 0.2
    # Within a standard error (of 50 photographs: seven points) the smaller rate is taken.
    write_table(tmp_path / "experiment.csv", read_cells(tmp_path / "experiment.csv").assign(held_count=25))
    assert rate_search.rate_of(tmp_path, "isqrt", 12) == 0.1
    with pytest.raises(GCPError, match="'average' is not chosen yet"):
        rate_search.rate_of(tmp_path, "average", 12)


def line(head, rate, fold, top1, epochs, count=500, backbone=settings.BACKBONE):
    key = dict(zip(settings.KEY, (backbone, head, f"{rate:g}", 0, epochs, fold), strict=True))
    return {**key, "train_top1": 95, "eval_top1": 50, "held_top1": top1, "held_count": count}


def test_the_command_trains_what_is_missing(photographs, tmp_path, monkeypatch):
    trained = []

    def train(run, source, work):
        trained.append(run.name)
        row = dict(zip(settings.KEY, run.key, strict=True))
        best = 0.1 if run.backbone == settings.BACKBONE else 4e-3
        top1 = 50 - 10 * abs(math.log2(run.rate / best))
        return {**row, "eval_top1": 50, "held_top1": top1, "held_count": 5000}, pd.DataFrame()

    monkeypatch.setattr(experiment, "train", train)
    given = ["--data-dir", str(photographs), "--results", str(tmp_path), "--jobs", "1"]
    experiment.main([*given, "--stage", "1"])
    # 0.1, 0.2, then 0.05 for two heads on one fold; then the two other candidates at the rate found.
    assert len(trained) == 2 * 3 + 2
    assert trained[6:] == [f"fold1-test_resnet-{head}-lr0.1-seed0" for head in ("rsqrt", "polar")]
    experiment.main([*given, "--stage", "2", "--seeds", "0", "1"])
    assert trained[8:13] == [f"final-test_resnet-{head}-lr0.1-seed0" for head in settings.STAGES[2]]
    number = len(trained)
    experiment.main([*given, "--stage", "2", "--seeds", "0", "1"])
    assert len(trained) == number
    experiment.main([*given, "--stage", "7", "--seeds", "0"])
    assert trained[number:] == [f"fold0-test_resnet-{head}-lr0.1-seed0" for head in settings.STAGES[7]]
    number = len(trained)
    # Another backbone has rates of its own: 1e-3, 2e-3, then 4e-3 and 8e-3 for two heads; then the final runs.
    experiment.main([*given, "--stage", "8", "--seeds", "0", "1"])
    assert len(trained) == number + 2 * 4 + 2 * 2
    experiment.main([*given, "--stage", "8", "--seeds", "2", "--heads", "isqrt"])
    assert trained.pop() == "final-test_vit-isqrt-lr0.004-seed2"
    finals = [f"final-test_vit-{head}-lr0.004-seed{seed}" for seed in (0, 1) for head in ("average", "isqrt")]
    assert trained[-4:] == finals
    assert list(rate_search.fold_scores(tmp_path, settings.EPOCHS)["isqrt"].index) == [0.05, 0.1, 0.2]
    assert len(rate_search.fold_runs(tmp_path, settings.EPOCHS)) == 2 * 3 + 2


def test_average_pooling_is_asked_for_where_it_is_not_the_backbones_own():
    command = Run("average", 1e-3, 0, 30, None, "test_vit").command(Path("D"), Path("O"))
    assert "global_pool=avg" in command
    assert "adamw" in command
    assert "global_pool=avg" not in Run("isqrt", 1e-3, 0, 30, None, "test_vit").command(Path("D"), Path("O"))
    assert "--last-stride" not in command
    assert "--last-stride" in Run("average", 0.1, 0, 30).command(Path("D"), Path("O"))


def test_curves_are_written_once(tmp_path):
    file = tmp_path / "curves.csv"
    curves = pd.DataFrame(
        [{"backbone": "b", "head": "isqrt", "seed": seed, "epoch": epoch} for seed in ("0", "1") for epoch in (0, 1)]
    )
    for part in (curves[:2], curves[2:], curves[:2]):  # a run interrupted before its row was written is added again
        experiment.write_curves(file, part)
    written = read_cells(file).sort_values(["seed", "epoch"])
    assert list(zip(written["seed"], written["epoch"], strict=True)) == [
        ("0", "0"),
        ("0", "1"),
        ("1", "0"),
        ("1", "1"),
    ]


def test_intervals():
    values = mean_interval([1.0, 2.0, 3.0])
    assert (values.mean, values.number) == (2.0, 3)
    assert values.half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)  # Student's t for 2 degrees of freedom
    assert values.verdict() == "not significant"
    gap = paired(pd.Series({0: 5.0, 1: 6.1, 2: 4.9, 3: 0.0}), pd.Series({0: 1.0, 1: 2.0, 2: 1.0}))
    assert gap is not None
    assert (gap.number, gap.verdict()) == (3, "higher")
    assert paired(pd.Series({0: 1.0}), pd.Series({1: 1.0})) is None
    assert paired(pd.Series({0: 1.0}), pd.Series({0: 0.0})).verdict() == "not significant"  # one seed decides nothing
    # Equal deviations and numbers: Welch's interval is Student's with 4 degrees of freedom.
    welch = unpaired([11.0, 12.0, 13.0], [1.0, 2.0, 3.0])
    assert welch.mean == 10
    assert welch.half == pytest.approx(2.776445 * (2 / 3) ** 0.5, rel=1e-6)
    assert str(welch) == "+10.0 ± 2.3"


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
                rows.append({**line(head, rate, fold, top1, 24), **common})
    for head, top1 in (("average", 70), ("isqrt", 80)):
        for seed in (0, 1):
            own = line(head, 0.1, settings.FRESH_FOLD, top1 + seed * (head == "isqrt"), 24)
            rows.append({**own, "seed": seed, **common})
    for head, top1 in (("average", 30), ("isqrt", 40)):
        rows.append({**line(head, 1e-3, settings.SEARCH_FOLDS[0], top1, 24, backbone="test_vit"), **common})
        own = line(head, 1e-3, "", top1 + 1, 24, backbone="test_vit")
        rows += [{**own, "seed": seed, "held_top1": top1 + seed * (head == "isqrt"), **common} for seed in (0, 1)]
    for head, top1 in level.items():
        for seed in (0, 1):
            own = line(head, 0.1, "", top1 + 0.1 * seed * (head != "isqrt"), 24)
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


def test_the_page(results):
    report.main(["--results", str(results)])
    page = (results / "README.md").read_text(encoding="utf-8")
    assert "2026-01-01; " in page
    assert "| average | 0.1 | 60.0, 60.1 | 60.0 ± 0.1 | 95.0 |  | -4.9 ± 0.6 |" in page
    assert "| isqrt | **65.0** | 64.0 |" in page
    assert "test part: `isqrt`." in page
    assert "`isqrt` against `polar`: higher, +2.9 ± 0.6 (2 seeds, paired)." in page
    assert "`svdpade-hybrid` against `isqrt`: not significant" in page
    assert "`isqrt`: median κ 5.5e+03 while the learning rate is above half of its peak, 1.0e+01 once" in page
    assert "Written by hand." in page
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


def test_the_committed_page_is_what_the_command_makes(tmp_path):
    committed = Path(report.__file__).parent / "results"
    for file in committed.rglob("*"):
        if file.suffix in (".csv", ".md") and file.name != "README.md":
            target = tmp_path / file.relative_to(committed)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    report.main(["--results", str(tmp_path)])
    assert (tmp_path / "README.md").read_bytes() == (committed / "README.md").read_bytes()
