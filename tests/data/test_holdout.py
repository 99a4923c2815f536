"""``--val-fraction``: which images are held out, what is recorded, and what is refused."""

import json

import pytest
import timm
import yaml

from tests.support.tools import write_images
from timm_gcp.__main__ import main
from timm_gcp.data import check_apart, create_dataset, divide
from timm_gcp.data.holdout import held_out, same_images
from timm_gcp.errors import GCPError
from timm_gcp.models.folder import save_folder

SAMPLES = [(f"{name}/{i}.jpg", label) for label, name in enumerate(("a", "b")) for i in range(20)]
RUN = [
    *("--model", "test_resnet_isqrt", "--img-size", "32", "-b", "8", "-j", "0", "--epochs", "2", "--lr", "0.01"),
    *("--device", "cpu", "--monitor-every", "0", "--experiment", "run"),
]


def test_the_draw_takes_its_part_of_every_class():
    held = held_out(SAMPLES, 0.2, 0)
    assert {name[0]: sum(other[0] == name[0] for other in held) for name in held} == {"a": 4, "b": 4}
    assert held_out(reversed(SAMPLES), 0.2, 0) == held  # the order of the files does not count
    assert held_out(SAMPLES, 0.2, 1) != held
    assert held_out(SAMPLES, 0.1, 0) < held
    assert held_out([(name.replace("/", "\\"), label) for name, label in SAMPLES], 0.2, 0) == {
        name.replace("/", "\\") for name in held
    }


def test_one_more_image_moves_at_most_one_other():
    held = held_out(SAMPLES, 0.2, 0)
    for i in range(20):
        more = held_out([*SAMPLES, (f"a/new{i}.jpg", 0)], 0.2, 0)
        assert len(held - more) <= 1


@pytest.mark.parametrize(("number", "fraction", "expected"), [(1, 0.5, 0), (2, 0.01, 1), (2, 0.99, 1), (3, 0.99, 2)])
def test_small_classes_keep_an_image_to_train_on(number, fraction, expected):
    assert len(held_out([(f"{i}.jpg", 0) for i in range(number)], fraction, 0)) == expected


def test_what_cannot_be_divided():
    with pytest.raises(GCPError, match="divides image folders and lists"):
        divide(create_dataset("textures", split="train", num_classes=2, images_per_class=2), 0.2, 0)


def test_no_class_with_two_images(tmp_path):
    whole = create_dataset("", write_images(tmp_path, per_class=1, splits=("train",)), "train", is_training=True)
    with pytest.raises(GCPError, match=r"no class has two images.*--train-split '' where the class folders"):
        divide(whole, 0.2, 0)


def test_evaluation_on_the_training_images_is_refused(tmp_path, caplog):
    whole = create_dataset("", write_images(tmp_path, per_class=4, splits=("train",)), "train", is_training=True)
    rest, held = divide(whole, 0.25, 0)
    assert (len(rest), len(held), len(whole)) == (9, 3, 12)
    check_apart(rest, held, "train", "validation")
    with pytest.raises(GCPError, match=r"--val-fraction 0\.2"):
        check_apart(whole, held, "", "validation")
    check_apart(held, whole, "", "validation")
    assert "3 of 12 images of --val-split 'validation' are trained on as well" in caplog.text


@pytest.fixture(params=["train", ""], ids=["train folder", "class folders"])
def photographs(request, tmp_path):
    """Twelve photographs in each of two classes, without a split to evaluate on."""
    write_images(tmp_path / "photographs", classes=("coarse", "fine"), splits=(request.param or ".",))
    return tmp_path / "photographs"


def test_a_run_records_what_was_held_out(photographs, tmp_path, capsys):
    run = ["train", "--data-dir", str(photographs), *RUN, "--output", str(tmp_path / "runs")]
    assert main([*run]) == 2
    assert "--val-fraction 0.2" in capsys.readouterr().err  # the remedy
    assert main([*run, "--val-fraction", "0.25"]) == 0
    out = capsys.readouterr().out
    assert "Split validation (--val-fraction 0.25, held out): 6 images, 3 per class" in out
    folder = tmp_path / "runs" / "run"
    assert yaml.safe_load((folder / "args.yaml").read_text())["val_fraction"] == 0.25
    training = json.loads((folder / "model" / "config.json").read_text())["training"]
    assert training["data"]["held_out"] == {"fraction": 0.25, "seed": 0, "split": "validation"}
    assert training["data"]["images"] == {"train": 18, "validation": 6}
    top1 = json.loads((folder / "result.json").read_text())["top1"]

    validate = ["validate", "--model", str(folder), "--data-dir", str(photographs), "-j", "0", "--device", "cpu"]
    results = tmp_path / "v.json"
    assert main([*validate, "--val-fraction", "0.25", "--results-file", str(results)]) == 0
    line = json.loads(results.read_text())
    line = line[0] if isinstance(line, list) else line
    assert (line["count"], round(line["top1"], 3)) == (6, round(top1, 3))
    capsys.readouterr()
    for other in (["--val-fraction", "0.5"], ["--val-fraction", "0.25", "--val-seed", "1"]):
        assert main([*validate, *other]) == 2
        assert "was trained with --val-fraction 0.25 --val-seed 0" in capsys.readouterr().err
    split = ["--split", "train"] if (photographs / "train").is_dir() else []
    for source in (["--model", folder], ["--checkpoint", folder], ["--checkpoint", folder / "last.pth.tar"]):
        command = ["validate", *map(str, source), "--data-dir", str(photographs), "-j", "0", "--device", "cpu"]
        assert main([*command, *split]) == 2
        assert "with --val-fraction 0.25 --val-seed 0: without them it" in capsys.readouterr().err
        assert main([*command, "--val-fraction", "0.25", "--val-seed", "1"]) == 2
        assert "with --val-fraction 0.25 --val-seed 0: with other values it" in capsys.readouterr().err

    again = [*run, "--resume", "auto", "--epochs", "3"]
    assert main([*again, "--val-fraction", "0.5"]) == 2
    assert "would be evaluated on images that are trained on" in capsys.readouterr().err
    assert main([*again, "--val-fraction", "0.25"]) == 0
    out = capsys.readouterr().out
    assert "warmup-epochs" not in out  # computed, not given: it stays as it was
    assert "epoch 3/3" in out


def test_a_split_that_is_there_wins(tmp_path, caplog):
    from timm_gcp.data import split_to_divide

    folder = str(write_images(tmp_path, per_class=2))
    assert split_to_divide("", folder, "train", "validation", 0.2) is None
    assert "nothing is held out of the training images; --val-fraction 0.2 is for data without" in caplog.text
    assert split_to_divide("", folder, "train", "", 0.2) == "train"
    assert split_to_divide("", folder, "train", "validation", 0.0) is None


def test_the_recipe_for_ones_own_photographs(photographs, tmp_path, capsys):
    """Needs no other option than the data and the model; a length of the run for the test."""
    argv = ["--data-dir", str(photographs), "--model", "test_resnet_svdpade.grocery", "--img-size", "32"]
    quick = ["--epochs", "2", "-j", "0", "--device", "cpu", "-b", "6", "--output", str(tmp_path / "runs")]
    assert main(["train", "--recipe", "finetune", *argv, *quick]) == 0
    out = capsys.readouterr().out
    assert "Weights: test_resnet_svdpade.grocery; the classifier is new (81 → 2 classes)" in out
    assert "(--val-fraction 0.2, held out)" in out


def test_a_model_without_a_record_is_warned_of(tmp_path, caplog):
    photographs = write_images(tmp_path / "photographs", classes=("coarse", "fine"), splits=("train",))
    argv = [
        "--data-dir",
        str(photographs),
        *RUN,
        "--epochs",
        "1",
        "--output",
        str(tmp_path / "runs"),
        "--val-split",
        "",
    ]
    assert main(["train", *argv]) == 0
    folder = str(tmp_path / "runs" / "run")
    validate = ["validate", "--model", folder, "--data-dir", str(photographs), "-j", "0", "--device", "cpu"]
    assert main([*validate, "--val-fraction", "0.25"]) == 0
    assert "was trained without --val-fraction" in caplog.text


def test_a_split_to_evaluate_is_not_called_images_that_were_trained_on(photographs_with_splits, caplog):
    """--val-fraction beside a split: nothing is held out, so nothing was trained on."""
    model, photographs = photographs_with_splits
    validate = ["validate", "--model", str(model), "--data-dir", str(photographs), "-j", "0", "--device", "cpu"]
    assert main([*validate, "--val-fraction", "0.25"]) == 0
    assert "give --split train to evaluate images held out of it all the same" in caplog.text
    assert "too high" not in caplog.text
    caplog.clear()
    assert main([*validate, "--val-fraction", "0.25", "--split", "train"]) == 0
    assert "was trained without --val-fraction" in caplog.text


@pytest.fixture
def photographs_with_splits(tmp_path):
    """A model whose record says that it was trained without --val-fraction, and its data set."""
    photographs = write_images(tmp_path / "photographs", per_class=4)
    record = {"name": "photographs", "kind": "image folders", "classes": 3, "images": {"train": 12, "validation": 12}}
    model = timm.create_model("test_resnet_isqrt", num_classes=3)
    folder = save_folder(model, tmp_path / "model", about={"training": {"data": record}})
    return folder, photographs


def test_another_data_set_may_be_divided_in_another_way(photographs_with_splits, tmp_path, capsys):
    model, _ = photographs_with_splits
    config = json.loads((model / "config.json").read_text())
    config["training"]["data"]["held_out"] = {"fraction": 0.5, "seed": 0, "split": "validation"}
    (model / "config.json").write_text(json.dumps(config))
    others = write_images(tmp_path / "others", per_class=4, splits=("",))
    validate = ["validate", "--model", str(model), "-j", "0", "--device", "cpu", "--val-fraction", "0.25"]
    assert main([*validate, "--data-dir", str(others)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "test_resnet_isqrt on others, all images, 0.25 held out (seed 0)" in shown
    others.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path / "photographs2")
    twin = tmp_path / "copies" / "photographs"
    twin.parent.mkdir()
    (tmp_path / "photographs2").rename(twin)
    assert main([*validate, "--data-dir", str(twin)]) == 2
    assert "was trained with --val-fraction 0.5" in capsys.readouterr().err


def test_class_folders_without_splits_are_called_so(photographs_with_splits, tmp_path, capsys):
    model, _ = photographs_with_splits
    others = write_images(tmp_path / "others", per_class=2, splits=("",))
    assert main(["validate", "--model", str(model), "--data-dir", str(others), "-j", "0", "--device", "cpu"]) == 0
    assert "test_resnet_isqrt on others, all images" in " ".join(capsys.readouterr().out.split())


def test_other_images_than_those_that_were_divided_are_evaluated(tmp_path, caplog):
    """Another data set, more images of a data set of this name, and another split of the same one."""
    record = {"name": "photographs", "kind": "image folders", "classes": 2, "images": {"train": 18, "validation": 6}}
    record["held_out"] = {"fraction": 0.25, "seed": 0, "split": "validation"}
    model = timm.create_model("test_resnet_isqrt", num_classes=2)
    save_folder(model, tmp_path / "model", about={"training": {"data": record}})

    def status(folder, *more):
        caplog.clear()
        given = ["--img-size", "32", "-j", "0", "--device", "cpu", *more]
        return main(["validate", str(tmp_path / folder), "--model", str(tmp_path / "model"), *given])

    def write(folder, splits, per_class=12):
        write_images(tmp_path / folder, per_class, classes=("coarse", "fine"), splits=splits)

    for folder, splits, per_class in (
        ("photographs", (".",), 12),
        ("paintings", (".",), 12),
        ("of-2024/photographs", (".",), 13),
        ("of-2025/photographs", ("train", "test"), 12),
        ("of-2026/photographs", ("train", "validation"), 12),
    ):
        write(folder, splits, per_class)
    assert status("photographs") == status("photographs", "--split", "test") == 2
    assert status("paintings") == 0
    assert "--val-fraction" not in caplog.text
    assert status("of-2024/photographs") == 0
    assert "--val-fraction 0.25 --val-seed 0 on images of this name" in caplog.text
    assert status("of-2025/photographs", "--split", "Train") == 2
    assert status("of-2025/photographs", "--split", "test") == 0
    assert status("of-2026/photographs") == 0
    assert "--val-fraction" not in caplog.text


@pytest.mark.parametrize(
    ("dataset", "split", "other", "same"),
    [
        ("", "val", "validation", True),
        ("", "train", "validation", False),
        ("", "", "train", False),
        ("list", "train", "validation", False),
        ("list", "training", "train", True),
        ("torch/cifar10", "test", "train", False),
    ],
)
def test_names_of_the_same_images(dataset, split, other, same, tmp_path):
    folder = str(write_images(tmp_path / "a", per_class=1))
    assert same_images(dataset, folder, split, other) is same
    assert same_images(dataset, folder, other, split) is same


def test_names_of_the_same_images_where_there_is_no_split(tmp_path):
    folder = str(write_images(tmp_path / "a", per_class=1, splits=(".",)))
    assert same_images("", folder, "validation", "train")
    assert same_images("", folder, "", "train")
