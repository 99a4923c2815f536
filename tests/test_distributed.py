"""Several processes without a rendezvous are refused in one sentence."""

import pytest

from timm_gcp.__main__ import main


@pytest.mark.parametrize(
    ("environment", "match"),
    [
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, "Slurm announces 2 tasks"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE is 4"),
    ],
)
def test_no_rendezvous_is_a_sentence(environment, match, images, capsys, monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "--data-dir", str(images), "--model", "test_resnet_svdpade", "--epochs", "4"]) == 2
    error = capsys.readouterr().err
    assert match in error
    assert "MASTER_ADDR and MASTER_PORT" in error
    assert "torchrun" in error
    assert error.count("\n") == 1
