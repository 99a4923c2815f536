"""Class order: compared with that of saved weights, and with the order in which timm reads a folder."""

import itertools
import logging

import pytest
import timm.data
import torch
from PIL import Image
from timm.utils.misc import natural_key

from tests.support.tools import write_images
from timm_gcp.commands.train import main as train
from timm_gcp.commands.train import parse_train_args
from timm_gcp.data import create_dataset
from timm_gcp.data.class_names import first_difference
from timm_gcp.data.folder_scan import natural_order
from timm_gcp.data.timm_differences import timm_differences
from timm_gcp.errors import GCPError
from timm_gcp.timm_scripts.hooks import ScriptHooks
from timm_gcp.training.class_names import check_resumed_classes, warn_of_other_classes

NAMES = ["coarse", "fine", "middle"]


def test_the_order_is_timms_and_has_no_ties():
    names = ["b10", "b2", "B3", "a", "", "10", "9", "x1y2", "x1y10", "ä", "é2"]
    assert sorted(names, key=natural_order) == sorted(names, key=natural_key)
    ties = ["01", "1", "001", "Cat", "cat", "CAT", "10²", "①", "٣"]
    orders = {tuple(sorted(given, key=natural_order)) for given in itertools.islice(itertools.permutations(ties), 2000)}
    assert len(orders) == 1


def test_names_with_digits_that_are_no_numbers(tmp_path):
    for name in ("①", "10²", "2"):
        write_picture(tmp_path / "train" / name / "a.png")
    assert create_dataset("", tmp_path, "train").class_names == ["2", "10²", "①"]


def write_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


class Named:
    def __init__(self, names):
        self.class_names = names


@pytest.mark.parametrize(
    ("here", "there", "said"),
    [
        (NAMES, NAMES, ""),
        (["fine", "coarse", "middle"], NAMES, "class 0 is 'fine' in the data set and 'coarse' in the weights"),
        (NAMES[:2], NAMES, "class 2 is nothing in the data set and 'middle' in the weights"),
        ([*NAMES, "new"], NAMES, "class 3 is 'new' in the data set and nothing in the weights"),
    ],
)
def test_first_difference(here, there, said):
    assert first_difference(here, there) == said


def test_resumed_run_keeps_its_classes():
    checkpoint = {"gcp": {"class_names": tuple(NAMES)}}
    check_resumed_classes(checkpoint, "last.pth.tar", NAMES)
    check_resumed_classes({}, "last.pth.tar", NAMES)
    check_resumed_classes(checkpoint, "last.pth.tar", None)
    with pytest.raises(GCPError, match=r"last.pth.tar was trained on other classes .* class 0 is 'fine'"):
        check_resumed_classes(checkpoint, "last.pth.tar", ["fine", "coarse", "middle"])


@pytest.mark.parametrize("given", ["model", "initial_checkpoint"])
def test_weights_of_another_order(given, tmp_path, caplog):
    args, _ = parse_train_args(["--model", "test_resnet_svdpade", "--pretrained"])
    model = torch.nn.Identity()
    model.pretrained_cfg = {"label_names": NAMES} if given == "model" else {}
    if given == "initial_checkpoint":
        args.initial_checkpoint = str(tmp_path / "x.pth.tar")
        torch.save({"epoch": 0, "state_dict": {}, "gcp": {"class_names": NAMES}}, args.initial_checkpoint)
    warn_of_other_classes(args, model, NAMES)
    warn_of_other_classes(args, model, ["a", "b"])  # of another number: the classifier is new
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        warn_of_other_classes(args, model, ["fine", "coarse", "middle"])
    assert "class 0 is 'fine' in the data set and 'coarse' in the weights" in caplog.text
    caplog.clear()
    args.pretrained, args.initial_checkpoint = False, ""
    warn_of_other_classes(args, model, ["fine", "coarse", "middle"])
    assert not caplog.text


def test_resume_on_other_folders(tmp_path):
    """As a run meets it: the folder of one class is renamed between two commands."""
    data = write_images(tmp_path / "data", per_class=2)
    command = [
        *("--data-dir", str(data), "--model", "test_resnet_isqrt", "--img-size", "64", "-b", "4", "-j", "0"),
        *("--warmup-epochs", "0", "--output", str(tmp_path), "--experiment", "run", "--device", "cpu"),
    ]
    assert train([*command, "--epochs", "1"]) == 0
    for split in ("train", "validation"):
        (data / split / "coarse").rename(data / split / "zebra")
    with pytest.raises(GCPError, match="class 0 is 'fine' in the data set and 'coarse' in the weights"):
        train([*command, "--epochs", "2", "--resume", "auto"])


def folder(tmp_path, *names):
    for name in names:
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    return tmp_path / "train"


def test_no_difference(tmp_path):
    assert timm_differences(timm.data.create_dataset("", str(folder(tmp_path, "a/0.jpg", "b/0.png")))) == []
    assert timm_differences(create_dataset("textures", split="train")) == []


def test_wrapped_scripts_say_where_timm_reads_otherwise(tmp_path, caplog):
    root = folder(tmp_path, "a/s0/0.jpg", "a/s1/0.jpg", "b/0.jpg", "b/1.webp")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 8)).save(root / "b" / "2.jpg", exif=exif)
    before = timm.data.create_dataset
    with ScriptHooks().installed(), caplog.at_level(logging.WARNING):
        dataset = timm.data.create_dataset("", root=str(root))
    assert timm.data.create_dataset is before
    assert sorted(dataset.reader.class_to_idx) == ["b", "s0", "s1"]  # timm's own reading is left as it is
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert "1 .webp" in said[0]
    assert "('b', 's0', 's1'); timm-gcp train takes the first level ('a', 'b')" in said[1]
    assert "1 of 4 that were looked at" in said[2]
