"""The printed lines of a run: start, width, log file, and why the best epoch is not the highest one."""

import ast
import errno
import io
import os
import re
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.support.broken_output import broken_text
from tests.support.tools import MODEL, ROOT, rows_of, write_images
from timm_gcp.__main__ import main
from timm_gcp.data import TextureDataset, create_dataset
from timm_gcp.data.class_counts import class_counts, describe_counts
from timm_gcp.hybrid.monitor import conditioning_word
from timm_gcp.training.progress import Progress
from timm_gcp.training.protocol import Protocol
from timm_gcp.training.run_log import RunLog
from timm_gcp.training.summary import epoch_line, unranked_note


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp("images"))
    (folder / "train" / "fine" / "0.jpg").unlink()
    return folder


def arguments(images, out, *more):
    return [
        *("train", "--data-dir", str(images), "--model", MODEL, "--img-size", "32", "-b", "12", "--lr", "0.01"),
        *("--epochs", "2", "--warmup-epochs", "0", "--switch-epoch", "1", "--monitor-every", "1", "-j", "0"),
        *(
            "--no-prefetcher",
            "--log-interval",
            "1",
            "--device",
            "cpu",
            "--output",
            str(out),
            "--experiment",
            "run",
            *more,
        ),
    ]


def test_a_run_says_where_it_starts(images, tmp_path, capsys):
    """Packaged weights of 81 classes, a frozen body, classes of unlike size; then the same run, resumed."""
    argv = arguments(
        images, tmp_path, "--pretrained", "--train-only", "head", "--sched-on-updates", "--recovery-interval", "1"
    )
    argv[argv.index(MODEL)] = f"{MODEL}.grocery"
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "Weights: test_resnet_svdpade.grocery; the classifier is new (81 → 3 classes)." in out
    assert "Frozen: all but the head; 0.0125 of 0.385 M parameters are trained." in out
    assert "Split train: 3 classes (coarse, fine, middle); 35 images, 11 (fine) to 12 (coarse) per class." in out
    assert "Split validation: 36 images, 12 per class." in out
    assert "Training: epochs 1 to 2, lr 0.01 (sgd, cosine)" in out
    assert "Hybrid protocol: isqrt first, switches to svdpade after 1 epoch." in out
    assert "Epochs under isqrt are not ranked" in out
    assert re.search(r"Training takes about 0:00:\d\d more  until [\d :-]+  evaluation not counted  memory \d", out)
    # One rate in both lines that end an epoch.
    for epoch in (1, 2):
        inner = re.search(rf"^epoch {epoch} \[2/2\].*  lr (\S+)", out, re.MULTILINE)
        assert re.search(rf"^epoch {epoch}/2 .*  lr (\S+)", out, re.MULTILINE)[1] == inner[1]
    assert re.search(r"^epoch 1/2 .*  isqrt  conditioning good  κ \S+ rank \d+.*  not ranked: warm method$", out, re.M)
    assert re.search(r"^epoch 2/2 .*  svdpade  conditioning good .*  best top1 \S+ \(epoch 2\)$", out, re.M)
    assert "Best epoch 2: " in out
    # Files count from 0, as timm's do.
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == ["0", "1"]

    # The log holds what was printed, and goes on after a resume.
    log = tmp_path / "run" / "log.txt"
    first = log.read_text(encoding="utf-8")
    head, _, rest = first.partition("\n")
    assert head.startswith("--- ")
    assert head.endswith(" ".join(["timm-gcp", *argv]))
    assert rest == out
    last = tmp_path / "run" / "last.pth.tar"
    assert main([*argv, "--epochs", "3", "--resume", str(last)]) == 0
    out = capsys.readouterr().out
    assert f"Weights: those of {last}, after 2 epochs." in out
    assert "Training: epochs 3 to 3" in out
    assert "Hybrid protocol: switched from isqrt to svdpade after 1 epoch." in out
    assert log.read_text(encoding="utf-8").startswith(first)
    assert log.read_text(encoding="utf-8").endswith(out)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "Weights: random; --pretrained starts from trained ones where there are some."),
        (["--model", f"{MODEL}.init", "--pretrained"], "timm/test_resnet.r160_in1k"),
        (["--initial-checkpoint", "a.pth"], "Weights: a.pth, with its classifier."),
        (["--pretrained-path", "b.pth"], "Weights: b.pth; the classifier is new (3 classes)."),
        (["--num-classes", "81", "--model", f"{MODEL}.grocery", "--pretrained"], "with its classifier of 81 classes."),
    ],
)
def test_weights_a_run_starts_from(more, said):
    import timm

    import timm_gcp  # noqa: F401
    from timm_gcp.commands.train import parse_train_args
    from timm_gcp.training.initial_weights import describe_start

    args, _ = parse_train_args(["--model", MODEL, "--num-classes", "3", *more])
    model = timm.create_model(args.model, num_classes=args.num_classes)
    if args.pretrained_path:
        model.pretrained_cfg["num_classes"] = -1
    assert said in describe_start(args, model, 0)[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--train-only", "head"], "Frozen: all but the head; 0.5 of"),
        (["--layer-decay-no-opt-scale", "0.3"], "Frozen: layers whose factor is below --layer-decay-no-opt-scale 0.3;"),
    ],
)
def test_what_froze_a_layer_is_named(more, said):
    from timm_gcp.commands.train import parse_train_args
    from timm_gcp.training.initial_weights import describe_start

    args, _ = parse_train_args(["--model", MODEL, *more])
    args.num_classes = 3
    model = torch.nn.Sequential(torch.nn.Linear(1000, 499), torch.nn.Linear(499, 1000))
    model.pretrained_cfg = {"architecture": "test"}
    model[0].requires_grad_(False)
    assert describe_start(args, model, 0)[1].startswith(said)


def test_counts(images):
    train = create_dataset("", images, "train", is_training=True)
    assert class_counts(train, 3).tolist() == [12, 11, 12]
    assert describe_counts(train, 3, None) == "35 images, 11 (class 1) to 12 (class 0) per class"
    assert describe_counts(train, 4, list("abcd")) == "35 images, at most 12 (a) per class, none of d"
    torchvision_like = SimpleNamespace(targets=torch.tensor([0, 1, 1]))
    assert class_counts(torchvision_like, 2).tolist() == [1, 2]
    assert class_counts(SimpleNamespace(targets=np.array([0.5, 1.0])), 2) is None
    assert describe_counts(TextureDataset("train"), 8, None).startswith("800 images")
    assert describe_counts(SimpleNamespace(), 2, None) == "a stream of images"


def run_of(rows, switched=True, metric="top1"):
    schedule = SimpleNamespace(warm="isqrt", final="svdpade", switched=switched)
    progress = SimpleNamespace(remaining=lambda here: 90061.0)
    return SimpleNamespace(
        rows=rows,
        protocol=Protocol(schedule, None),
        metric=metric,
        epochs=300,
        data=SimpleNamespace(evaluation=object()),
        progress=progress,
    )


@pytest.mark.parametrize(
    ("metric", "warm", "final", "said"),
    [
        ("top1", "70.0", "66.67", "Epoch 1 had top1 70 under the warm method isqrt; such epochs are not ranked"),
        ("top1", "60.0", "66.67", ""),
        ("loss", "0.5", "0.6", "Epoch 1 had loss 0.5 under the warm method"),
        ("loss", "0.7", "0.6", ""),
        ("top1", "", "66.67", ""),
    ],
)
def test_a_better_epoch_of_the_warm_method_is_explained(metric, warm, final, said):
    """Rows as read again after a resume, and as this run made them."""
    rows = [
        {"epoch": "0", "method": "isqrt", f"eval_{metric}": warm},
        {"epoch": 1, "method": "svdpade", f"eval_{metric}": float(final)},
    ]
    note = unranked_note(run_of(rows, metric=metric), 1)
    assert note.startswith(said)
    assert bool(note) == bool(said)


class Terminal:
    """Standard output and error on a pseudo-terminal of so many columns."""

    def __init__(self, columns):
        import fcntl
        import pty
        import struct
        import termios

        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = open(slave, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
        self.read = b""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        # Linux answers EIO once the other side is closed, others with nothing.
        try:
            while data := os.read(self.master, 4096):
                self.read += data
        except OSError:
            pass

    def close(self):
        self.stream.close()
        self.reader.join()
        os.close(self.master)
        return re.sub(r"\x1b\[\w*", "", self.read.decode())


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("columns", [40, 80])
def test_bar_and_epoch_line_fit_the_terminal(columns, monkeypatch):
    terminal = Terminal(columns)
    monkeypatch.setattr(sys, "stdout", terminal.stream)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    row = {
        **{"epoch": 99, "train_loss": 12.34567, "train_top1": 100.0, "eval_loss": 12.34567, "eval_top1": 100.0},
        **{"eval_top5": 100.0, "lr": 0.000123456, "method": "svdnewton", "kappa": 1.23e12, "rank": 256.0},
        **{"under_eps": 0.0, "skipped": 12, "fallbacks": 3, "seconds": 12345.6},
    }
    progress = Progress(0, 300, 1, device=torch.device("cpu"))
    progress.begin(99, 20)
    for done in range(1, 21):
        # tqdm compares times of day: without this, a clock that is set back ends the drawing.
        progress._bar.miniters, progress._bar.mininterval, progress._bar.delay = 0, -1e9, -1e9
        progress.update(done, 12.345, 100.0, 12345.0, 0.000123456)
    progress.end()
    for switched in (False, True):
        progress.say(*epoch_line(run_of([], switched), row, 100.0, 42))
    shown = re.split(r"[\r\n]+", terminal.close())
    assert [line for line in shown if len(line) > columns] == []
    bars = [line for line in shown if line.startswith("100/300 |")]
    assert len(bars) > 10
    assert re.search(r"\|  ?20/20  loss 12\.345", bars[-1])
    assert ("img/s" in bars[-1]) == (columns == 80)
    text = " ".join(" ".join(shown).split())
    for part in ("epoch 100/300", "conditioning poor", "κ 1.2e+12 rank 256", "not ranked: warm method", "top5 100.00"):
        assert part in text
    assert "best top1 100 (epoch 43)" in text


@pytest.mark.parametrize("trouble", ["ascii", errno.ENOSPC, errno.EPIPE])
def test_printing_never_ends_a_run(trouble, images, tmp_path, monkeypatch):
    raw = io.BytesIO()
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(raw, encoding="ascii") if trouble == "ascii" else broken_text(trouble)
        monkeypatch.setattr(sys, name, stream)
    assert main(arguments(images, tmp_path)) == 0
    assert (tmp_path / "run" / "result.json").is_file()
    assert "κ" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    if trouble == "ascii":
        assert b"kappa" in raw.getvalue()
        assert b"method isqrt -> svdpade" in raw.getvalue()


def test_a_full_disk_under_the_log(tmp_path, capsys, monkeypatch):
    def full(*call):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with RunLog() as log:
        log.write("early")
        log.open(tmp_path / "log.txt", "command")
        real = os.write
        monkeypatch.setattr(os, "write", full)
        log.write("lost")
        log.write("lost")
        monkeypatch.setattr(os, "write", real)
        log.write("late")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines[0].endswith("command")
    assert lines[1:] == ["early", "late"]
    assert capsys.readouterr().err.count("cannot be written (No space left on device)") == 1
    with RunLog() as log:
        log.open(tmp_path / "none" / "log.txt", "command")
        log.write("lost")
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_the_log_holds_warnings_and_the_error_that_ended_the_run(images, tmp_path, monkeypatch):
    bad = tmp_path / "images"
    write_images(bad)
    (bad / "train" / "fine" / "3.jpg").write_bytes(b"none")
    assert main(arguments(bad, tmp_path, "--skip-bad-images", "--lr", "1e30")) == 2
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert re.search(r"^warning: Skipped image .*3\.jpg", log, re.MULTILINE)
    assert re.search(r"^error: The (loss|gradient) became", log, re.MULTILINE)
    # The first epoch was not finished: the folder is free for another try.
    assert main(arguments(images, tmp_path, "--lr", "0.01")) == 0
    assert (tmp_path / "run" / "log.txt").read_text(encoding="utf-8").startswith(log)


@pytest.mark.parametrize(("kappa", "word"), [(1, "good"), (1e6, "good"), (2e6, "fair"), (1e10, "fair"), (2e10, "poor")])
def test_conditioning_in_a_word(kappa, word, capsys):
    assert conditioning_word(kappa) == word
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "conditioning  good: κ up to 1e+06" in capsys.readouterr().out


def test_every_bar_hides_where_there_is_no_terminal():
    """A bar says when it hides: in a file it would be a line a frame."""
    calls = [
        (file.name, node.lineno, {keyword.arg for keyword in node.keywords})
        for folder in ("timm_gcp", "eval", "hub")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tqdm"
    ]
    assert len(calls) > 8
    assert [call for call in calls if "disable" not in call[2]] == []
