"""The command timm-gcp itself."""

import re
import sys

import pytest
import timm

from tests.support.tools import timm_gcp_command
from timm_gcp.__main__ import main
from timm_gcp.error_handler import with_flags
from timm_gcp.methods import METHODS
from timm_gcp.models import BACKBONES
from timm_gcp.models.names import split_name


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
    "name",
    [
        "resnet50",
        "resnet50_svdpade",
        "resnet50_svdpade.in1k",
        "test_vit",
        "svdpade",
        "mp",
        "test_resnet_mp",
        "glossary",
    ],
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
        "mp": ("cross-covariances", "ICCV 2023"),
        "test_resnet_mp": ("Moment Probing", "parameters"),
        "glossary": ("rank",),
    }[name]
    for text in expected:
        assert text in out, text


def test_list_counts_the_weights_of_timm(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list", "*_polar"]) == 0
    tags = timm.list_pretrained("convnext_tiny")
    assert f"convnext_tiny({len(tags)})" in capsys.readouterr().out
    assert main(["list", "convnext_tiny_polar"]) == 0
    out = capsys.readouterr().out
    assert "each as convnext_tiny_polar.init-<tag>" in out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert all(name.partition(".")[2] in lines for name in tags)
    assert "384×384 px, licence apache-2.0" in lines["in12k_ft_in1k_384"]
    assert "licence dinov3-license" in lines["dinov3_lvd1689m"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("convnext_*.init-*dinov3*", ["convnext_base_svdpade.init-dinov3_lvd1689m"]),
        ("convnext_tiny.*dinov3*", ["convnext_tiny_svdpade.init-dinov3_lvd1689m"]),
        ("*_polar.init-openai", ["vit_base_patch16_clip_224_polar.init-openai"]),
        ("resnet50_*.in1k*", ["resnet50_isqrt.in1k", "resnet50_isqrt.in1k_2018", "resnet50_svdpade.in1k"]),
    ],
)
def test_list_finds_weights_once_for_all_methods(pattern, found, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list", pattern]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if " px, licence " in line]
    assert set(found) <= set(names)
    init = [split_name(name) for name in names if ".init" in name]
    assert len({(name.backbone, name.tag) for name in init}) == len(init)


def test_list_of_a_tag_shows_its_size(capsys):
    for name in ("convnext_tiny_isqrt.init-in12k_ft_in1k_384", "convnext_tiny.in12k_ft_in1k_384"):
        assert main(["list", name]) == 0
        out = capsys.readouterr().out
        assert "3 × 384 × 384" in out
        assert "fb_in22k" not in out


@pytest.mark.slow
def test_list_measures_on_request(capsys):
    assert main(["list", "test_resnet_isqrt", "--time"]) == 0
    assert re.search(r"[\d.]+ images/s \(measured now: cpu", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lst"], "did you mean list"),
        (["train", "--start-epoch", "3"], "timm's own train.py has --start-epoch: timm-gcp wrap train.py"),
        (["train", "--kd-temperature", "3"], "timm's own train.py has --kd-temperature"),
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
        (
            ["predict", __file__, "--model", "convnext_tiny_isqrt.dinov3_lvd1689m"],
            "weights of that tag are named convnext_tiny_isqrt.init-dinov3_lvd1689m.",
        ),
        (["list", "convnext_tiny_isqrt.dinov3_lvd1689m"], "named convnext_tiny_isqrt.init-dinov3_lvd1689m."),
        (["list", "convnext*.nowhere*"], "No pretrained weights fit"),
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
