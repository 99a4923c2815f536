"""The first table of the report, and the section about fine-tuning."""

import pytest

from eval import finetune_report, finetune_runs, gains
from eval import finetune_settings as settings
from eval.record import read_table, write_table


def finetuned(name, part, head, lr, top1, seed=0, images=""):
    key = (name, part, head, images, lr, seed, settings.EPOCHS)
    more = {
        "top1": top1,
        "top5": 95,
        "count": 2500,
        "kappa": "",
        "parameters": 4e6,
        "seconds": 100,
        "machine": "two cores",
    }
    return {**dict(zip(settings.KEY, key, strict=True)), **more}


@pytest.fixture
def results(tmp_path):
    rows = [
        *(finetuned("cars", "val", "average", lr, top1) for lr, top1 in ((0.01, 60), (0.03, 72))),
        *(finetuned("cars", "val", "isqrt", lr, top1) for lr, top1 in ((0.01, 71), (0.03, 70))),
        *(finetuned("cars", "test", head, lr, 70) for head in ("average", "isqrt") for lr in (0.01, 0.03)),
        finetuned("grocery", "test", "average", 0.03, 80),
        *(finetuned("grocery", "test", "isqrt", 0.01, 85 + seed, seed) for seed in (0, 1)),
        finetuned("grocery", "test", "isqrt, probe", 0.01, 99),
        finetuned("cars", "test", "isqrt", 0.01, 1, images=5),
        finetuned("cars", "val", "isqrt", 0.01, 2, images=5),
        finetuned("cars", "val", "isqrt", 0.03, 99, seed=1),
        {**finetuned("grocery", "test", "isqrt", 0.01, 3, seed=2), "epochs": 1},
    ]
    write_table(tmp_path / "finetune.csv", rows)
    draws = [
        {
            "data": "grocery",
            "pixels": pixels,
            "head": head,
            "images": images,
            "draw": draw,
            "top1": top1 + draw + pixels / 224,
        }
        for pixels in (224, 448)
        for images, number in ((5, 3), ("all", 1))
        for head, top1 in (("mean", 59), ("mean and covariance", 63))
        for draw in range(number)
    ]
    write_table(tmp_path / "probe_images.csv", draws)
    return tmp_path


def test_final_runs_have_the_rate_that_validation_chose(results):
    final = finetune_runs.final_runs(read_table(results / "finetune.csv"))
    assert {(row.head, row.lr) for row in final.itertuples()} == {("average", 0.03), ("isqrt", 0.01)}
    assert 1 not in set(final["top1"])
    text = finetune_report.section(results)
    assert "| `isqrt` | all | **71.0** | 70.0 |" in text
    assert "| grocery | `isqrt` | 0.01 | 85.0, 86.0 | +5.0 ± 2.1, higher |" in text
    assert "| cars | `isqrt` | 0.01 | 70.0 | +0.0 ± 2.5, not significant |" in text
    assert "With few" in text
    assert "99" not in text.split("Bold")[1]  # no rate was searched for the head from a probe


def test_without_runs_at_the_chosen_rate_those_at_the_next_best_one_are_shown_and_marked(results):
    rows = read_table(results / "finetune.csv")
    rows = [*rows.to_dict("records"), finetuned("cars", "val", "isqrt", 0.1, 90)]
    write_table(results / "finetune.csv", rows)
    text = finetune_report.section(results)
    assert "| `isqrt` | all | 71.0 | 70.0 | **90.0** |" in text
    assert "| grocery | `isqrt` | 0.01* | 85.0, 86.0 |" in text
    assert "still to be made" in text
    write_table(results / "finetune.csv", [*rows, finetuned("grocery", "test", "isqrt", 0.1, 60)])
    assert "| grocery | `isqrt` | 0.1 | 60.0 |" in finetune_report.section(results)


def test_few_training_images(results):
    rows = read_table(results / "finetune.csv").to_dict("records")
    rows += [finetuned("cars", "test", head, 0.01, top1, images=5) for head, top1 in (("average", 20), ("isqrt", 27))]
    rows += [finetuned("cars", "test", "isqrt", 0.01, 46, images=10)]
    write_table(results / "finetune.csv", [row for row in rows if row["top1"] != 1])
    text = finetune_report.section(results)
    assert "| Stanford Cars | 5 | `isqrt` | 27.0 | +7.0 ± 2.3, higher |" in text
    assert "| Stanford Cars | 10 | `isqrt` | 46.0 |  |" in text
    assert "| Stanford Cars | all | `isqrt` | 70.0 | +0.0 ± 2.5, not significant |" in text
    assert (results / "finetune_images.png").is_file()


def test_heads_from_a_probe_are_searched_on_few_images_and_compared_with_each_other(results):
    rows = read_table(results / "finetune.csv").to_dict("records")
    for head, top1 in (("average, probe", 30), ("isqrt, probe", 36)):
        rows.append(finetuned("cars", "val", head, 0.03, 90))  # all images: no part of the search
        rows += [finetuned("cars", "val", head, lr, top1 - 100 * lr, images=5) for lr in (0.01, 0.03)]
        rows += [finetuned("cars", "test", head, lr, top1 + 100 * lr, images=5) for lr in (0.01, 0.03)]
    write_table(results / "finetune.csv", rows)
    text = finetune_report.section(results)
    assert "| `isqrt, probe` | 5 | **35.0** | 33.0 |" in text
    assert "| Stanford Cars | 5 | `average, probe` | 31.0 |  |" in text
    assert "| Stanford Cars | 5 | `isqrt, probe` | 37.0 | +6.0 ± 2.6, higher |" in text
    assert "| all weights, from a probe, 5 images per class, 224 px | Stanford Cars | 31.0 | 37.0 |" in gains.table(
        results
    )


def test_the_moment_of_the_switch(results):
    rows = read_table(results / "finetune.csv").to_dict("records")
    rows = [row for row in rows if row["images"] != 5]
    scores = zip(settings.SWITCH, (50.0, 52.0, 51.0), strict=True)
    rows += [finetuned("cars", "val", head, 0.01, top1, images=5) for head, top1 in scores]
    write_table(results / "finetune.csv", rows[:-1])
    assert "moment of the switch" not in finetune_report.section(results)
    write_table(results / "finetune.csv", rows)
    text = finetune_report.section(results)
    assert "| `svdpade` | at a tenth of the peak rate, within epoch 10 | 52.0 | +2.0 ± 2.8 |" in text


def test_all_heads_beside_isqrt_on_the_seeds_that_both_have(results):
    rows = read_table(results / "finetune.csv").to_dict("records")
    rows += [finetuned("grocery", "test", "isqrt", 0.01, 70 + seed, seed, images=10) for seed in (0, 1)]
    write_table(results / "finetune.csv", rows)
    assert "All heads" not in finetune_report.section(results)
    write_table(results / "finetune.csv", [*rows, finetuned("grocery", "test", "polar", 0.01, 76, images=10)])
    text = finetune_report.section(results).split("### All heads")[1]
    assert "| `isqrt` | 0.01 | 70.0, 71.0 |  |" in text
    assert "| `polar` | 0.01 | 76.0 | +6.0 ± 2.5, higher |" in text


def test_the_first_table(results):
    text = gains.table(results)
    assert (
        "| classifier, 5 images per class, 224 px | Grocery Store | 61.0 | 65.0 | +4.0 ± 0.0, higher | 3 draws" in text
    )
    assert (
        "| classifier, all images, 224 px | Grocery Store | 60.0 | 64.0 | +4.0 ± 2.7, higher | 2500 test images" in text
    )
    assert (
        "| classifier, all images, 448 px | Grocery Store | 61.0 | 65.0 | +4.0 ± 2.7, higher | 2500 test images" in text
    )
    assert "| all weights, all images, 224 px | Grocery Store | 80.0 | 85.0 | +5.0 ± 2.1, higher | 2500 test" in text
    assert gains.table(results / "none") == ""
    rows = read_table(results / "finetune.csv").to_dict("records")
    write_table(results / "finetune.csv", [*rows, finetuned("grocery", "test", "average", 0.03, 82, seed=1)])
    assert "| Grocery Store | 81.0 | 85.5 | +4.5 ± 2.1, higher | 2500 test images, 2 seeds |" in gains.table(results)
