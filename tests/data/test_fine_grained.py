"""The fine-grained data sets by name: miniatures in their official layouts, real JPEG files."""

import dataclasses
import functools
import hashlib
import http.server
import json
import os
import socket
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets

from timm_gcp.__main__ import main
from timm_gcp.data import FINE_GRAINED, StrictImageDataset, check_images, create_dataset
from timm_gcp.data.download import fetch_archive
from timm_gcp.errors import GCPError

COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
NAMES = {
    "cub": ["Black footed Albatross", "Laysan Albatross", "Sooty Albatross"],
    "nabirds": ["Common Eider (Adult male)", "Summer Tanager (Adult Male)", "Oak Titmouse"],
    "inat21-mini": ["Lumbricus terrestris", "Cyanistes caeruleus", "Papaver rhoeas"],
    "aircraft": ["707-320", "Boeing 717", "F/A-18"],
    "cars": ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"],
    "dogs": ["Chihuahua", "soft-coated wheaten terrier", "Maltese dog"],
    "flowers": ["pink primrose", "hard-leaved pocket orchid", "canterbury bells"],
    "pets": ["Abyssinian", "American Bulldog", "Egyptian Mau"],
    "food": ["apple pie", "baby back ribs", "waffles"],
    "dtd": ["banded", "lacelike", "polka-dotted"],
}
PER_CLASS = {"train": 3, "val": 1, "test": 2}  # images of a miniature; 'trainval' is the first two together


def picture(path: Path, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20), COLOURS[label]).save(path, "JPEG")


def entries(*splits):
    """(split, label, number) of every image, the classes in turn, as the official lists do not sort by split."""
    return [(split, label, i) for split in splits for i in range(PER_CLASS[split]) for label in range(3)]


def savemat(path, content):
    scipy.io.savemat(path, content)


def cells(strings):
    """A MATLAB cell array [N, 1] of strings."""
    column = np.empty((len(strings), 1), dtype=object)
    column[:, 0] = strings
    return column


def write_cub(folder):
    classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    images, labels, parts = [], [], []
    for number, (split, label, i) in enumerate(entries("train", "test"), 1):
        path = f"{classes[label]}/{split}_{i:04d}.jpg"
        picture(folder / "images" / path, label)
        images.append(f"{number} {path}")
        labels.append(f"{number} {label + 1}")
        parts.append(f"{number} {int(split == 'train')}")
    tables = {"images": images, "image_class_labels": labels, "train_test_split": parts}
    tables["classes"] = [f"{label} {name}" for label, name in enumerate(classes, 1)]
    for name, lines in tables.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def write_nabirds(folder):
    """Identifiers of images are UUIDs; the numbers of classes are those of the tree's nodes, padded in folders only."""
    numbers = [99, 817, 1010]
    lines = {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    for number, (split, label, _) in enumerate(entries("train", "test"), 1):
        image = f"{number:08x}-21dc-4d0c-bfe1-4cae3c85c829"
        path = f"{numbers[label]:04}/{image.replace('-', '')}.jpg"
        picture(folder / "images" / path, label)
        lines["images"].append(f"{image} {path}")
        lines["image_class_labels"].append(f"{image} {numbers[label]}")
        lines["train_test_split"].append(f"{image} {int(split == 'train')}")
    names = dict(zip(numbers, NAMES["nabirds"], strict=True))
    tree = {0: "Birds", 1: "Ducks, Geese, and Swans", **names, 400: "Titmice"}
    lines["classes"] = [f"{number} {tree[number]}" for number in sorted(tree)]
    lines["hierarchy"] = [f"{number} {int(number > 1)}" for number in sorted(tree) if number]
    for name, content in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(content) + "\n")


def write_inat(folder):
    ranks = ("Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae", "Animalia_Chordata_Aves_Passeriformes_Paridae")
    ranks += ("Plantae_Tracheophyta_Magnoliopsida_Ranunculales_Papaveraceae",)
    for split, label, i in entries("train", "val"):
        name = f"{label:05}_{ranks[label]}_{NAMES['inat21-mini'][label].replace(' ', '_')}"
        picture(folder / {"train": "train_mini", "val": "val"}[split] / name / f"{split}{i}.jpg", label)


def write_dtd(folder):
    (folder / "labels").mkdir(parents=True)
    for split in ("train", "val", "test"):
        paths = []
        for _, label, i in entries(split):
            paths.append(f"{NAMES['dtd'][label]}/{NAMES['dtd'][label]}_{split}{i}.jpg")
            picture(folder / "images" / paths[-1], label)
        (folder / "labels" / f"{split}1.txt").write_text("\n".join(paths) + "\n")


def write_aircraft(folder):
    lists = {split: [] for split in ("train", "val", "trainval", "test")}
    for number, (split, label, _) in enumerate(entries("train", "val", "test")):
        picture(folder / "data" / "images" / f"{number:07d}.jpg", label)
        for name in (split, "trainval") if split != "test" else (split,):
            lists[name].append(f"{number:07d} {NAMES['aircraft'][label]}")
    (folder / "data" / "variants.txt").write_text("\n".join(NAMES["aircraft"]) + "\n")
    for name, lines in lists.items():
        (folder / "data" / f"images_variant_{name}.txt").write_text("\n".join(lines) + "\n")


def write_cars(folder):
    (folder / "devkit").mkdir(parents=True)
    fields = [*((f"bbox_{side}", "u1") for side in ("x1", "y1", "x2", "y2")), ("class", "u1"), ("fname", "O")]
    for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = []
        for number, (_, label, _) in enumerate(entries(split), 1):
            picture(folder / f"cars_{split}" / f"{number:05d}.jpg", label)
            rows.append((1, 1, 20, 20, label + 1, f"{number:05d}.jpg"))
        savemat(folder / file, {"annotations": np.array([rows], dtype=fields)[0][None]})
    savemat(folder / "devkit/cars_meta.mat", {"class_names": cells(NAMES["cars"]).T})


def write_dogs(folder):
    breeds = ["n02085620-Chihuahua", "n02098105-soft-coated_wheaten_terrier", "n02085936-Maltese_dog"]
    for split in ("train", "test"):
        paths = [f"{breeds[label]}/{split}_{i}.jpg" for _, label, i in entries(split)]
        labels = [label for _, label, _ in entries(split)]
        for path, label in zip(paths, labels, strict=True):
            picture(folder / "Images" / path, label)
        column = np.array(labels, dtype=float)[:, None] + 1
        savemat(folder / f"{split}_list.mat", {"file_list": cells(paths), "labels": column})


def write_flowers(folder):
    every = entries("train", "val", "test")
    for number, (_, label, _) in enumerate(every, 1):
        picture(folder / "jpg" / f"image_{number:05d}.jpg", label)
    ids = {key: [[n for n, (s, _, _) in enumerate(every, 1) if s == split]]
           for key, split in (("trnid", "train"), ("valid", "val"), ("tstid", "test"))}  # fmt: skip
    savemat(folder / "setid.mat", {key: np.array(value, dtype="u2") for key, value in ids.items()})
    savemat(folder / "imagelabels.mat", {"labels": np.array([[label + 1 for _, label, _ in every]], dtype="u1")})


def write_pets(folder):
    (folder / "annotations").mkdir(parents=True)
    breeds = ["Abyssinian", "american_bulldog", "Egyptian_Mau"]
    for name, splits in (("trainval", ("train", "val")), ("test", ("test",))):
        lines = []
        for split, label, i in entries(*splits):
            picture(folder / "images" / f"{breeds[label]}_{split}{i}.jpg", label)
            lines.append(f"{breeds[label]}_{split}{i} {label + 1} {1 + (label == 1)} 1")
        (folder / "annotations" / f"{name}.txt").write_text("\n".join(lines) + "\n")


def write_food(folder):
    (folder / "meta").mkdir(parents=True)
    for split in ("train", "test"):
        table = {}
        for _, label, i in entries(split):
            kind = NAMES["food"][label].replace(" ", "_")
            picture(folder / "images" / kind / f"{split}{i}.jpg", label)
            table.setdefault(kind, []).append(f"{kind}/{split}{i}")
        (folder / "meta" / f"{split}.json").write_text(json.dumps(table))


WRITERS = {
    "cub": write_cub,
    "aircraft": write_aircraft,
    "cars": write_cars,
    "dogs": write_dogs,
    "flowers": write_flowers,
    "pets": write_pets,
    "food": write_food,
    "nabirds": write_nabirds,
    "inat21-mini": write_inat,
    "dtd": write_dtd,
}


def evaluated(name):
    """The split that is evaluated: the last one of the row."""
    return list(FINE_GRAINED[name].images)[-1]


def images_of(split):
    return 3 * sum(PER_CLASS[part] for part in (("train", "val") if split == "trainval" else (split,)))


@pytest.fixture
def miniature(tmp_path, monkeypatch):
    """Writes a data set and gives its row the numbers of the miniature."""
    # torchvision knows the checksums of the real lists, and all 102 names
    flowers = {key: (name, None) for key, (name, _) in datasets.Flowers102._file_dict.items()}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", flowers)
    monkeypatch.setattr(datasets.Flowers102, "classes", NAMES["flowers"], raising=False)

    def write(name):
        row = FINE_GRAINED[name]
        small = dataclasses.replace(row, classes=3, images={split: images_of(split) for split in row.images})
        monkeypatch.setitem(FINE_GRAINED, name, small)
        folder = tmp_path / row.folder
        WRITERS[name](folder)
        return folder

    return write


def refused(match, *args, **kwargs):
    with pytest.raises(GCPError, match=match) as error:
        create_dataset(*args, **kwargs)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("name", FINE_GRAINED)
def test_splits_labels_and_names(miniature, name):
    folder = miniature(name)
    lengths = {}
    for split in FINE_GRAINED[name].images:
        dataset = create_dataset(name, folder, split)
        assert isinstance(dataset, StrictImageDataset)
        assert dataset.class_names == NAMES[name]
        assert dataset.num_classes == 3
        assert len(dataset) == images_of(split)
        assert check_images(dataset, progress=False) == []
        for image, label in dataset:
            assert np.abs(np.asarray(image).mean((0, 1)) - COLOURS[label]).max() < 5
        assert {label for _, label in dataset} == {0, 1, 2}
        assert os.path.samefile(dataset.filename(0, absolute=True), folder / dataset.filename(0))
        lengths[split] = set(dataset.filenames())
    last = evaluated(name)
    assert not lengths[last] & set().union(*(files for split, files in lengths.items() if split != last))


@pytest.mark.parametrize("name", FINE_GRAINED)
def test_train_and_test_work_everywhere(miniature, name, monkeypatch):
    folder = miniature(name)
    row = FINE_GRAINED[name]
    train = create_dataset(name, folder.parent, "train", is_training=True)  # the parent serves too
    assert len(train) == row.images["train" if "train" in row.images else "trainval"]
    last = evaluated(name)
    assert len(create_dataset(name, folder, {"test": "testing", "val": "evaluation"}[last])) == row.images[last]
    monkeypatch.chdir(folder)
    assert len(create_dataset(name, ".", last)) == row.images[last]
    if "val" in row.images:
        assert len(create_dataset(name, folder, "validation")) == row.images["val"]
    else:
        message = refused("has no split 'validation', only", name, folder, "validation")
        assert message.endswith("choose one with --val-split test (validate: --split test).")
    assert "--train-split" in refused("has no split 'fold1'", name, folder, "fold1", is_training=True)


@pytest.mark.parametrize("name", FINE_GRAINED)
def test_incomplete_and_wrong_folders(miniature, name, tmp_path_factory):
    row, folder = FINE_GRAINED[name], miniature(name)
    images = sorted(folder.rglob("*.jpg"))
    last = evaluated(name)
    lost, number = create_dataset(name, folder, last).filename(0), images_of(last)
    (folder / lost).unlink()
    word = {"test": "test", "val": "validation"}[last]
    message = refused(f"{row.title} has {number} {word} images, {number - 1} were found", name, folder, last)
    assert repr(lost) in message or name == "inat21-mini"  # which has no lists that would name it
    assert "extract the archive again" in message
    assert len(images) > len(create_dataset(name, folder, "train"))  # another split is whole
    empty = tmp_path_factory.mktemp("empty")
    message = refused(f"is not {row.title}", name, empty, "train")
    assert ("--dataset-download" in message) == (row.fetch is not None)
    refused(f"is not {row.title}", name, empty / "none", "train")
    refused("--data-dir", name, None, "train")
    refused("--class-map is for image folders", name, folder, "train", class_map="map.txt")
    other = folder.rename(folder.with_name("renamed"))
    if row.any_name:
        assert len(create_dataset(name, other, "train")) == 9
    else:
        refused("rename '.*renamed'", name, other, "train")
    part = other / row.parts[-1]
    part.rename(part.with_name("elsewhere"))
    refused(f"is incomplete, '{row.parts[-1]}' is missing", name, other, "train")


def test_published_numbers():
    """Totals as the homepages give them; of the rows themselves, which the miniatures replace."""
    totals = {"cub": 11788, "aircraft": 10000, "cars": 16185, "dogs": 20580, "flowers": 8189, "pets": 7349}
    totals |= {"food": 101000, "nabirds": 48562, "inat21-mini": 600000, "dtd": 5640}
    for name, row in FINE_GRAINED.items():
        parts = set(row.images) - ({"train", "val"} if "trainval" in row.images else set())
        assert sum(row.images[split] for split in parts) == totals[name], name


def test_numbers_of_the_row_are_held(miniature, monkeypatch):
    folder = miniature("cub")
    monkeypatch.setitem(FINE_GRAINED, "cub", dataclasses.replace(FINE_GRAINED["cub"], images={"train": 8}))
    refused("CUB-200-2011 has 8 training images, 9 were found", "cub", folder, "train")
    monkeypatch.setitem(FINE_GRAINED, "cub", dataclasses.replace(FINE_GRAINED["cub"], images={"train": 9}, classes=4))
    refused("has 4 classes, 3 were found", "cub", folder, "train")


@pytest.mark.parametrize(
    ("file", "line", "match"),
    [
        ("images.txt", "99 ../../secret.jpg", "contradict each other at image 99"),
        ("images.txt", "1 again.jpg", "line 16: '1 again.jpg' is not a new identifier and a value"),
        ("classes.txt", "nonsense", "'nonsense' is not a new identifier and a value"),
    ],
)
def test_damaged_lists_of_cub(miniature, file, line, match):
    folder = miniature("cub")
    with open(folder / file, "a") as text:
        text.write(line)
    assert "extract the archive again" in refused(match, "cub", folder, "train")


def test_cub_and_nabirds_are_told_apart(miniature):
    """Their lists have the same names and the same format."""
    refused("is not CUB-200-2011.*--dataset nabirds", "cub", miniature("nabirds"), "train")
    refused("is not NABirds, which has 'hierarchy.txt'", "nabirds", miniature("cub"), "train")


def test_list_that_leaves_the_folder(miniature):
    folder = miniature("cub")
    picture(folder.parent / "secret.jpg", 0)
    lines = (folder / "images.txt").read_text().splitlines()
    (folder / "images.txt").write_text("\n".join(["1 ../../secret.jpg", *lines[1:]]))
    refused("9 training images, 8 were found", "cub", folder, "train")


def test_damaged_lists_of_others(miniature):
    folder = miniature("food")
    (folder / "meta" / "train.json").write_text("{")
    refused("cannot be read", "food", folder, "train")
    folder = miniature("dogs")
    (folder / "train_list.mat").write_bytes(b"no MATLAB file")
    refused("is not a list of Stanford Dogs", "dogs", folder, "train")
    paths = [path for path in create_dataset("dogs", folder, "test").filenames()]
    paths = [os.path.relpath(path, "Images") for path in paths]
    savemat(folder / "train_list.mat", {"file_list": cells(paths), "labels": np.ones((len(paths), 1))})
    refused("gives two breeds the same label", "dogs", folder, "train")


def test_damaged_folders_of_inat_and_dtd(miniature):
    folder = miniature("inat21-mini")
    second = next((folder / "val").glob("00001_*"))
    moved = second.rename(folder / "val" / second.name.replace("00001", "00007"))
    assert "extract val.tar.gz again" in refused("is not the folder of species 00001", "inat21-mini", folder, "val")
    moved.rename(folder / "val" / "00001_blue_tit")
    refused("00001_blue_tit' is not the folder of species 00001", "inat21-mini", folder, "val")
    folder = miniature("dtd")
    with open(folder / "labels" / "val1.txt", "a") as text:
        text.write("banded_0002.jpg")
    refused("line 4: 'banded_0002.jpg' is not a texture and an image", "dtd", folder, "trainval")


def test_unreadable_image_is_named(miniature):
    dataset = create_dataset("aircraft", miniature("aircraft"), "test")
    bad = Path(dataset.filename(2, absolute=True))
    bad.write_text("<html>not found</html>")
    with pytest.raises(GCPError, match=f"{bad.name}' cannot be read"):
        check_images(dataset, progress=False)
    dataset.skip_bad_images = True
    assert check_images(dataset, progress=False) == [str(bad)]
    assert len(dataset) == 5


# Downloads


@pytest.fixture
def server(tmp_path):
    """Serves a folder on the loopback."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def packed(folder, archive):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    return hashlib.md5(archive.read_bytes()).hexdigest()


@pytest.mark.parametrize("filters", [True, False])
def test_an_archive_that_leads_out_of_its_folder(filters, server, tmp_path, monkeypatch):
    """Also with a Python whose tarfile has no filters."""
    if not filters:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    elif not hasattr(tarfile, "data_filter"):
        pytest.skip("this Python has none")
    served, address = server
    archive = served / "bad.tgz"
    (tmp_path / "x").write_text("x")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "x", "../../outside")
    fetch = functools.partial(fetch_archive, f"{address}/bad.tgz", hashlib.md5(archive.read_bytes()).hexdigest())
    with pytest.raises(GCPError, match="cannot be extracted"):
        fetch(tmp_path / "new" / "bad", "Birds", "extract it yourself")
    assert not list(tmp_path.rglob("outside"))


@pytest.mark.parametrize("filters", [True, False])
def test_cub_is_downloaded_and_extracted(filters, miniature, server, tmp_path, monkeypatch, capsys):
    if not filters:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    served, address = server
    md5 = packed(miniature("cub"), served / "CUB_200_2011.tgz")
    row = FINE_GRAINED["cub"]

    def offer(url, md5):
        fetch = functools.partial(fetch_archive, url, md5)
        monkeypatch.setitem(FINE_GRAINED, "cub", dataclasses.replace(row, fetch=fetch))

    offer(f"{address}/CUB_200_2011.tgz", "0" * 32)
    assert "data.caltech.edu" in refused("arrived damaged", "cub", tmp_path / "new", "train", download=True)
    assert not (tmp_path / "new" / "CUB_200_2011.tgz").exists()
    offer(f"{address}/none.tgz", md5)
    assert "data.caltech.edu" in refused("404", "cub", tmp_path / "new", "train", download=True)
    offer(f"{address}/CUB_200_2011.tgz", md5)
    assert len(create_dataset("cub", tmp_path / "new", "train", download=True)) == 9
    assert "non-commercial" in capsys.readouterr().err
    assert not list((tmp_path / "new").glob(".*.tmp"))
    assert len(create_dataset("cub", tmp_path / "there" / "CUB_200_2011", "test", download=True)) == 6
    offer("http://127.0.0.1:1/gone.tgz", md5)
    assert len(create_dataset("cub", tmp_path / "new", "test", download=True)) == 6  # it is there
    (tmp_path / "new" / "CUB_200_2011" / "images.txt").unlink()
    refused("is there but incomplete: remove the folder", "cub", tmp_path / "new", "test", download=True)


def test_archive_that_cannot_be_extracted(miniature, server, tmp_path, monkeypatch):
    served, address = server
    miniature("cub")
    (served / "CUB_200_2011.tgz").write_bytes(b"no archive")
    fetch = functools.partial(
        fetch_archive, f"{address}/CUB_200_2011.tgz", hashlib.md5(b"no archive", usedforsecurity=False).hexdigest()
    )
    monkeypatch.setitem(FINE_GRAINED, "cub", dataclasses.replace(FINE_GRAINED["cub"], fetch=fetch))
    refused("cannot be extracted", "cub", tmp_path / "new", "train", download=True)
    assert [path.name for path in (tmp_path / "new").iterdir() if path.is_dir()] == []


def test_torchvision_downloads(miniature, server, tmp_path, monkeypatch):
    served, address = server
    packed(miniature("aircraft"), served / "fgvc-aircraft-2013b.tar.gz")
    monkeypatch.setattr(datasets.FGVCAircraft, "_URL", f"{address}/fgvc-aircraft-2013b.tar.gz")
    timeout = socket.getdefaulttimeout()
    assert len(create_dataset("aircraft", tmp_path / "new", "val", download=True)) == 3
    monkeypatch.setattr(datasets.FGVCAircraft, "_URL", "http://127.0.0.1:1/fgvc-aircraft-2013b.tar.gz")
    assert len(create_dataset("aircraft", tmp_path / "new", "val", download=True)) == 3  # it is there
    message = refused("FGVC-Aircraft cannot be downloaded", "aircraft", tmp_path / "other", "val", download=True)
    assert "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/" in message
    assert socket.getdefaulttimeout() == timeout


@pytest.mark.parametrize(("name", "where"), [("cars", "pytorch/vision/issues/7545"), ("dogs", "ImageNetDogs")])
def test_what_has_to_be_fetched_by_hand(name, where, tmp_path):
    assert where in refused("cannot be downloaded by --dataset-download", name, tmp_path, "train", download=True)


# The command


def test_training_by_name_ends_in_a_model_with_the_names(tmp_path, monkeypatch):
    small = dataclasses.replace(FINE_GRAINED["cub"], classes=3, images={"train": 9, "test": 6})
    monkeypatch.setitem(FINE_GRAINED, "cub", small)
    write_cub(tmp_path / "CUB_200_2011")
    data = ("--dataset", "cub", "--data-dir", str(tmp_path / "CUB_200_2011"), "--device", "cpu", "-b", "3", "-j", "0")
    arguments = ("--model", "test_resnet_isqrt", "--img-size", "64", "--epochs", "1", "--warmup-epochs", "0")
    output = ("--output", str(tmp_path / "runs"), "--experiment", "birds")
    assert main(["train", *data, *arguments, *output, "--train-split", "train", "--val-split", "test"]) == 0
    config = json.loads((tmp_path / "runs" / "birds" / "model" / "config.json").read_text())
    assert config["label_names"] == NAMES["cub"]
    last = tmp_path / "runs" / "birds" / "last.pth.tar"
    assert main(["validate", *data, "--checkpoint", str(last), "--split", "test"]) == 0
