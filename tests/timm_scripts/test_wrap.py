"""timm-gcp wrap: scripts with the entry points of timm's run with our models and the hybrid protocol.

``tests/support/miniature_train.py`` stands for timm's script; timm's own scripts run too where
``TIMM_SCRIPTS`` names a folder of them.
"""

import contextlib
import csv
import functools
import hashlib
import http.server
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading

import pytest
import timm
import torch
from huggingface_hub import constants
from timm.scheduler import scheduler_factory

from tests.support.tools import MODEL, ROOT, timm_gcp_command, torchrun
from timm_gcp.__main__ import main
from timm_gcp.timm_scripts import source as script_source
from timm_gcp.weights.file import load_file

MINIATURE = ROOT / "tests" / "support" / "miniature_train.py"
VALIDATE = """
import argparse
import timm
parser = argparse.ArgumentParser()
parser.add_argument("--model")
def main():
    args = parser.parse_args()
    print("made", timm.create_model(args.model).global_pool.method, "sees", timm.is_model(args.model))
if __name__ == "__main__":
    main()
"""


EXPORT = """
import argparse
import timm
from timm.utils.onnx import onnx_export
parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--checkpoint")
parser.add_argument("--output")
parser.add_argument("--dynamo", action="store_true")
def main():
    args = parser.parse_args()
    model = timm.create_model(args.model, num_classes=3, checkpoint_path=args.checkpoint)
    onnx_export(model, args.output, input_size=(3, 64, 64), batch_size=2, use_dynamo=args.dynamo)
if __name__ == "__main__":
    main()
"""


FOREIGN = """
import argparse
import torch
from timm.scheduler import create_scheduler_v2
parser = argparse.ArgumentParser()
def main():
    parser.parse_args()
    create_scheduler_v2(torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1))
"""


def wrap_arguments(images, output, *argv):
    return ["wrap", MINIATURE, "--", "--data-dir", images, "--model", MODEL, "--output", output, *argv]


def wrap(images, output, *argv):
    """Runs the miniature in this process; returns its status and what it printed, as a process of its own would."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level  # the script sets up its own
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(list(map(str, wrap_arguments(images, output, *argv))))
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return subprocess.CompletedProcess(argv, status, out.getvalue(), err.getvalue())


def told(done, what):
    """What the miniature printed of every epoch or update: number to methods."""
    assert done.returncode == 0, done.stderr
    return {int(number): methods for number, methods in re.findall(rf"^{what} (\d+): (.*)$", done.stdout, re.M)}


@pytest.fixture(scope="module")
def base(images, tmp_path_factory):
    """Four epochs with an average of the weights, the switch at the third, in a process of its own."""
    output = tmp_path_factory.mktemp("wrap")
    argv = ("--model-ema", "--switch-epoch", "2", "--metrics", *"4312", "--checkpoint-hist", "2")
    return timm_gcp_command(*wrap_arguments(images, output, *argv)), output


# ---------------------------------------------------------------------------------------------------- the protocol


def test_help_has_our_options(capsys):
    with pytest.raises(SystemExit) as end:
        main(["wrap", str(MINIATURE), "--help"])
    assert not end.value.code
    shown = capsys.readouterr().out
    assert "usage: miniature_train.py" in shown
    for option in ("--hybrid", "--no-hybrid", "--warm-method", "--switch-lr-fraction", "--switch-epoch"):
        assert option in shown
    for option in ("--switch-last-decay", "--model-ema"):
        assert option in shown


def test_switch_takes_model_and_average(base):
    done, _ = base
    expected = {0: "isqrt isqrt", 1: "isqrt isqrt", 2: "svdpade svdpade", 3: "svdpade svdpade"}
    assert told(done, "epoch") == expected
    assert told(done, "evaluates epoch") == expected
    assert "isqrt first, switches to svdpade after 2 epochs" in done.stderr
    assert "Epoch 2: method isqrt → svdpade" in done.stderr


def test_ranking_begins_anew_at_the_switch(base):
    done, output = base
    # The warm phase had the higher metrics, 4 and 3 against 1 and 2.
    assert re.findall(r"^best: (\d)$", done.stdout, re.M) == ["0", "0", "2", "3"]
    assert sorted(path.name for path in output.iterdir()) == [
        *("checkpoint-2.pth.tar", "checkpoint-3.pth.tar", "last.pth.tar", "model_best.pth.tar"),
    ]
    best = load_file(output / "model_best.pth.tar")
    assert (best["epoch"], best["metric"]) == (3, 2.0)
    assert best["hybrid"]["switched_at"] == {"epoch": 2, "update": None}
    assert best["args"].switch_epoch == 2
    assert "state_dict_ema" in best


@pytest.mark.slow
def test_a_kill_while_saving_leaves_the_last_checkpoint(images, tmp_path, monkeypatch):
    """timm's saver removes ``last`` before the new one is in place."""
    at = tmp_path / "run"
    at.mkdir()
    code = """
import os, sys, timm.utils.checkpoint_saver as module
real = os.replace
def replace(source, target):
    if str(target).endswith("last.pth.tar") and os.path.exists(target):
        os._exit(9)
    real(source, target)
os.replace = replace
from timm_gcp.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
    argv = ["wrap", MINIATURE, "--", "--data-dir", images, "--model", MODEL, "--output", at, "--switch-epoch", "1"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, argv)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 9, done.stderr
    assert load_file(at / "last.pth.tar")["epoch"] == 0


@pytest.mark.parametrize(
    ("saved", "options", "expected"),
    [
        ("after", [], {3: "svdpade"}),
        ("before", [], {1: "isqrt", 2: "svdpade", 3: "svdpade"}),
        ("boundary", [], {2: "svdpade", 3: "svdpade"}),
        # timm's --start-epoch wins over the checkpoint, as in timm's script.
        ("after", ["--start-epoch", "1"], {1: "isqrt", 2: "svdpade", 3: "svdpade"}),
    ],
)
def test_resume(images, tmp_path_factory, tmp_path, saved, options, expected):
    output = tmp_path_factory.getbasetemp() / "resumable"
    if not output.exists():
        output.mkdir()
        assert wrap(images, output, "--switch-epoch", "2").returncode == 0
    checkpoint = {"before": 0, "boundary": 1, "after": 2}[saved]
    file = output / f"checkpoint-{checkpoint}.pth.tar"
    done = wrap(images, tmp_path, "--switch-epoch", "2", "--resume", file, *options)
    assert told(done, "epoch") == expected


def test_resume_without_a_saved_state_goes_by_the_schedule(base, images, tmp_path):
    """A checkpoint of timm's script alone; on updates, and past a switch in the middle of an epoch."""
    state = load_file(base[1] / "checkpoint-2.pth.tar")
    del state["hybrid"]
    torch.save(state, tmp_path / "plain.pth.tar")
    argv = ["--resume", tmp_path / "plain.pth.tar", "--sched-on-updates", "--switch-lr-fraction", "0.4"]
    done = wrap(images, tmp_path, *argv)
    assert told(done, "epoch") == {3: "svdpade"}


def test_plateau_takes_up_the_saved_switch(images, tmp_path):
    """Only the checkpoint knows that the rate had fallen: timm starts a plateau anew."""
    plateau = ["--sched", "plateau", "--switch-lr-fraction", "0.2", "--switch-epoch", "4", "--epochs", "5"]
    plateau += ["--metrics", *"11111"]
    assert told(wrap(images, tmp_path, *plateau, "--stop-epoch", "3"), "epoch")[2] == "svdpade"
    done = wrap(images, tmp_path, *plateau, "--resume", tmp_path / "last.pth.tar")
    assert told(done, "epoch")[3] == "svdpade"


def test_switch_between_updates(images, tmp_path):
    """Two updates an epoch by accumulation: the rate falls to 0.31 of its peak with the fifth of eight."""
    argv = ["--sched-on-updates", "--grad-accum-steps", "2", "--switch-lr-fraction"]
    done = wrap(images, tmp_path, *argv, "0.4")
    assert told(done, "epoch") == {0: "isqrt", 1: "isqrt", 2: "isqrt", 3: "svdpade"}
    assert told(done, "update") == {n: "isqrt" if n < 5 else "svdpade" for n in range(1, 9)}
    # On the boundary between two epochs the first is evaluated under the method that trained it.
    done = wrap(images, tmp_path, *argv, "0.6")
    assert told(done, "evaluates epoch") == {0: "isqrt", 1: "isqrt", 2: "svdpade", 3: "svdpade"}
    assert told(done, "epoch")[2] == "svdpade"


def test_switch_at_the_last_decay(images, tmp_path):
    argv = ["--sched", "step", "--decay-epochs", "1.5", "--switch-last-decay", "--epochs", "4"]
    done = wrap(images, tmp_path, *argv, "--stop-epoch", "2")
    assert told(done, "epoch") == {0: "isqrt", 1: "isqrt"}
    assert "at the last decay of the learning rate, after 3 epochs" in done.stderr
    done = wrap(images, tmp_path, *argv, "--resume", tmp_path / "last.pth.tar")
    assert told(done, "epoch") == {2: "isqrt", 3: "svdpade"}


@pytest.mark.slow
def test_two_processes_switch_together(images, tmp_path):
    done = torchrun(
        *("timm_gcp", "wrap", MINIATURE, "--", "--data-dir", images, "--model", MODEL, "--model-ema"),
        *("--output", tmp_path, "--sched-on-updates", "--switch-lr-fraction", "0.4", "--epochs", "3"),
    )
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^(?:update|epoch) .*$", done.stdout, re.M)
    assert len(lines) == 2 * (3 + 12)
    assert all(lines.count(line) == 2 for line in lines)
    assert "update 6: isqrt" in lines
    assert "update 7: svdpade" in lines
    assert done.stderr.count("method isqrt → svdpade") == 1  # one process speaks for all


def test_without_the_protocol(images, tmp_path):
    done = wrap(images, tmp_path, "--no-hybrid", "--epochs", "1")
    assert told(done, "epoch") == {0: "svdpade"}
    assert "hybrid" not in load_file(tmp_path / "last.pth.tar")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--switch-epoch", "4"], "would never switch: epoch 4, counted from 0, lies beyond the end"),
        (["--epochs", "1"], "would never switch: within the 1 epoch the learning rate stays at its peak"),
        (["--sched", "none", "--switch-epoch", "2"], "gives no scheduler"),
        (["--switch-epoch", "2", "--no-hybrid"], "--switch-epoch has no effect with --no-hybrid"),
        (["--switch-epoch", "0"], "leaves no epoch for the warm method"),
        (["--switch-lr-fraction", "2"], "must lie between 0 and 1"),
        (["--switch-last-decay", "--epochs", "8"], "or another rule (--switch-lr-fraction 0.1)"),
        (["--warm-method", "isqr"], "did you mean isqrt"),
        (["--warm-method", "svdpade", "--hybrid"], "needs two methods"),
        (["--resume", "nowhere.pth.tar"], "nowhere.pth.tar"),
        (["--model", "test_resnet", "--hybrid"], "--hybrid needs a model with covariance pooling"),
        (["--model", "efficientvit_b0_svdpade"], "EfficientVit cannot pool a covariance"),
    ],
)
def test_refused_before_training(images, tmp_path, capsys, monkeypatch, argv, message):
    monkeypatch.setattr(timm.utils, "setup_default_logging", lambda: None)
    monkeypatch.setattr(timm.models, "resume_checkpoint", lambda model, *rest: 0)
    common = ["--data-dir", str(images), "--model", MODEL, "--output", str(tmp_path)]
    assert main(["wrap", str(MINIATURE), "--", *common, *argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("timm-gcp: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert "epoch 0" not in captured.out


# ---------------------------------------------------------------------------------------------- scripts and their shape


def script(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def test_any_backbone_and_nothing_left_behind(tmp_path, capsys):
    path = script(tmp_path, "validate.py", VALIDATE)
    before = timm.create_model, scheduler_factory.create_scheduler_v2, list(sys.path), list(sys.argv)
    assert not timm.is_model("resnet14t_polar")
    assert main(["wrap", str(path), "--model", "resnet14t_polar"]) == 0
    assert capsys.readouterr().out == "made polar sees True\n"
    assert before == (timm.create_model, scheduler_factory.create_scheduler_v2, sys.path, sys.argv)
    assert "validate" not in sys.modules
    assert os.listdir(tmp_path) == ["validate.py"]


@pytest.mark.slow
def test_exports_without_an_eigensolver(base, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, file = script(tmp_path, "onnx_export.py", EXPORT), str(tmp_path / "model.onnx")
    checkpoint = str(base[1] / "last.pth.tar")
    argv = ["wrap", str(path), "--", "--model", MODEL, "--checkpoint", checkpoint, "--output", file]
    assert main(argv) == 2
    assert "add --dynamo" in capsys.readouterr().err
    assert main([*argv, "--dynamo"]) == 0
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    images = torch.randn(2, 3, 64, 64)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    model = timm.create_model(MODEL, num_classes=3, checkpoint_path=checkpoint).eval()
    torch.testing.assert_close(torch.from_numpy(logits), model(images).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("validate.py", "import argparse\nparser = argparse.ArgumentParser()\n", "it lacks a function main()"),
        ("validate.py", "def main(): pass\n", "it lacks an argument parser named 'parser'"),
        ("train.py", VALIDATE, "it lacks the name create_scheduler_v2"),
        ("train.py", f"from timm.scheduler import create_scheduler_v2{VALIDATE}", "never called create_scheduler_v2"),
        ("train.py", FOREIGN, "a model that timm's create_model did not make"),
        ("validate.py", "from timm.models import no_such_thing\n", "asks for what timm"),
        ("validate.py", "import timm.no_such_module\n", "asks for what timm"),
        ("validate.py", "import no_such_package\n", "needs the package no_such_package; install it"),
        ("validate.py", "print 'two'\n", "is not a Python script"),
        (
            "train.py",
            f"from timm.scheduler import create_scheduler_v2{VALIDATE}".replace("--model", "--hybrid"),
            "has an option of the same name",
        ),
    ],
)
def test_other_shapes_are_refused(tmp_path, capsys, name, text, message):
    path = script(tmp_path, name, text)
    assert main(["wrap", str(path), "--", *(["--model", MODEL] if text.endswith(VALIDATE) else [])]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_foreign_model_trains_without_the_protocol(tmp_path):
    assert main(["wrap", str(script(tmp_path, "train.py", FOREIGN)), "--", "--no-hybrid"]) == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian.py"], "did you mean train.py"),
        (["nowhere/train.py"], "There is no script nowhere/train.py; check the path"),
        (["--timm-scripts", "nowhere", "train"], "--timm-scripts nowhere is no folder that holds train.py"),
        (["train", "more", "--", "-h"], "unrecognized arguments: more"),
        ([], "SCRIPT"),
    ],
)
def test_scripts_that_are_not_there(capsys, argv, message):
    assert main(["wrap", *argv]) == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- where scripts come from


@pytest.fixture
def calm(tmp_path, monkeypatch):
    """A folder without scripts, an empty cache, and a timm that pip has installed."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.delenv("TIMM_SCRIPTS", raising=False)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    installed = tmp_path / "site-packages" / "timm"
    installed.mkdir(parents=True)
    monkeypatch.setattr(script_source.timm, "__file__", str(installed / "__init__.py"))
    return home


def test_bare_names(calm, tmp_path, monkeypatch, capsys):
    checkout, given = tmp_path / "site-packages", tmp_path / "given"
    given.mkdir()
    script(checkout, "validate.py", VALIDATE.replace("made", "checkout"))
    script(given, "validate.py", VALIDATE.replace("made", "given"))

    def ran(*argv):
        assert main(["wrap", *argv, "--", "--model", MODEL]) == 0
        return capsys.readouterr().out.split()[0]

    monkeypatch.setattr(timm, "__version__", "1.0.27")  # older than every recorded one
    with pytest.raises(ValueError, match="not recorded here"):  # somebody else's file beside the package
        script_source.find_script("validate")
    (checkout / "pyproject.toml").touch()
    assert ran("validate") == ran("validate.py") == "checkout"
    monkeypatch.setenv("TIMM_SCRIPTS", str(given))
    assert ran("validate") == ran("validate.py", "--timm-scripts", "auto") == "given"
    assert ran("--timm-scripts", str(checkout), "validate") == "checkout"
    script(calm, "validate.py", VALIDATE.replace("made", "here"))
    assert ran("validate.py") == ran("validate") == "here"
    assert ran(str(given / "validate.py")) == ran(str(given / "validate")) == "given"
    assert ran("--timm-scripts", "auto", "validate.py") == "given"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on this machine with one tag, and its address as the place of timm's tags."""
    tag = tmp_path / "www" / f"v{timm.__version__}"
    tag.mkdir(parents=True)
    script(tag, "validate.py", VALIDATE)
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(self.path)

    handler = functools.partial(Handler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("TIMM_SCRIPTS_URL", f"http://127.0.0.1:{server.server_address[1]}/")
        yield requests
        server.shutdown()
        thread.join()


def test_the_installed_version_is_fetched_once(calm, server, monkeypatch, capsys):
    known = {timm.__version__: {"validate.py": hashlib.sha256(VALIDATE.encode()).hexdigest()}}
    monkeypatch.setattr(script_source, "SHA256", known)
    for _ in range(2):
        assert main(["wrap", "validate", "--", "--model", MODEL]) == 0
        assert capsys.readouterr().out == "made svdpade sees True\n"
    assert server == [f"/v{timm.__version__}/validate.py"]


def test_another_content_never_runs(calm, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script_source, "SHA256", {timm.__version__: {"validate.py": "0" * 64}})
    assert main(["wrap", "validate", "--", "--model", MODEL]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "its SHA-256 is" in captured.err
    assert "set TIMM_SCRIPTS to a folder" in captured.err
    assert server
    assert not list((tmp_path / "cache").rglob("*.py"))


def test_a_newer_version_takes_the_newest_recorded_scripts(calm, server, monkeypatch, capsys, caplog):
    known = {version: {"validate.py": "0" * 64} for version in ("1.0.9", "1.0.10", "99.0.0")}
    known[timm.__version__] = {"validate.py": hashlib.sha256(VALIDATE.encode()).hexdigest()}
    monkeypatch.setattr(script_source, "SHA256", known)
    recorded = timm.__version__
    monkeypatch.setattr(timm, "__version__", "98.0.0")
    assert main(["wrap", "validate", "--", "--model", MODEL]) == 0
    assert server == [f"/v{recorded}/validate.py"]
    assert f"timm 98.0.0's scripts are not recorded: those of timm {recorded} are used" in caplog.text


def test_a_version_without_a_checksum_is_not_fetched(calm, server, monkeypatch, capsys):
    monkeypatch.setattr(script_source, "SHA256", {"1.0.28": {"validate.py": "0" * 64}})
    monkeypatch.setattr(timm, "__version__", "1.0.27")
    assert main(["wrap", "validate", "--", "--model", MODEL]) == 2
    message = capsys.readouterr().err
    assert "timm 1.0.27 comes without validate.py, and its checksum is not recorded" in message
    assert "TIMM_SCRIPTS" in message
    assert server == []


DEVICE = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cuda")
def main():
    print("device", parser.parse_args().device)
"""


def test_timm_s_default_device_without_a_gpu(tmp_path, capsys, monkeypatch):
    path = script(tmp_path, "validate.py", DEVICE)
    for there, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert main(["wrap", str(path), "--"]) == 0
        assert capsys.readouterr().out == f"device {expected}\n"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["wrap", str(path), "--", "--device", "cuda:0"]) == 0  # what the user gives stays
    assert capsys.readouterr().out == "device cuda:0\n"


def test_recorded_checksums_are_whole():
    for scripts in script_source.SHA256.values():
        assert set(scripts) == set(script_source.SCRIPTS)
        assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in scripts.values())


# --------------------------------------------------------------------------------------------------- timm's own scripts

own = pytest.mark.skipif(
    "TIMM_SCRIPTS" not in os.environ,
    reason="timm's scripts are not in its package; TIMM_SCRIPTS names no folder of them",
)
COMMON = [
    *("--model", MODEL, "--num-classes", "3", "--img-size", "64", "-b", "8", "-j", "1", "--device", "cpu"),
    *("--lr", "0.05", "--warmup-epochs", "0", "--epochs", "4", "--switch-epoch", "2"),
]


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    output = tmp_path_factory.mktemp("own")
    argv = ["--data-dir", images, *COMMON, "--model-ema", "--output", output, "--experiment", "run"]
    done = timm_gcp_command("wrap", "train", "--", *argv)
    assert done.returncode == 0, done.stderr
    return done, output / "run"


@own
def test_timm_trains(trained):
    done, run = trained
    assert "Epoch 2: method isqrt → svdpade" in done.stderr
    states = {epoch: load_file(run / f"checkpoint-{epoch}.pth.tar")["hybrid"]["switched_at"] for epoch in range(4)}
    assert states == {0: None, 1: None, 2: {"epoch": 2, "update": None}, 3: {"epoch": 2, "update": None}}
    with open(run / "summary.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4


@own
def test_timm_resumes(trained, images, tmp_path):
    for epoch, announced in ((0, True), (2, False)):
        argv = [
            "--resume",
            trained[1] / f"checkpoint-{epoch}.pth.tar",
            "--output",
            tmp_path,
            "--experiment",
            str(epoch),
        ]
        done = timm_gcp_command("wrap", "train", "--", "--data-dir", images, *COMMON, *argv)
        assert done.returncode == 0, done.stderr
        assert ("Epoch 2: method isqrt → svdpade" in done.stderr) == announced
        assert ("switched from isqrt to svdpade after 2 epochs" in done.stderr) != announced
        assert load_file(tmp_path / str(epoch) / "last.pth.tar")["hybrid"]["switched_at"]["epoch"] == 2


@own
def test_timm_validates_as_we_do(trained, images, tmp_path):
    checkpoint = trained[1] / "last.pth.tar"
    argv = ["--data-dir", images, "--split", "validation", *COMMON[:-8], "--checkpoint", checkpoint]
    timms = timm_gcp_command("wrap", "validate.py", "--", *argv, "--results-file", tmp_path / "timm.json")
    assert timms.returncode == 0, timms.stderr
    row = json.loads(timms.stdout.split("--result")[1])
    argv = ["--data-dir", images, "--checkpoint", checkpoint, "-b", "8", "-j", "0", "--device", "cpu"]
    ours = timm_gcp_command("validate", *argv, "--no-use-ema", "--results-file", tmp_path / "ours.csv")
    assert ours.returncode == 0, ours.stderr
    with open(tmp_path / "ours.csv", newline="") as file:
        (own_row,) = csv.DictReader(file)
    assert own_row["method"] == "svdpade"
    assert float(own_row["top1"]) == pytest.approx(row["top1"], abs=1e-3)
