"""The command timm-gcp itself."""

import re
import sys

import pytest

from tests.support.tools import timm_gcp_command
from timm_gcp.__main__ import main
from timm_gcp.error_handler import with_flags
from timm_gcp.methods import METHODS
from timm_gcp.models import BACKBONES


def test_list_in_a_process_of_its_own():
    done = timm_gcp_command("list", "*resnet50*", env={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    assert "seresnet50" in done.stdout
    assert "resnet18" not in done.stdout
    assert "svdpade" in done.stdout


def test_list_filters_methods(capsys):
    assert main(["list", "*_polar"]) == 0
    out = capsys.readouterr().out
    assert "resnet18" in out
    assert "polar" in out
    assert "isqrt " not in out


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_list_cuts_nothing_off(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= int(columns)
    words = " ".join(out.split())
    for row in METHODS.values():
        # Backbones and methods appear once each.
        assert len(re.findall(rf"^{row.name} ", out, re.MULTILINE)) == 1
        for name in row.defaults:
            assert f"{name}=" in words
    for backbone in BACKBONES:
        assert len(re.findall(rf"(?<![\w]){backbone}(?![\w])", out.partition("Methods")[0])) <= 2, backbone
    assert words.count("seresnet50") == 1


@pytest.mark.parametrize(
    "name", ["resnet50", "resnet50_svdpade", "resnet50_svdpade.in1k", "test_vit", "svdpade", "glossary"]
)
def test_list_of_a_name_shows_it(name, capsys):
    assert main(["list", name]) == 0
    out = capsys.readouterr().out
    expected = {
        "resnet50": ("parameters", "224 × 224", "resnet50_svdpade.in1k", "resnet50_isqrt.in1k_2018", "resnet50_polar"),
        "resnet50_svdpade": ("parameters", "32,896", "resnet50_svdpade.init", "fresh head"),
        "resnet50_svdpade.in1k": ("resnet50_svdpade.in1k",),
        "test_vit": ("parameters", "test_vit_svdpade.init"),
        "svdpade": ("alpha=0.5", "power of the eigenvalues", "float64 (default)", "ICCV 2021"),
        "glossary": ("rank",),
    }[name]
    for text in expected:
        assert text in out, text


@pytest.mark.slow
def test_list_measures_on_request(capsys):
    assert main(["list", "test_resnet_isqrt", "--time"]) == 0
    assert re.search(r"[\d.]+ images/s \(measured now: cpu", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lst"], "did you mean list"),
        (["list", "resnet51*"], "No registered model fits"),
        (["list", "resnet5"], "did you mean resnet5"),
        (["list", "svdpad"], "did you mean svdpade"),
        (["list", "*_polar", "--time"], "--time measures one model"),
        (["list", "a", "b"], "unrecognized arguments"),
        (["train", "--epochs"], "--epochs"),
        (
            ["predict", __file__, "--model", "test_resnet_svdpade.groceries"],
            "no weights tagged 'groceries'; it has grocery, init; did you mean grocery?",
        ),
        (["validate", "--model", "resnet18.nowhere", "--data-dir", "."], "resnet18 has no weights tagged 'nowhere'"),
    ],
)
def test_bad_commands(argv, message, capsys):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("timm-gcp: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="did you mean"):
        main(["train", "--sched", "cosin", "--debug"])


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    usage = capsys.readouterr().out
    commands = ("demo", "train", "validate", "predict", "export", "convert", "wrap", "list")
    assert all(command in usage for command in commands)
    assert main([]) == 2
    capsys.readouterr()
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("timm-gcp ")
    for command in commands[1:]:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert f"timm-gcp {command}" in capsys.readouterr().out


def test_interrupt(monkeypatch):
    def stop(argv):
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "timm_gcp.commands.demo", type("demo", (), {"main": staticmethod(stop)}))
    assert main(["demo"]) == 130


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("give `switch_epoch` under 5", "give --switch-epoch under 5"),
        ("train longer (`epochs=2`)", "train longer (--epochs 2)"),
        ("train without (`hybrid=False`)", "train without (--no-hybrid)"),
        ("add `hybrid=True`, or `warm_method=isqrt`", "add --hybrid, or --warm-method isqrt"),
        ("a `", "a `"),
        ("the file `A b`", "the file `A b`"),
    ],
)
def test_parameters_become_flags(message, shown):
    assert with_flags(message) == shown
