"""Out of memory names the batch and what to change."""

import pytest
import torch

from timm_gcp.__main__ import main
from timm_gcp.training import evaluate, results
from timm_gcp.training import trainer as train

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS)
def test_out_of_memory_is_a_sentence(error, images, tmp_path, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(train.Trainer, "update", fail)
    monkeypatch.setattr(evaluate, "evaluate", fail)
    monkeypatch.setattr(evaluate, "check_classes", lambda *_: None)
    common = ["--data-dir", str(images), "--model", "test_resnet_svdpade", "-b", "6", "-j", "0", "--device", "cpu"]
    assert main(["train", *common, "--epochs", "4", "--switch-epoch", "2", "--output", str(tmp_path)]) == 2
    assert "with batches of 6 images: lower -b (--grad-accum-steps" in capsys.readouterr().err
    assert main(["validate", *common]) == 2
    assert "with batches of 6 images: lower -b or --img-size" in capsys.readouterr().err


@pytest.mark.parametrize("module", [train, results], ids=["in an epoch", "of the best model"])
def test_an_evaluation_names_its_own_batch(module, images, tmp_path, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise ERRORS[0]

    monkeypatch.setattr(module, "evaluate", fail)
    argv = ["train", "--data-dir", str(images), "--model", "test_resnet_isqrt", "-b", "6", "-vb", "5", "-j", "0"]
    assert main([*argv, "--device", "cpu", "--epochs", "1", "--output", str(tmp_path)]) == 2
    assert "with batches of 5 images: lower -vb or --img-size" in capsys.readouterr().err


def test_other_errors_stay(monkeypatch):
    from timm_gcp.training.out_of_memory import naming_the_batch

    with pytest.raises(RuntimeError, match="shapes"), naming_the_batch(1, torch.device("cpu"), ""):
        raise RuntimeError("shapes differ")
