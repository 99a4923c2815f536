"""Values that a command refuses at the door, paths with a tilde, unknown options, and errors that nobody foresaw."""

import argparse
import random
import sys
import types
from pathlib import Path

import pytest
import timm
from PIL import Image
from timm.data import create_transform

import eval.__main__
import hub.__main__
from timm_gcp.__main__ import main
from timm_gcp.commands.convert import convert_parser
from timm_gcp.commands.export import export_parser
from timm_gcp.commands.option_types import file_path, model_name, policy
from timm_gcp.commands.parser import Parser
from timm_gcp.commands.predict import parse_predict_args, predict_parser
from timm_gcp.commands.train import parse_train_args
from timm_gcp.commands.train_options import train_parser
from timm_gcp.commands.validate import parse_validate_args, validate_parser
from timm_gcp.data.preprocessing import image_mode
from timm_gcp.data.transforms import fit_policy
from timm_gcp.errors import GCPError
from timm_gcp.models.folder import check_model_folder

REFUSED = {
    "--mean 123.7 116.3 103.5": "divide values of a scale of 0 to 255 by 255",
    "--std 58 57 57": "divide values of a scale of 0 to 255 by 255",
    "--std 0": "more than 0",
    "--crop-pct 2": "between 0.1 and 1",
    "--crop-pct 0": "between 0.1 and 1",
    "--scale 1 0.08": "the smaller first",
    "--scale 0.1 0.5 1": "two values",
    "--scale 0.5 2": "cannot go beyond 1",
    "--ratio 0 1": "positive",
    "--recount 0": "at least 1",
    "--lr-cycle-limit 0": "at least 1",
    "--decay-milestones 0 3": "at least 1",
    "--workers -1": "at least 0",
    "--epochs 1.5": "not a whole number",
    "--torchcompile inducto": "did you mean inductor",
    "--cutmix-minmax 0 0": "positive",
    "--ratio 1": "two values",
    "--cutmix-minmax 0.5": "two values",
    "--momentum 2": "less than 1",
    "--opt-betas 0.9 1": "less than 1",
    "--weight-decay -1": "at least 0",
    "--min-lr -1": "at least 0",
    "--lr nan": "positive",
    "--lr inf": "positive",
    "--lr fast": "not a number",
    "--smoothing 1": "less than 1",
    "--drop-path 1": "less than 1",
    "--aa rand-foo": "not a policy",
    "--aa rand-tfoo": "not a policy",
    "--aa v9": "not a policy",
    "--interpolation foo": "bicubic",
    "--train-interpolation foo": "random",
    "--seed 99999999999999": "2147483647",
    "--seed 1.5": "not a whole number",
    "--in-chans 2": "colour (3) or grey (1)",
    "--in-chans 4": "colour (3) or grey (1)",
    "--input-size 3 0 64": "at least 1",
    "--opt adahessian": "second derivatives",
    "--opt lookahead_adahessian": "second derivatives",
    "--device meta": "--device cpu",
    "--device xla": "--device cpu",
    "--model-kwargs features_only=True": "classifier",
    "--model-kwargs num_classes=5": "--num-classes",
    f"--experiment {'x' * 300}": "at most 200",
    f"--experiment {'é' * 120}": "at most 200",
}


WITHOUT_EFFECT = {
    "--bce-sum": "--bce-loss",
    "--bce-target-thresh 0.2": "--bce-loss",
    "--bce-pos-weight 5": "--bce-loss",
    "--model-ema-decay 0.9": "--model-ema:",
    "--model-ema-warmup": "--model-ema:",
    "--warm-method svd --no-hybrid": "--no-hybrid",
    "--cooldown-epochs 3 --sched multistep": "--sched multistep",
}


@pytest.mark.parametrize("options", WITHOUT_EFFECT)
def test_options_without_effect_are_refused(options, capsys):
    assert main(["train", "photos", *options.split()]) == 2
    error = capsys.readouterr().err
    assert f"{options.split()[0]} has no effect with" in error
    assert WITHOUT_EFFECT[options] in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        *("--bce-sum --bce-target-thresh 0.2 --bce-pos-weight 5 --bce-loss", "--bce-sum --dataset multilabel"),
        *("--model-ema --model-ema-decay 0.9 --model-ema-warmup", "--model-ema-decay 0.9998"),
        *("--warm-method svd", "--warm-method isqrt --no-hybrid", "--cooldown-epochs 3"),
        "--cooldown-epochs 3 --sched wsd",
    ],
)
def test_they_pass_where_they_have_one(options):
    parse_train_args(["photos", *options.split()])


@pytest.mark.parametrize("options", REFUSED)
def test_refused_at_the_door(options):
    with pytest.raises(GCPError) as caught:
        parse_train_args(["photos", *options.split()])
    assert REFUSED[options] in str(caught.value)
    assert options.split()[0] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        *("--mean 0 --std 1", "--crop-pct 1", "--scale 1 1", "--scale 0.8 1.25 --train-crop-mode rkrc"),
        *("--momentum 0 --weight-decay 0", "--aa original-mstd0.5", "--aa augmix-m5-w4-d2", "--aa rand-tweights"),
        *("--aa rand-m9-mstd0.5-inc1", "--lr-noise 0.5", "--in-chans 1", "--seed 2147483647", "--clip-grad 1e9"),
    ],
)
def test_sensible_values_pass(options):
    parse_train_args(["photos", *options.split()])


def test_a_yaml_file_is_checked_as_the_command_line(tmp_path):
    config = tmp_path / "run.yaml"
    for line, message in (
        ("mean: [123.7, 116.3, 103.5]", "divide values"),
        ("crop-pct: 0", "between 0.1 and 1"),
        ("lr: 0.1\nepochs: 3\nlr: 0.2", "'lr' stands there twice, in lines 1 and 3"),
        ("batch-size: 8\nbatch_size: 16", "'batch_size' stands there twice, in lines 1 and 2"),
        ("model_kwargs: {a: 1, a: 2}", "'a' stands there twice, in lines 1 and 1"),
        ("? [a, b]\n: 1", "run.yaml"),
        ('output: "a\\0b"', "null character"),
    ):
        config.write_text(line)
        with pytest.raises(GCPError, match=r"run\.yaml") as caught:
            parse_train_args(["photos", "--config", str(config)])
        assert message in str(caught.value)


def test_the_tilde_is_the_home_folder_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    config = tmp_path / "run.yaml"
    config.write_text("output: ~/runs\nclass_map: ~/map.txt\nmodel: local-dir:~/model")
    args, text = parse_train_args(["~/photos", "--config", "~/run.yaml"])
    assert (args.data_dir, args.output) == (f"{tmp_path}/photos", f"{tmp_path}/runs")
    assert (args.class_map, args.model) == (f"{tmp_path}/map.txt", f"local-dir:{tmp_path}/model")
    assert "~" not in text
    args = parse_validate_args(["--model", "~/m", "--data-dir=~/d", "--results-file=~/r.csv", "--checkpoint=~/c"])
    assert [args.model, args.data_dir, args.results_file, args.checkpoint] == [
        f"{tmp_path}/{x}" for x in ("m", "d", "r.csv", "c")
    ]
    args = parse_predict_args(["~/a.jpg", "--csv=~/p.csv"])
    assert (args.images, args.csv) == ([f"{tmp_path}/a.jpg"], f"{tmp_path}/p.csv")
    assert model_name("hf-hub:a/b") == "hf-hub:a/b"
    with pytest.raises(argparse.ArgumentTypeError, match="no home folder ~nobody-of-that-name"):
        model_name("~nobody-of-that-name/m")


@pytest.mark.parametrize("parser", [train_parser, validate_parser, predict_parser, export_parser, convert_parser])
def test_every_option_that_takes_a_path_has_its_type(parser):
    types = (file_path, model_name)
    assert [
        action.dest for action in parser()._actions if action.metavar in ("DIR", "FILE") and action.type not in types
    ] == []


@pytest.mark.parametrize(
    "file", [*Path(eval.__main__.__file__).parent.glob("*.py"), *Path(hub.__main__.__file__).parent.glob("*.py")]
)
def test_commands_of_eval_and_hub_expand_paths_too(file):
    assert "type=Path" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["train", "x", "--learning-rate", "0.1"], "did you mean --lr?"),
        (["train", "x", "--learning_rate=0.1"], "did you mean --lr?"),
        (["train", "x", "--batch_size", "3"], "did you mean --batch-size?"),
        (["train", "x", "--log-wandb"], "timm-gcp wrap train.py"),
        (["train", "x", "--optimizer", "sgd"], "did you mean --opt?"),
        (["train", "x", "--output-dir", "o"], "did you mean --output?"),
        (["train", "x", "--num-clases", "3"], "did you mean --num-classes"),
        (["validate", "-m", "x", "--weights", "w.pth"], "did you mean --checkpoint?"),
        (["predict", "x.jpg", "--topk", "3"], "did you mean --top?"),
        (["train", "x", "--qwertyuiop"], "unrecognized arguments: --qwertyuiop (see"),
        (["lst"], "did you mean list"),
    ],
)
def test_unknown_names_have_near_ones(argv, near, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert near in error
    assert error.count("\n") == 1


def test_the_advice_names_options_that_are_there():
    assert "did you mean" not in _error_of(Parser(prog="timm-gcp list"), ["--learning-rate", "1"])


def _error_of(parser, argv):
    with pytest.raises(GCPError) as caught:
        parser.parse_args(argv)
    return str(caught.value)


def test_version_and_help_without_dashes(capsys):
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("timm-gcp ")
    assert main(["help"]) == 0
    assert "predict" in capsys.readouterr().out


ERRORS = (
    ValueError("cannot take\nthat"),
    KeyError("x"),
    AssertionError(),
    RuntimeError("y" * 3000),
    ValueError(
        'Caught ValueError in worker 0.\nOriginal Traceback (most recent call last):\n  File "a"\nValueError: bits'
    ),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_no_traceback_without_debug(error, monkeypatch, capsys):
    def fail(argv):
        raise error

    monkeypatch.setitem(sys.modules, "timm_gcp.commands.demo", types.SimpleNamespace(main=fail))
    assert main(["demo"]) == 1
    text = capsys.readouterr().err
    assert text.startswith(f"timm-gcp: error: Unexpected {type(error).__name__} in ")
    assert text.endswith("Add --debug to see the whole traceback.\n")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    assert len(text) < 800
    if "Caught" in str(error):
        assert "ValueError: bits" in text
    with pytest.raises(type(error)):
        main(["demo", "--debug"])


@pytest.mark.parametrize(("package", "command"), [(eval.__main__, "report"), (hub.__main__, "cards")])
def test_eval_and_hub_too(package, command, monkeypatch, capsys):
    def fail(argv):
        assert "--debug" not in argv
        raise OSError("disk")

    module = f"{package.__package__}.{command}"
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(main=fail))
    monkeypatch.setattr(sys, "argv", [package.__package__, command])
    assert package.main() == 1
    assert f"{package.__package__}: error: Unexpected OSError" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [package.__package__, command, "--debug"])
    with pytest.raises(OSError, match="disk"):
        package.main()


@pytest.mark.parametrize("name", ["v0", "original", "3a", "rand-m9-mstd0.5-inc1", "rand-tweights", "augmix-m5-w4-d2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_policies_run_with_this_pillow_on_colour_and_grey(name, channels):
    size, mean = (channels, 32, 32), (0.5,) * channels
    transform = create_transform(size, is_training=True, auto_augment=policy(name), mean=mean, use_prefetcher=True)
    fit_policy(transform, {"input_size": size, "mean": mean})
    random.seed(0)
    image = Image.radial_gradient("L").resize((48, 48)).convert(image_mode(channels))
    for _ in range(150):
        assert transform(image).shape == size


def test_converting_replaces_a_model_folder_only_when_told(tmp_path):
    def check(overwrite):
        check_model_folder(tmp_path / "m", "--out", replace=overwrite)

    check(overwrite=False)
    (tmp_path / "m").mkdir()
    check(overwrite=False)
    (tmp_path / "m" / "config.json").write_text('{"architecture": "resnet18"}')
    with pytest.raises(GCPError, match="--overwrite"):
        check(overwrite=False)
    check(overwrite=True)
    (tmp_path / "m" / "config.json").rename(tmp_path / "m" / "mine.txt")
    with pytest.raises(GCPError, match="not a model folder"):
        check(overwrite=True)


def test_eval_conditioning_says_what_it_wrote(run, tmp_path, capsys):
    from eval.conditioning import main as conditioning

    conditioning([str(run), "--results", str(tmp_path)])
    out = capsys.readouterr().out
    assert f"{Path(run).name}: 4 epochs" in out
    assert str(tmp_path / "conditioning.csv") in out


def test_a_model_of_two_channels_is_refused(tmp_path, capsys):
    from timm_gcp.models.folder import save_folder

    folder = save_folder(timm.create_model("test_resnet", num_classes=2, in_chans=2), tmp_path / "m")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--model", str(folder)]) == 2
    assert "images of 2 channels" in capsys.readouterr().err
