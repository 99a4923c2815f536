"""Loader processes that stay from epoch to epoch draw what new ones would, whatever starts them."""

import multiprocessing

import pytest
import torch
from timm.data import FastCollateMixup, create_loader
from timm.data.loader import PrefetchLoader
from timm.utils import random_seed

from timm_gcp.data import create_dataset
from timm_gcp.data.loaders import WorkerMixup, batch_names, training_loader

CPU = torch.device("cpu")
OPTIONS = {"input_size": (3, 24, 24), "batch_size": 8, "auto_augment": "rand-m9-mstd0.5", "color_jitter": 0.4,
           "re_prob": 0.5, "re_mode": "pixel", "scale": (0.1, 1), "device": CPU, "pin_memory": False}  # fmt: skip
MIX = {"mixup_alpha": 0.5, "cutmix_alpha": 0.5, "num_classes": 3}


def epoch_of(loader, epoch):
    """The batches of an epoch, as a run draws them."""
    random_seed(100 + epoch)
    return [torch.cat([images.flatten(), labels.flatten().float()]) for images, labels in loader]


def same(one, other):
    return len(one) == len(other) > 0 and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def method(request):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


METHODS = [
    pytest.param(name, marks=() if name == "fork" else pytest.mark.slow)
    for name in ("fork", "forkserver", "spawn")
    if name in multiprocessing.get_all_start_methods()
]


@pytest.mark.parametrize("method", METHODS, indirect=True)
def test_kept_workers_draw_as_new_ones(method, images):
    """Three epochs with kept workers; the last again with new ones (a resumed run); all as timm's own loader has it."""
    data = create_dataset("", images, "train", is_training=True)
    workers = 2 if method == "fork" else 1  # the others import torch anew
    with training_loader(data, workers=workers, seed=0, collate_fn=WorkerMixup(**MIX), **OPTIONS) as loader:
        pids, epochs = [], []
        for epoch in range(3):
            epochs.append(epoch_of(loader, epoch))
            pids.append({worker.pid for worker in loader._workers})
        assert pids[0] == pids[1] == pids[2]
        assert len(pids[0]) == workers
    assert not same(epochs[0], epochs[1])
    with training_loader(data, workers=workers, seed=0, collate_fn=WorkerMixup(**MIX), **OPTIONS) as resumed:
        assert same(epoch_of(resumed, 2), epochs[2])
    if method == "fork":
        plain = create_loader(
            data, is_training=True, num_workers=2, persistent_workers=False, worker_seeding=_seed,
            collate_fn=FastCollateMixup(**MIX), **OPTIONS,
        )  # fmt: skip
        for epoch in range(3):
            assert same(epoch_of(plain, epoch), epochs[epoch])


def _seed(worker):
    return worker.seed


def test_mixing_is_switched_off_in_running_workers(images):
    data = create_dataset("", images, "train", is_training=True)
    with training_loader(data, workers=1, seed=0, collate_fn=WorkerMixup(**MIX), **OPTIONS) as loader:
        assert isinstance(loader.loader, PrefetchLoader)
        random_seed(0)
        assert any(0 < labels.max(1).values.min() < 0.99 for _, labels in loader)
        loader.mixup_enabled = False
        assert all((labels.max(1).values > 0.8).all() for _, labels in loader)
        assert loader.mixup_enabled is False


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_named(workers, images):
    data = create_dataset("", images, "train", is_training=True)
    with training_loader(data, workers=workers, seed=0, **{**OPTIONS, "no_aug": True}) as loader:
        labels = [batch.tolist() for _, batch in loader]
        for index, batch in enumerate(labels):
            classes = [name.replace("\\", "/").split("/")[-2] for name in batch_names(loader, index)]
            assert [data.class_names[label] for label in batch] == classes
