"""Errors of the system while images are read are no fault of the images; the check of images can be stopped."""

import builtins
import errno
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from timm_gcp.commands.predict import main as predict
from timm_gcp.data import TextureDataset, UnreadableImageError, check_images, create_dataset, open_image
from timm_gcp.data.class_counts import class_counts, describe_counts
from timm_gcp.data.system_errors import LoaderError, ReadError

SYSTEM = ("EMFILE", "ENFILE", "ENOMEM", "EIO", "ESTALE", "ETIMEDOUT")
OF_FILES = ("ENOENT", "EACCES", "EISDIR")


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(("ant", "bee")):
        for number in range(3):
            file = tmp_path / "train" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (80 * label, 40 * number, 0)).save(file)
    return tmp_path


@pytest.fixture
def fail(monkeypatch):
    """Has the opening of one image fail with an error number."""

    def set_up(name, number):
        opened = builtins.open

        def failing(file, *args, **kwargs):
            if str(file).endswith(name):
                raise OSError(number, os.strerror(number), str(file))
            return opened(file, *args, **kwargs)

        monkeypatch.setattr(builtins, "open", failing)

    return set_up


@pytest.mark.parametrize("name", SYSTEM)
def test_no_image_is_skipped_for_an_error_of_the_system(folder, fail, name):
    dataset = create_dataset("", folder, "train", skip_bad_images=True)
    fail("bee/1.png", getattr(errno, name))
    for read in (lambda: check_images(dataset, progress=False), lambda: list(dataset)):
        with pytest.raises(ReadError, match=r"bee/1\.png'.*error of the system \(.+\): .+\.$") as error:
            read()
        assert not isinstance(error.value, UnreadableImageError)
        assert isinstance(error.value.__cause__, OSError)
    assert len(dataset) == 6
    assert not dataset.skipped
    with pytest.raises(ReadError):
        open_image(folder / "train" / "bee" / "1.png", "RGB")


@pytest.mark.parametrize("name", OF_FILES)
def test_a_file_at_fault_is_still_skipped(folder, fail, name, caplog):
    dataset = create_dataset("", folder, "train", skip_bad_images=True)
    fail("bee/1.png", getattr(errno, name))
    with caplog.at_level(logging.WARNING):
        assert len(check_images(dataset, progress=False)) == 1
    assert len(dataset) == 5
    with pytest.raises(UnreadableImageError):
        open_image(folder / "train" / "bee" / "1.png", "RGB")


def test_one_sentence_also_from_a_loader_process(folder, fail):
    dataset = create_dataset("", folder, "train", skip_bad_images=True, transform=lambda image: torch.zeros(1))
    fail("bee/1.png", errno.EIO)
    with pytest.raises(LoaderError) as error:  # LoaderError: a training run saves a checkpoint first
        list(DataLoader(dataset, 2, num_workers=1, multiprocessing_context="fork"))
    assert str(error.value).startswith("image '")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_predict_ends_where_the_system_fails(folder, fail):
    fail("bee/1.png", errno.EMFILE)
    with pytest.raises(ReadError, match="ulimit -n"):
        predict(["--model", "test_resnet_svdpade", "--device", "cpu", str(folder / "train")])


def test_an_interrupted_check_leaves_the_queued_images(folder, monkeypatch):
    """Ctrl-C while images are still being queued, where nothing else cancels them."""
    dataset, read, submit = create_dataset("", folder, "train"), [], ThreadPoolExecutor.submit
    dataset.reader.samples = dataset.reader.samples * 100

    def submit_some(self, work, index):
        if index == 200:
            raise KeyboardInterrupt
        return submit(self, work, index)

    def slow(index):
        read.append(index)
        time.sleep(0.01)

    monkeypatch.setattr(dataset, "read", slow)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit_some)
    with pytest.raises(KeyboardInterrupt):
        check_images(dataset, progress=False, workers=2)
    assert len(read) < 50


def test_textures_tell_their_counts():
    textures = TextureDataset("train", num_classes=3, images_per_class=4, target_transform=lambda label: 0)
    assert textures.targets == [0, 1, 2] * 4
    assert class_counts(textures, 3).tolist() == [4, 4, 4]
    assert describe_counts(textures, 3, textures.class_names) == "12 images, 4 per class"
