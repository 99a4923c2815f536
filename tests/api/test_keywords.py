"""The keywords are the long options of the commands: names, defaults, help, and the way back to a command line."""

import inspect
import shlex
import subprocess
import sys

import pytest
import torch

import timm_gcp
from timm_gcp.commands.keywords import command_line, keyword_actions, namespace_of, read_keywords
from timm_gcp.commands.predict import predict_parser
from timm_gcp.commands.train_options import train_parser
from timm_gcp.commands.validate import validate_parser

FUNCTIONS = {"train": train_parser, "evaluate": validate_parser, "predict": predict_parser}


@pytest.mark.parametrize(("name", "parser"), FUNCTIONS.items(), ids=FUNCTIONS)
def test_signature_and_help_have_every_long_option(name, parser):
    function, made = getattr(timm_gcp, name), parser()
    flags = {flag for action in made._actions for flag in action.option_strings if flag.startswith("--")}
    left_out = {"--help", "--debug", "--show-recipe", "--dr", "--log-to"}
    switches = {flag for flag in flags if flag.startswith("--no-") and f"--{flag[5:]}" in flags}
    expected = {flag[2:].replace("-", "_") for flag in flags - left_out - switches}
    parameters = inspect.signature(function).parameters
    assert expected <= set(parameters)
    assert set(parameters) - expected <= {"images"}
    for keyword in expected - {"model", "data_dir"}:
        assert parameters[keyword].default == keyword_actions(made)[keyword].default
        assert f"    {keyword}: " in function.__doc__
    assert "%(" not in function.__doc__


def test_the_command_line_of_keywords_is_read_as_the_same():
    given = {
        "model": "x y",
        "hybrid": False,
        "channels_last": True,
        "amp": True,
        "scale": (0.2, 1),
        "method_args": {"degree": 20, "name": "1", "flag": True},
        "logit_adjustment": True,
        "time_limit": "1h30m",
        "experiment": "-e",
        "color_jitter": 1e-9,
        "dr": 0.5,
        "log_to": "mlflow",
        "decay_milestones": [3, 5],
        "clip_grad": None,
    }
    parser = train_parser()
    values = read_keywords(given, parser, "f")
    assert (values["logit_adjustment"], values["decay_rate"], values["log"]) == (1.0, 0.5, "mlflow")
    assert values["time_limit"] == 5400
    words = shlex.split(command_line(parser, values))
    assert words[:2] == ["timm-gcp", "train"]
    assert vars(train_parser().parse_args(words[2:])) == vars(namespace_of(train_parser(), values))


IMAGES, LABELS = torch.rand(4, 3, 64, 64), torch.arange(4)


@pytest.mark.parametrize("name", ["data_dir", "img_size", "split", "mean", "channels_last"])
@pytest.mark.parametrize("value", [[(IMAGES, LABELS)], IMAGES, IMAGES.numpy(), {"image": [0.5] * 99}, [["x" * 99]] * 9])
def test_a_message_shows_the_beginning_of_a_long_value(name, value):
    given = {"model": "test_resnet", "data_dir": "photos", name: value}
    with pytest.raises(timm_gcp.GCPError) as error:
        timm_gcp.evaluate(**given)
    message = str(error.value)
    assert message.startswith(f"`{name}` ")
    assert len(message) < 160
    assert "\n" not in message


def test_importing_the_package_imports_no_command():
    code = """
import sys, timm_gcp
late = ("timm_gcp.api", "timm_gcp.commands", "timm_gcp.prediction", "sklearn", "jinja2", "matplotlib", "rich")
found = [name for name in late if name in sys.modules]
assert not found, found
assert "train" in dir(timm_gcp)
timm_gcp.train, timm_gcp.TrainResult
assert "timm_gcp.commands.train" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
