"""Two processes with half the batch each train what one does: frozen batch norm, no augmentation, the same order."""

import os
import subprocess
import sys

import pytest
import torch

from tests.support.tools import MODEL, rows_of
from timm_gcp import GCPError
from timm_gcp.commands.train import parse_train_args
from timm_gcp.data import open_dataset
from timm_gcp.distributed import Processes
from timm_gcp.training import data as stage
from timm_gcp.training.network import Network
from timm_gcp.training.prepare import prepare
from timm_gcp.training.run_folder import RunFolder
from timm_gcp.weights.file import load_training_checkpoint

# What one process and two cannot share is taken away: batch norm's own statistics, and the order of the images, which
# in one process comes from another sampler.
SCRIPT = """
import sys

import torch
from torch.utils.data.distributed import DistributedSampler

from timm_gcp.__main__ import main
from timm_gcp.data import loaders
from timm_gcp.training import step

train_mode, create_loader = step.Stepper.train_mode, loaders.create_loader


def frozen(self):
    train_mode(self)
    for module in self.model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def ordered(dataset, *args, **kwargs):
    loader = create_loader(dataset, *args, **kwargs)
    if kwargs["is_training"] and not kwargs["distributed"]:
        order = DistributedSampler(dataset, num_replicas=1, rank=0, seed=3)
        loader.batch_sampler.sampler = order
        dataset.dataset.set_epoch = order.set_epoch
    return loader


step.Stepper.train_mode, loaders.create_loader = frozen, ordered
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_two_processes_equal_one(images, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

    def run(name, batch, *launcher):
        given = ["--data-dir", images, "--model", MODEL, "--img-size", "64", "--epochs", "3", "--warmup-epochs", "0"]
        given += ["--lr", "0.05", "--switch-epoch", "2", "--seed", "3", "-b", batch, "-j", "0", "--no-prefetcher"]
        given += ["--no-aug", "--clip-grad", "1", "--device", "cpu", "--output", tmp_path, "--experiment", name]
        done = subprocess.run(
            [sys.executable, *launcher, str(script), *map(str, given)],
            capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    one, two = run("one", 12), run("two", 6, *torchrun)
    assert [row["method"] for row in rows_of(two)] == ["isqrt", "isqrt", "svdpade"]
    for alone, together in zip(rows_of(one), rows_of(two), strict=True):
        for key in ("train_loss", "eval_loss"):
            assert float(together[key]) == pytest.approx(float(alone[key]), rel=1e-5)
    alone, together = (load_training_checkpoint(folder / "last.pth.tar")["state_dict"] for folder in (one, two))
    start = torch.cat([value.flatten().double() for value in alone.values()])
    other = torch.cat([value.flatten().double() for value in together.values()])
    assert (start - other).norm() <= 1e-5 * start.norm()


def test_a_download_comes_before_everything_else(monkeypatch, tmp_path):
    calls = []

    def create(name, root, split, download=False, **kwargs):
        calls.append((split, download))
        if split == "broken":
            raise GCPError("The address is gone.")

    monkeypatch.setattr(open_dataset, "create_dataset", create)
    monkeypatch.setattr(open_dataset, "check_images", lambda *args, **kwargs: None)
    given = ["--data-dir", str(tmp_path), "--model", MODEL, "--dataset", "cub", "--dataset-download"]
    args, _ = parse_train_args(given)
    args.num_classes = 3
    stage.open_data(args, Processes(torch.device("cpu")))
    assert calls == [("train", True), ("validation", True), ("train", False), ("validation", False)]
    args.val_split = "broken"
    with pytest.raises(GCPError, match="address is gone"):
        stage.open_data(args, Processes(torch.device("cpu")))


def test_the_average_starts_from_the_weights_that_the_processes_share(images, tmp_path, monkeypatch):
    """The processes have the same weights once the model is synchronised, and the average has those."""
    wrap = Network.wrap

    def synchronised(self, options, processes):
        wrap(self, options, processes)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(1)  # as if they came from another process

    monkeypatch.setattr(Network, "wrap", synchronised)
    given = [str(images), "--model", "test_resnet", "--img-size", "32", "-b", "4", "-j", "0", "--device", "cpu"]
    given += ["--no-check-images", "--output", str(tmp_path), "--experiment", "run", "--model-ema"]
    options, arguments = parse_train_args(given)
    alone = Processes(torch.device("cpu"))
    with RunFolder(options, alone) as folder:
        run = prepare(options, alone, folder, arguments, "")
        run.loaders.close()
    shared, average = run.model.state_dict(), run.optimisation.average.module.state_dict()
    assert all(torch.equal(average[name], value) for name, value in shared.items())


TOGETHER = """
import os
import sys

import torch
import torch.distributed as dist

from timm_gcp import GCPError
from timm_gcp.commands.train import parse_train_args
from timm_gcp.distributed import join_processes
from timm_gcp.training.prepare import prepare
from timm_gcp.training.run_folder import RunFolder

options, arguments = parse_train_args(sys.argv[1:])
processes = join_processes("cpu")
assert dist.get_backend(processes.waiting) == "gloo"
assert processes.by_first(lambda: processes.rank + 5) == 5


def fail():
    raise GCPError("No.")


try:
    processes.by_first(fail)
except GCPError as error:
    assert str(error) == "No."
else:
    raise AssertionError("nothing raised")
with RunFolder(options, processes) as folder:
    run = prepare(options, processes, folder, arguments, "")
    shared, average = run.model.state_dict(), run.optimisation.average.module.state_dict()
    assert all(torch.equal(average[name], value) for name, value in shared.items())
    run.loaders.close()
processes.leave()
print("ended", flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_what_the_first_process_does_and_the_average_reach_all(images, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TOGETHER)
    given = [str(images), "--model", "test_resnet", "--img-size", "32", "-b", "4", "-j", "0", "--device", "cpu"]
    given += ["--no-check-images", "--output", str(tmp_path), "--experiment", "run", "--model-ema"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(script), *given], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ended") == 2
