"""The defaults of ``timm-gcp train`` are those of timm's ``train.py``, but for those that are listed here."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from timm_gcp.commands.train_options import train_parser

SCRIPTS = os.environ.get("TIMM_SCRIPTS")

# Option: (ours, timm's).
DIFFERENT = {
    "model": ("resnet50_svdpade", "resnet50"),
    "device": (None, "cuda"),  # CUDA where there is a device, else the CPU
    "sched_on_updates": (None, False),  # filled in by the length of the run
    "smoothing": (None, 0.1),  # the same but for multi-label data
    "eval_metric": (None, "top1"),  # the same but for multi-label data
    "warmup_epochs": (None, 5),  # the same; 5 where they fit
    "decay_epochs": (None, 90),  # the same for step; filled in by the schedule
    "tta": ("", 0),  # ours has a name; timm's train.py only enlarges the batch by it
}


@pytest.mark.skipif(not SCRIPTS, reason="TIMM_SCRIPTS names no folder with timm's train.py")
def test_defaults_are_those_of_timm(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    specification = importlib.util.spec_from_file_location("timm_train", Path(SCRIPTS) / "train.py")
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    ours, theirs = (
        {action.dest: action.default for action in parser._actions} for parser in (train_parser(), script.parser)
    )
    both = ours.keys() & theirs.keys()
    assert len(both) > 80
    found = {name: (ours[name], theirs[name]) for name in both if ours[name] != theirs[name]}
    assert found == DIFFERENT
