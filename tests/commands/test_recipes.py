"""Recipes: they parse, they show, they start, and their images are those of the publications pixel for pixel."""

import re
import shlex

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as F

from tests.support.tools import rows_of, write_images
from timm_gcp import GCPError
from timm_gcp.__main__ import main
from timm_gcp.commands.recipes import find_recipe, recipe_names
from timm_gcp.commands.train import parse_train_args
from timm_gcp.data import create_dataset
from timm_gcp.data.preprocessing import preprocessing
from timm_gcp.distributed import Processes
from timm_gcp.models.named import source_of
from timm_gcp.training.data import Data, make_loaders
from timm_gcp.training.optimisation import make_loss
from timm_gcp.training.optimizer import classifiers, make_optimizer
from timm_gcp.training.scheduler import make_scheduler
from timm_gcp.weights.manifest import read_manifest
from timm_gcp.weights.paper_results import FINE_GRAINED, IMAGENET
from timm_gcp.weights.resolve import resolve

NAMES = recipe_names()
HYBRIDS = [name for name in NAMES if name.startswith(("fgvc-svdpade-", "imagenet-"))]
PUBLISHED = [name for name in NAMES if name.startswith(("fgvc-", "imagenet-"))]
CPU = torch.device("cpu")


def arguments(name, *more):
    args, _ = parse_train_args(["--recipe", name, *more])
    return args


def test_the_rate_of_a_recipe_with_another_optimiser(caplog):
    """It was chosen for the optimiser of the recipe."""
    arguments("finetune", "--opt", "adamw")
    assert "--opt adamw has the learning rate of the recipe or configuration, which is one for sgd" in caplog.text
    caplog.clear()
    arguments("finetune", "--opt", "adamw", "--lr", "0.001")
    arguments("finetune", "--opt", "adamw", "--lr", "auto")
    arguments("finetune", "--opt", "sgd")
    parse_train_args(["--opt", "adamw"])
    assert not caplog.text


# The files


def test_there_are_recipes():
    assert {"grocery-small", "imagenet-resnet", "imagenet-alexnet", "fgvc-isqrt-dogs", "fgvc-seb-cars"} < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_parses_and_shows_in_full(name, capsys):
    args = arguments(name)
    content = yaml.safe_load(find_recipe(name).read_text())
    assert {key: getattr(args, key) for key in content} == content  # nothing is converted or lost
    source_of(args.model)  # a name that timm or the manifest has
    with pytest.raises(SystemExit) as stop:
        main(["train", "--recipe", name, "--show-recipe"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert shown == find_recipe(name).read_text()
    assert re.search(r"https://github.com/\S+", shown)
    assert (name in PUBLISHED) == ("arXiv:" in shown)


def test_the_command_line_wins_over_the_file_over_the_recipe(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("lr: 0.5\nepochs: 7\nclip_grad: null\n")
    args = arguments("fgvc-seb-birds", "-c", str(file), "--lr", "0.25", "--no-pretrained")
    assert (args.lr, args.epochs, args.clip_grad, args.batch_size, args.seed) == (0.25, 7, None, 10, 42)
    assert not args.pretrained
    assert not hasattr(args, "recipe")


def test_one_name_for_several_data_sets(tmp_path, capsys):
    assert arguments("fgvc-seb", "--dataset", "cub").classifier_lr_mult == 20
    assert arguments("fgvc-seb", "--dataset", "aircraft").batch_size == 8
    assert arguments("fgvc-isqrt", "--dataset", "dogs").crop_pct == 0.875
    assert arguments("fgvc-svdpade", "--dataset", "cub").classifier_lr_mult == 20
    (tmp_path / "c.yaml").write_text("dataset: cars\n")
    assert arguments("fgvc-seb", "--config", str(tmp_path / "c.yaml")).classifier_lr_mult == 10
    for argv, message in (
        (["--recipe", "fgvc-seb"], "give one of fgvc-seb-aircraft, fgvc-seb-birds, fgvc-seb-cars"),
        (["--recipe", "fgvc-seb", "--dataset", "dogs"], "give one of"),
        (["--recipe", "imagenet-resnt"], "did you mean imagenet-resnet"),
        (["--recipe", "../recipes/imagenet-resnet"], "Unknown recipe"),
        (["--recip", "imagenet-resnet"], "--recipe out in full"),
        (["--show-recipe"], "needs --recipe NAME: fgvc-isqrt-aircraft"),
    ):
        assert main(["train", *argv]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    (tmp_path / "c.yaml").write_text("recipe: grocery-small\n")
    with pytest.raises(GCPError, match="unknown argument 'recipe'"):
        parse_train_args(["--config", str(tmp_path / "c.yaml")])


@pytest.mark.parametrize("data", ["birds", "dogs", "cars"])
def test_recipes_of_the_paper_name_its_accuracy(data):
    (row,) = (row for row in FINE_GRAINED if row.method == "svdpade")
    final, best = getattr(row, data)
    text = find_recipe(f"fgvc-svdpade-{data}").read_text(encoding="utf-8")
    assert f"in the paper's poster, after the last epoch / in the best one: {final:.2f} / {best:.2f}." in text


def test_the_imagenet_recipe_names_the_errors_of_the_paper():
    (row,) = (row for row in IMAGENET if (row.network, row.method) == ("resnet50", "svdpade"))
    text = find_recipe("imagenet-resnet").read_text(encoding="utf-8")
    assert f"in the paper's poster: {row.hybrid_top1:.2f} / {row.hybrid_top5:.2f}, with SVD-Padé from the" in text
    assert f"first epoch {row.top1:.2f} / {row.top5:.2f}. Not" in text


def test_the_grocery_recipe_is_that_of_the_packaged_weights():
    command = shlex.split(read_manifest()["test_resnet_svdpade.grocery"].recipe)
    assert command[:2] == ["timm-gcp", "train"]
    assert parse_train_args(command[2:])[0] == parse_train_args(["--recipe", "grocery-small", "GROCERY"])[0]


# Images


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Images of odd sizes, in the folders that timm reads."""
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(375, 501), (613, 449), (97, 211), (448, 1023), (731, 730), (513, 333)]):
        place = folder / "train" / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(place)
    return folder


DESCRIBED = {
    "birds": [transforms.Resize(448), transforms.CenterCrop(448)],
    "aircraft": [transforms.Resize((512, 512)), transforms.CenterCrop(448)],
    "dogs": [transforms.Resize((512, 512)), transforms.CenterCrop(448)],
    "cars": [transforms.Resize((448, 448))],
    "resnet": [transforms.Resize(256), transforms.CenterCrop(224)],
    "alexnet": [transforms.Resize(256), transforms.CenterCrop(224)],
}


def loaders(args, folder):
    """Training and evaluation as a run has them, with the settings of the recipe's model behind the recipe's own."""
    with torch.device("meta"):
        model = timm.create_model(args.model)
    config = preprocessing(args, model)
    assert (tuple(config["mean"]), tuple(config["std"])) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    args.workers = 0
    args.batch_size = 2
    data = [create_dataset("", str(folder), "train", is_training=training) for training in (True, False)]
    made = make_loaders(args, Data(data[0], data[1], 2), config, Processes(CPU))
    assert made.mixup is None
    return made.train.dataset, made.evaluation.dataset


@pytest.mark.parametrize("name", PUBLISHED)
def test_images_are_those_of_the_publication(name, odd):
    described = transforms.Compose(DESCRIBED[name.rpartition("-")[2]])
    training, evaluation = loaders(arguments(name), odd)
    flips = set()
    for i in range(len(evaluation)):
        with Image.open(evaluation.filename(i, absolute=True)) as image:
            expected = F.pil_to_tensor(described(image))
        assert torch.equal(torch.as_tensor(evaluation[i][0]), expected)
        if name.startswith("fgvc"):
            for _ in range(3):
                seen = torch.as_tensor(training[i][0])
                flipped = not torch.equal(seen, expected)
                assert not flipped or torch.equal(seen, expected.flip(-1))
                flips.add(flipped)
    if name.startswith("fgvc"):
        assert flips == {False, True}


def test_imagenet_training_images(odd):
    """timm's random crop draws from Python's generator, so torchvision's crop is given the same box."""
    training, _ = loaders(arguments("imagenet-resnet"), odd)
    crop, flip, jitter, _ = training.transform.transforms
    with Image.open(training.filename(0, absolute=True)) as image:
        crop.get_params = lambda *_: (11, 7, 201, 173)
        expected = F.resized_crop(image, 11, 7, 201, 173, (224, 224))
        assert np.array_equal(np.asarray(jitter(crop(image))), np.asarray(expected))
    assert (crop.scale, crop.ratio, flip.p) == ((0.08, 1.0), (3 / 4, 4 / 3), 0.5)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_crop_of_evaluation_in_training_with_other_augmentation(mode, odd):
    """Every way to crop, a size that is no square, and what comes after the crop."""
    more = ["--crop-mode", mode, "--input-size", "3", "96", "64", "--crop-pct", "0.9", "--hflip", "0", "--vflip", "1"]
    training, evaluation = loaders(arguments("fgvc-seb-cars", *more), odd)
    for i in range(2):
        assert np.array_equal(np.asarray(training[i][0]), np.asarray(evaluation[i][0])[:, ::-1])


# Optimiser and schedule


@pytest.mark.parametrize("name", PUBLISHED)
def test_optimiser_is_sgd_as_torch_has_it(name):
    args = arguments(name)
    model = timm.create_model("test_resnet_svdpade", num_classes=3)
    head = {id(p) for module in classifiers(model) for p in module.parameters()}
    optimizer = make_optimizer(args, model)
    assert type(optimizer) is torch.optim.SGD
    seen = 0
    for group in optimizer.param_groups:
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, False, args.weight_decay)
        for parameter in group["params"]:
            factor = args.classifier_lr_mult if id(parameter) in head else 1
            assert group["lr"] == pytest.approx(args.lr * factor)
            seen += 1
    assert seen == len(list(model.parameters()))
    assert type(make_loss(args)) is torch.nn.CrossEntropyLoss


STEPS = {
    "fgvc-seb-birds": (50, 100),
    "fgvc-seb-cars": (50, 100),
    "fgvc-seb-aircraft": (21, 40),
    "fgvc-svdpade-birds": (50, 100),
    "fgvc-svdpade-dogs": (50, 100),
    "fgvc-svdpade-cars": (50, 100),
    "imagenet-resnet": (30, 45),
    "imagenet-alexnet": (10, 20),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_learning_rate_falls_after_so_many_epochs(name):
    """The published scripts multiply by 0.1 at the start of epoch 50, counted from 0."""
    args = arguments(name)
    model = timm.create_model("test_resnet_svdpade", num_classes=3)
    optimizer = make_optimizer(args, model)
    schedule = args.schedule(model) if name in HYBRIDS else None
    assert name in HYBRIDS or args.hybrid is False or args.model.startswith("resnet50_isqrt")
    made = make_scheduler(args, optimizer, 5)
    scheduler, epochs = made.scheduler, made.epochs
    if schedule is not None:
        made.check_switch(optimizer, schedule)
    switched = []
    for epoch in range(epochs):
        drops = sum(epoch >= step for step in STEPS.get(name, ()))
        lrs = [group["lr"] for group in optimizer.param_groups]
        assert min(lrs) == pytest.approx(args.lr * 0.1**drops)
        assert max(lrs) == pytest.approx(args.lr * args.classifier_lr_mult * 0.1**drops)
        if schedule is not None and schedule.step(lrs[0], epoch):
            switched.append(epoch)
        if scheduler is not None:
            scheduler.step(epoch + 1)
    assert epochs == args.epochs
    assert switched == ([STEPS[name][-1]] if name in HYBRIDS else [])  # the last decay of the rate


# Runs


@pytest.mark.slow
def test_grocery_recipe_trains(tmp_path):
    data = write_images(tmp_path / "data", per_class=90, splits=("train", "val"))  # the switch needs 8 updates
    for split in ("train", "val"):
        lines = [
            f"{path.relative_to(data)}, {label}"
            for label, name in enumerate(("coarse", "fine", "middle"))
            for path in sorted((data / split / name).iterdir())
        ]
        (data / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (data / "classes.txt").write_text("coarse\nfine\nmiddle\n")
    given = ["--recipe", "grocery-small", "--data-dir", str(data), "--epochs", "1", "--warmup-epochs", "0"]
    assert main(["train", *given, "--output", str(tmp_path), "--experiment", "run"]) == 0
    (row,) = rows_of(tmp_path / "run")
    assert row["method"] == "svdpade"
    config = yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())
    assert (config["lr"], config["epochs"], config["crop_pct"], config["dataset"]) == (0.2, 1, 0.95, "grocery")
    args, _ = parse_train_args(["--config", str(tmp_path / "run" / "args.yaml")])
    assert vars(args)["output"] == str(tmp_path)


def test_a_published_recipe_trains_a_small_model(images, tmp_path, capsys):
    """Started from the weights of another root, as the recipe's comment says; the mirror image counts at the end."""
    weights = resolve(read_manifest()["test_resnet_svdpade.grocery"])
    argv = ["train", str(images), "--recipe", "fgvc-seb-aircraft", "--model", "test_resnet_seb"]
    argv += ["--pretrained-path", str(weights), "--model-kwargs", "reduce=64", "--last-stride", "1", "--img-size", "64"]
    argv += ["--epochs", "1", "-j", "0", "--device", "cpu", "--output", str(tmp_path)]
    assert main([*argv, "--experiment", "run"]) == 0
    result = yaml.safe_load((tmp_path / "run" / "result.json").read_text())
    assert (result["tta"], result["method"]) == ("mirror", "seb")
    config = timm.create_model(f"local-dir:{tmp_path / 'run' / 'model'}", pretrained=True).pretrained_cfg
    assert (config["crop_mode"], config["crop_pct"]) == ("squash", 0.875)
    assert "with --tta mirror under seb" in capsys.readouterr().out
    validate = ["validate", str(images), "--model", str(tmp_path / "run" / "model"), "-j", "0", "--device", "cpu"]
    assert main([*validate, "--tta", "mirror", "--results-file", str(tmp_path / "row.json")]) == 0
    assert yaml.safe_load((tmp_path / "row.json").read_text())["loss"] == pytest.approx(result["loss"], abs=1e-5)
