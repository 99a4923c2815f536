"""Pictures of images come through the data set, whatever its kind."""

import base64
import io
import tarfile

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from torchvision import datasets
from torchvision.transforms import ToTensor

from timm_gcp.data.factory import create_dataset
from timm_gcp.reports.thumbnails import Thumbnails


def picture(uri):
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_image_folders(images):
    dataset = create_dataset("", images, "validation")
    dataset.transform = ToTensor()
    small = picture(Thumbnails(dataset).uri(5, 32))
    assert max(small.size) == 32
    whole = picture(Thumbnails(dataset).uri(5, 500))
    with Image.open(dataset.filename(5, absolute=True)) as original:
        assert whole.size == original.size
        difference = np.abs(np.asarray(whole, dtype=int) - np.asarray(original.convert("RGB"), dtype=int))
    assert difference.mean() < 25  # JPEG halves the resolution of colour; another image differs by 80
    assert dataset.transform is not None


def test_synthetic_and_torchvision_sets(tmp_path):
    textures = create_dataset("textures", split="validation")
    textures.transform = ToTensor()
    assert picture(Thumbnails(textures).uri(3, 40)).size == (40, 40)
    fake = datasets.FakeData(size=4, image_size=(3, 30, 50), transform=ToTensor())
    assert picture(Thumbnails(fake).uri(0, 25)).size == (25, 15)
    assert fake.transform is not None


def test_a_tar_file(images, tmp_path):
    """timm's own reader, whose images have no path."""
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(images / "validation", arcname=".")
    dataset = create_dataset("", tmp_path / "photos.tar")
    assert picture(Thumbnails(dataset).uri(35, 500)).size == (48, 40)


class Arrays(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return np.zeros((8, 8, 3)), 0


class Stream(IterableDataset):
    def __len__(self):
        return 1

    def __iter__(self):
        yield Image.new("RGB", (8, 8)), 0


def test_no_picture(caplog):
    assert not Thumbnails(Stream()).there
    assert Thumbnails(Stream()).uri(0, 8) is None
    assert Thumbnails(Arrays()).uri(1, 8) is None
    assert "No picture of image 1" in caplog.text


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_other_modes(mode, tmp_path):
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new("RGB", (20, 10), (200, 30, 30)).convert(mode).save(file)
    dataset = create_dataset("", tmp_path, "", input_img_mode=mode)
    red, green, _ = picture(Thumbnails(dataset).uri(0, 20)).convert("RGB").getpixel((5, 5))
    assert mode == "L" or red > green + 80
