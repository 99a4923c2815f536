"""What the tests of publishing share: a row of the manifest, and the commands in a process beside a loopback Hub."""

import contextlib
import json
import os
import subprocess
import sys

import timm
import torch
from PIL import Image

from tests.support.loopback_hub import TOKEN, LoopbackHub
from tests.support.tools import ROOT
from timm_gcp.models.folder import save_folder
from timm_gcp.weights.manifest import Checkpoint, Upstream

NAME = "test_resnet_svdlyap.textures"
REPO = f"org/{NAME}"
CLASSES = ("coarse", "fine", "middle")
ROW = Checkpoint(
    NAME,
    "A tiny ResNet on synthetic textures.",
    licence="Apache-2.0",
    model_args={"reduce": 32, "last_stride": 1},
    upstream=Upstream("https://example.org/textures.pth"),
    input_size=(3, 160, 160),
    crop_pct=0.95,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    num_classes=3,
    label_names=CLASSES,
    metrics=({"data": "textures|validation", "top1": 91.5, "top5": None, "by": "us", "command": "timm-gcp validate"},),
)

# One process for all commands: importing torch takes longer than most of them.
WORKER = """
import contextlib, io, json, os, sys
answers = sys.stdout
import timm_gcp.sharing.retry
import hub.__main__, timm_gcp.__main__
timm_gcp.sharing.retry.PAUSES = (0.01, 0.02, 0.03)
for line in sys.stdin:
    (program, *argv), token = json.loads(line)
    sys.argv = [program, *argv]
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": token} if token else {})
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = hub.__main__.main() if program == "hub" else timm_gcp.__main__.main(argv)
    print(json.dumps([status, out.getvalue(), err.getvalue()]), file=answers, flush=True)
"""


class Maintainer:
    """The commands in one process, a Hub, and a run with its model folder."""

    def __init__(self, folder):
        self.hub, self.folder = LoopbackHub(), folder
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            **{"HF_ENDPOINT": self.hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"},
            **{"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "250"},
            "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
        }
        self.worker = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL},
            text=True,
            env=self.env,
            cwd=folder,
        )
        torch.manual_seed(0)
        self.model = timm.create_model("test_resnet_svdlyap", num_classes=3, reduce=32).eval()
        self.run = folder / "run"
        save_folder(self.model, self.run / "model", class_names=CLASSES)
        (self.run / "result.json").write_text(
            json.dumps({"command": f"timm-gcp train --data-dir {folder}/textures --lr 0.1", "epoch": 3, "epochs": 4})
        )
        Image.new("RGB", (8, 8)).save(self.run / "curves.png")

    def command(self, *argv, token=TOKEN, program="hub"):
        self.worker.stdin.write(json.dumps([[program, *map(str, argv)], token]) + "\n")
        self.worker.stdin.flush()
        status, out, err = json.loads(self.worker.stdout.readline())
        assert TOKEN not in out + err
        return status, out, err

    def publish(self, manifest, *argv, token=TOKEN):
        curves = ("--curves", self.run / "curves.png", "--folder", self.run / "model")
        return self.command("publish", NAME, "--org", "org", "--manifest", manifest, *curves, *argv, token=token)

    def close(self):
        self.worker.stdin.close()
        self.worker.wait(timeout=30)
        self.hub.close()


@contextlib.contextmanager
def fresh_hub(maintainer):
    """A Hub without repositories, for a block; the repositories are put back at its end."""
    before, maintainer.hub.repos = maintainer.hub.repos, {}
    yield maintainer.hub
    maintainer.hub.repos = before
