"""The command timm-gcp itself."""

import sys

import pytest
from tools import timm_gcp_command

from timm_gcp.cli import main


def test_list_in_a_process_of_its_own():
    done = timm_gcp_command("list", "*resnet50*")
    assert done.returncode == 0, done.stderr
    assert "seresnet50" in done.stdout
    assert "resnet18" not in done.stdout
    assert "svdpade" in done.stdout


def test_list_filters_methods(capsys):
    assert main(["list", "*_polar"]) == 0
    out = capsys.readouterr().out
    assert "resnet18" in out
    assert "polar" in out
    assert "isqrt" not in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lst"], "did you mean list"),
        (["list", "resnet51*"], "No registered model fits"),
        (["list", "a", "b"], "unrecognized arguments"),
        (["train", "--epochs"], "--epochs"),
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

    monkeypatch.setitem(sys.modules, "timm_gcp.training.demo", type("demo", (), {"main": staticmethod(stop)}))
    assert main(["demo"]) == 130
