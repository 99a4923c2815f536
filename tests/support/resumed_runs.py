"""Runs that depend on everything a resume has to restore, and the comparison of what two of them leave behind."""

import contextlib
import json

import torch

from tests.support.tools import COMMON, MODEL, rows_of
from timm_gcp.training import trainer
from timm_gcp.weights.file import load_training_checkpoint

# Whatever depends on chance or on what ran before: dropout of features and of channels, random erasing, mixup, averaged
# weights, a rate that falls with every update, a switch within an epoch, momentum.
RICH = [
    *("--drop", "0.3", "--reprob", "0.5", "--mixup", "0.2", "--model-ema", "--model-ema-decay", "0.8"),
    *("--model-kwargs", "channel_dropout=adaptive"),
    *("--sched-on-updates", "--switch-lr-fraction", "0.6", "--checkpoint-hist", "1", "--log-interval", "1"),
]


def arguments(images, output, *more):
    return [
        *("train", "--data-dir", str(images), "--model", MODEL, *COMMON, *RICH),
        *("--output", str(output), "--experiment", "run", "--resume", "auto", *map(str, more)),
    ]


@contextlib.contextmanager
def stopping_after(monkeypatch, *updates):
    """Asks a run to stop after each of these updates, counted over all runs of the block."""
    real, calls = trainer.Trainer.update, []

    def stopping(self, epoch, batches):
        calls.append(epoch)
        return real(self, epoch, batches) or len(calls) in updates

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "update", stopping)
        yield


def same_runs(a, b):
    """The losses of two runs, and every tensor that they leave behind."""
    first, second = rows_of(a), rows_of(b)
    assert [row["epoch"] for row in first] == [row["epoch"] for row in second]
    for one, other in zip(first, second, strict=True):
        for key in one.keys() - {"seconds"}:
            assert one[key] == other[key], f"epoch {one['epoch']}, {key}: {one[key]}, then {other[key]}"
    for name in ("last", "model_best"):
        one, other = (load_training_checkpoint(folder / f"{name}.pth.tar") for folder in (a, b))
        assert one["epoch"] == other["epoch"]
        for part in ("state_dict", "state_dict_ema"):
            assert all(torch.equal(value, other[part][key]) for key, value in one[part].items())
    one, other = (json.loads((folder / "result.json").read_text()) for folder in (a, b))
    for result in (one, other):
        for key in ("wall_seconds", "command", "segments"):
            del result[key]
    assert one == other
    assert not [path.name for path in b.iterdir() if path.name.startswith((".", "tmp"))]
