"""Helpers of the tests: JPEG files, and commands in processes of their own."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
MODEL = "test_resnet_svdpade"
COMMON = [
    *("--img-size", "64", "-b", "8", "--epochs", "4", "--warmup-epochs", "0", "--lr", "0.05", "-j", "1"),
    *("--monitor-every", "1", "--switch-epoch", "2", "--log-interval", "2", "--device", "cpu", "--no-sched-on-updates"),
]


def write_images(folder, per_class=12, classes=("coarse", "fine", "middle"), splits=("train", "validation")):
    """Image folders whose classes differ in the size of their blocks."""
    rng = np.random.default_rng(0)
    for split in splits:
        for k, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(per_class):
                blocks = rng.integers(0, 256, (48 // (2 * k + 2), 48 // (2 * k + 2), 3), dtype=np.uint8)
                Image.fromarray(blocks).resize((48, 40), Image.Resampling.NEAREST).save(
                    folder / split / name / f"{i}.jpg", quality=95
                )
    return folder


def timm_gcp_command(*argv, cwd=None, timeout=300, env=None):
    return subprocess.run(
        [sys.executable, "-m", "timm_gcp", *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )


def torchrun(module, *argv):
    """A module in two processes."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", module)
    return subprocess.run(
        [*launcher, *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def rows_of(run):
    with open(run / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def slow_but(quick, names):
    """Parameters for ``names``, of which only those in ``quick`` belong to the fast set."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]
