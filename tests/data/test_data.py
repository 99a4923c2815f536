"""Data sets: layouts, refused folders, unreadable images, and the statistics of the textures."""

import io
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageDataset, create_loader
from torch.utils.data import DataLoader

from timm_gcp.data import (
    ReaderImageList,
    StrictImageDataset,
    TextureDataset,
    UnreadableImageError,
    check_images,
    create_dataset,
    write_textures,
)
from timm_gcp.errors import GCPError

NAMES = ["Golden-Delicious", "Whole, Milk", "Zucchini"]
COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40)]


def photograph(path: Path, colour=(200, 40, 40), size=(24, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def cut(path: Path) -> Path:
    """Cuts the end off a JPEG file of noise: its header is whole, its pixels are not."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-900])
    return path


@pytest.fixture
def grocery(tmp_path):
    """Three classes in the layout of the Grocery Store Dataset; the last is missing in val."""
    for split, number, labels in (("train", 3, (0, 1, 2)), ("val", 1, (0, 1)), ("test", 2, (0, 1, 2))):
        lines = []
        for label in labels:
            for index in range(number):
                path = f"{split}/Kind {label}/{label}_{index:03d}.jpg"
                photograph(tmp_path / path, COLOURS[label])
                lines.append(f"{path}, {label}, {label // 2}")
        (tmp_path / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "classes.csv").write_text(
        "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),Iconic Image Path (str)\n"
        + "".join(f'"{name}",{label},Coarse,{label // 2},/x.jpg\n' for label, name in enumerate(NAMES))
    )
    (tmp_path / "LICENSE.txt").write_text("Permission is hereby granted, free of charge\n")
    return tmp_path


@pytest.fixture
def folders(tmp_path):
    """An image folder whose validation split lacks the first class."""
    for split, names in (("train", ("ant", "bee", "cat")), ("validation", ("bee", "cat"))):
        for name in names:
            for index in range(2):
                photograph(tmp_path / split / name / f"{index}.jpg", COLOURS["abc".index(name[0])])
    return tmp_path


def refused(match, *args, **kwargs):
    with pytest.raises(GCPError, match=match) as error:
        create_dataset(*args, **kwargs)
    message = str(error.value)
    assert "\n" not in message
    return message


# List files


@pytest.mark.parametrize(
    ("split", "length"),
    [("train", 9), ("training", 9), ("val", 2), ("validation", 2), ("valid", 2), ("test", 6), ("test.txt", 6)],
)
def test_lists_give_images_labels_and_names(grocery, split, length):
    dataset = create_dataset("grocery", grocery, split)
    assert isinstance(dataset, ImageDataset)
    assert len(dataset) == length
    assert dataset.num_classes == 3
    assert dataset.class_names == NAMES
    for index in range(length):
        image, label = dataset[index]
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image).mean((0, 1)) - COLOURS[label]).max() < 5
    name = dataset.filenames()[0]
    assert name.endswith(os.path.join("Kind 0", "0_000.jpg"))
    assert not os.path.isabs(name)
    assert dataset.filename(0, basename=True) == "0_000.jpg"
    assert os.path.samefile(dataset.filenames(absolute=True)[0], grocery / name)


def test_list_of_any_name_serves_as_a_split(grocery):
    lines = (grocery / "train.txt").read_text().splitlines()
    (grocery / "fold0-val.txt").write_text("\n".join(lines[:2]))
    assert len(create_dataset("list", grocery, "fold0-val")) == 2
    # a fold is no training split by its name; when it is trained on, every class must be there
    message = refused("no image of class", "list", grocery, "fold0-val", is_training=True)
    assert "'Whole, Milk', 'Zucchini'" in message


def test_lists_go_through_timm_s_loader(grocery):
    dataset = create_dataset("list", grocery, "train", input_img_mode="L")
    loader = create_loader(
        dataset, (1, 16, 16), 4, mean=(0.5,), std=(0.5,), use_prefetcher=False, num_workers=0, persistent_workers=False
    )
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [4, 4, 1]
    assert batches[0][0].shape == (4, 1, 16, 16)
    assert torch.cat([labels for _, labels in batches]).tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_number_of_classes_without_names_is_that_of_all_lists(grocery):
    (grocery / "classes.csv").unlink()
    dataset = create_dataset("list", grocery, "val")
    assert dataset.class_names is None
    assert dataset.num_classes == 3
    (grocery / "classes.txt").write_text("a\nb\nc\nd\n")
    assert create_dataset("list", grocery, "val").class_names == ["a", "b", "c", "d"]
    refused("no image of class 'd'", "list", grocery, "train")


def test_lists_as_windows_and_spreadsheets_write_them(grocery):
    photograph(grocery / "a, b.jpg")
    (grocery / "odd.txt").write_bytes('\ufeff"a, b.jpg",2\r\n\r\ntrain/Kind 0/0_000.jpg ,0 ,0\r\n'.encode())
    reader = ReaderImageList(grocery, "odd")
    assert [label for _, label in reader.samples] == [2, 0]
    assert reader.filenames() == ["a, b.jpg", os.path.join("train", "Kind 0", "0_000.jpg")]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("train/Kind 0/0_000.jpg", "is not 'path, label'"),
        ("train/Kind 0/0_000.jpg, 1, 2, 3", "is not 'path, label'"),
        ("train/Kind 0/0_000.jpg, apple", "label 'apple' is not a whole number"),
        ("train/Kind 0/0_000.jpg, -1", "label '-1' is not a whole number"),
        ("train/Kind 0/0_000.jpg, 1.5", "label '1.5' is not a whole number"),
        ("train/Kind 0/0_000.jpg, 1, x", "coarse label 'x' is not a whole number"),
        ("train/Kind 0/0_000.jpg, 3", "label 3 is outside the 3 classes that 'classes.csv' names"),
        ("train/Kind 0/none.jpg, 1", "there is no file 'train/Kind 0/none.jpg'"),
        ("../outside.jpg, 1", "leaves the data set"),
        ("train/../../outside.jpg, 1", "leaves the data set"),
        (", 1", "is not 'path, label'"),
        ("x" * 200_000 + ", 1", "is not 'path, label'"),
    ],
)
def test_bad_line_is_named_by_file_and_number(grocery, line, match):
    photograph(grocery.parent / "outside.jpg")
    with open(grocery / "val.txt", "a") as file:
        file.write(f"\n{line}\n")
    message = refused(match, "list", grocery, "val")
    assert "val.txt', line 4" in message
    # a line that is wrong elsewhere does not stop another split
    assert len(create_dataset("list", grocery, "test")) == 6


def test_absolute_path_is_refused(grocery):
    (grocery / "abs.txt").write_text(f"{grocery.absolute() / 'train' / 'Kind 0' / '0_000.jpg'}, 0\n")
    refused("leaves the data set", "list", grocery, "abs")


def test_missing_lists_and_folders_name_what_there_is(grocery, tmp_path_factory):
    refused("no-such' is not a folder", "list", grocery / "no-such", "train")
    refused("--data-dir", "list", None, "train")
    (grocery / "val.txt").unlink()
    message = refused("no list for split 'validation'", "list", grocery, "validation")
    assert "only test.txt, train.txt" in message
    assert "--val-split test" in message
    refused("holds no list 'train.txt'", "list", tmp_path_factory.mktemp("empty"), "train")
    refused("no list for split", "list", grocery, "../train")
    (grocery / "blank.txt").write_text("\n\n")
    refused("lists no image", "list", grocery, "blank")
    (grocery / "binary.txt").write_bytes(b"\xff\xfe\x00")
    refused("not UTF-8", "list", grocery, "binary")


def test_class_without_a_training_image_is_named(grocery):
    lines = (grocery / "train.txt").read_text().splitlines()
    (grocery / "train.txt").write_text("\n".join(line for line in lines if ", 1, " not in line))
    refused("no image of class 'Whole, Milk'", "list", grocery, "train")
    assert len(create_dataset("list", grocery, "val")) == 2
    # without names an absurd label must not make a list of all the classes that it implies
    (grocery / "classes.csv").unlink()
    with open(grocery / "train.txt", "a") as file:
        file.write("\ntrain/Kind 0/0_000.jpg, 999999999\n")
    refused(r"class '1', '3', '4', '5', '6' and \d+ more", "list", grocery, "train")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name,id\na,0\n", "has no columns"),
        ("Class Name (str),Class ID (int)\na,0\nb,x\n", "new whole number"),
        ("Class Name (str),Class ID (int)\na,0\nb,0\n", "new whole number"),
        ("Class Name (str),Class ID (int)\na,0\nb,2\n", "names no class 1"),
        ("Class Name (str),Class ID (int)\na,0\na,1\n", "names the class 'a' twice"),
        ("Class Name (str),Class ID (int)\n", "names no class"),
    ],
)
def test_bad_table_of_classes(grocery, text, match):
    (grocery / "classes.csv").write_text(text)
    refused(match, "list", grocery, "train")


# Image folders


def test_folders_number_the_classes_as_the_training_split_does(folders):
    train = create_dataset("", folders, "train")
    assert train.class_names == ["ant", "bee", "cat"]
    assert [label for _, label in train] == [0, 0, 1, 1, 2, 2]
    for root, split in ((folders, "validation"), (folders, "val"), (folders / "validation", "")):
        evaluation = create_dataset("", root, split)
        assert evaluation.class_names == train.class_names
        assert evaluation.num_classes == 3
        assert [label for _, label in evaluation] == [1, 1, 2, 2]
    # timm itself would number bee 0
    assert [label for _, label in ImageDataset(str(folders / "validation"))] == [0, 0, 1, 1]


def test_folders_refuse_what_timm_would_misread(folders):
    refused("does not exist", "", folders / "none", "train")
    refused("--data-dir", "", None, "train")
    assert "only train, validation" in refused("no folder for split 'test'", "", folders, "test")
    refused("no folder for split", "", folders, "train[:50%]")
    photograph(folders / "validation" / "dog" / "0.jpg")
    refused("class 'dog', which '.*train' lacks", "", folders, "validation")
    (folders / "train" / "fly").mkdir()
    refused("no image of class 'fly'", "", folders, "train")
    (folders / "train" / "fly" / "notes.txt").write_text("none yet")
    refused("no image of class 'fly'", "", folders, "train")
    (folders / "train" / "fly" / ".cache").mkdir()
    photograph(folders / "train" / "fly" / ".cache" / "0.jpg")
    refused("hidden folder 'fly/.cache'", "", folders, "train")
    photograph(folders / "train" / "stray.jpg")
    refused("outside its class folders", "", folders, "train")


def test_plain_class_folders_serve_to_evaluate_only(tmp_path):
    for name in ("bus", "train"):  # a class called train is not a split
        photograph(tmp_path / name / "0.jpg")
    assert create_dataset("", tmp_path, "validation").class_names == ["bus", "train"]
    assert create_dataset("", tmp_path, "", is_training=True).num_classes == 2
    refused("no folder 'train'|no class folders", "", tmp_path, "train", is_training=True)
    refused("no folder 'other'", "", tmp_path, "other")


def test_splits_without_class_folders_are_not_classes(tmp_path):
    for name in ("train", "validation"):
        photograph(tmp_path / name / "0.jpg")
    refused("train' holds no class folders", "", tmp_path, "train")
    refused("validation' holds no class folders", "", tmp_path, "validation")


def test_folder_without_images(tmp_path):
    (tmp_path / "train" / "ant").mkdir(parents=True)
    (tmp_path / "train" / "ant" / "a.txt").write_text("x")
    refused("holds no image", "", tmp_path, "train")
    with pytest.raises(GCPError, match="is not a folder"):
        create_dataset("", tmp_path / "train" / "ant" / "a.txt", "train")


def test_leaves_of_a_class_tree(tmp_path):
    for path in ("fruit/apple", "fruit/pear", "milk"):
        photograph(tmp_path / "train" / path / "0.jpg")
    (tmp_path / "train" / "milk" / "annotations").mkdir()  # lies within a class, is none
    leaf = {"class_from": "leaf"}
    assert create_dataset("", tmp_path, "train", **leaf).class_names == ["apple", "milk", "pear"]
    (tmp_path / "train" / "fruit" / "plum").mkdir()
    refused("no image of class 'fruit.plum'", "", tmp_path, "train", **leaf)


def test_class_map(folders, caplog):
    (folders / "map.txt").write_text("cat\nbee\n\n")
    with caplog.at_level(logging.WARNING):
        dataset = create_dataset("", folders, "train", class_map=str(folders / "map.txt"))
    assert "ant" in caplog.text
    assert dataset.class_names == ["cat", "bee"]
    assert [label for _, label in dataset] == [1, 1, 0, 0]
    assert len(create_dataset("", folders, "validation", class_map={"cat": 0, "ant": 1})) == 2
    refused("no image of class 'dog'", "", folders, "train", class_map={"cat": 0, "dog": 1})
    refused("cannot be read", "", folders, "train", class_map="none.txt")
    refused("not a .txt file", "", folders, "train", class_map="map.pkl")
    refused("--class-map is for image folders", "list", folders, "train", class_map="map.txt")


def test_other_image_types_by_input_key(tmp_path):
    photograph(tmp_path / "train" / "ant" / "0.webp")
    refused("holds no image", "", tmp_path, "train", input_key=".png")
    assert len(create_dataset("", tmp_path, "train", input_key=".webp;.png")) == 1


# timm's other data sets


def test_unknown_names_and_missing_packages_are_sentences(tmp_path, monkeypatch):
    assert "did you mean 'grocery'" in refused("unknown", "grocerry", tmp_path, "train")
    refused("unknown", "nowhere/cats", tmp_path, "train")
    assert "Unknown torchvision dataset nonsense" in refused("cannot be opened", "torch/nonsense", tmp_path, "train")
    refused("Dataset not found", "torch/cifar10", tmp_path, "train")
    refused("cannot be opened", "", tmp_path_tar(tmp_path), "train")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install datasets" in refused("not installed", "hfds/some/thing", None, "train")


def tmp_path_tar(folder):
    (folder / "broken.tar").write_bytes(b"no tar file")
    return folder / "broken.tar"


def test_torchvision_data_set_has_names(folders):
    dataset = create_dataset("torch/image_folder", folders, "train", batch_size=4)
    assert dataset.class_names == ["ant", "bee", "cat"]
    assert dataset.num_classes == 3


# Unreadable images


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "png", "gone"])
@pytest.mark.parametrize("name", ["", "list"])
def test_unreadable_image_is_named(folders, name, damage):
    bad = folders / "train" / "bee" / "0.jpg"
    (folders / "train.txt").write_text("".join(f"train/{c}/0.jpg, {i}\n" for i, c in enumerate(("ant", "bee", "cat"))))
    dataset = create_dataset(name, folders, "train")
    if damage == "cut":
        cut(bad)
    elif damage == "text":
        bad.write_text("<html>not found</html>")
    elif damage == "empty":
        bad.write_bytes(b"")
    elif damage == "png":  # Pillow raises SyntaxError at this one, which timm does not catch
        photograph(folders / "ok.png")
        data = bytearray((folders / "ok.png").read_bytes())
        data[37:41] = b"\xff\xff\xff\xff"
        bad.write_bytes(data)
    else:
        bad.unlink()
    index = [label for _, label in dataset.reader.samples].index(1)
    with pytest.raises(UnreadableImageError, match=r"0\.jpg' cannot be read \(.*--skip-bad-images") as error:
        dataset[index]
    assert str(bad) in str(error.value)
    with pytest.raises(GCPError, match=r"0\.jpg' cannot be read"):
        check_images(dataset, progress=False)
    dataset.skip_bad_images = True
    assert dataset[index][1] == dataset[index + 1][1]
    assert dataset.skipped == [str(bad)]
    dataset[index]
    assert len(dataset.skipped) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_sentence_survives_a_loader_worker(folders, workers):
    cut(folders / "train" / "cat" / "1.jpg")
    dataset = create_dataset("", folders, "train")
    dataset.transform = np.array
    with pytest.raises(GCPError) as error:
        list(DataLoader(dataset, batch_size=2, num_workers=workers))
    assert str(error.value).startswith("image '")
    assert "\n" not in str(error.value)
    assert ("Traceback" in error.value.args[0]) == bool(workers)


def test_check_drops_what_it_skips(folders, caplog):
    bad = [cut(folders / "train" / name / "1.jpg") for name in ("ant", "cat")]
    message = None
    with pytest.raises(GCPError) as error:
        check_images(create_dataset("", folders, "train"), progress=False)
    message = str(error.value)
    assert message.startswith("2 of 6 images cannot be read")
    assert all(str(path) in message for path in bad)
    dataset = create_dataset("", folders, "train", skip_bad_images=True)
    with caplog.at_level(logging.WARNING):
        assert check_images(dataset, workers=2) == [str(path) for path in bad]
    assert "Skipped 2 unreadable images of 6" in caplog.text
    assert all(str(path) in caplog.text for path in bad)
    assert len(dataset) == 4
    assert [label for _, label in dataset] == [0, 1, 1, 2]
    assert check_images(dataset, progress=False) == []
    cut(folders / "train" / "ant" / "0.jpg")
    with pytest.raises(GCPError, match="no image of class 'ant' can be read"):
        check_images(dataset, progress=False)
    assert len(dataset) == 4


def test_all_images_unreadable(tmp_path):
    cut(photograph(tmp_path / "train" / "ant" / "0.jpg"))
    dataset = create_dataset("", tmp_path, "train", skip_bad_images=True)
    with pytest.raises(GCPError, match="none of the 1 images"):
        dataset[0]
    with pytest.raises(GCPError, match="none of the 1 images"):
        check_images(dataset, progress=False)


def test_check_leaves_other_data_sets_alone(folders):
    assert check_images(create_dataset("textures", split="train")) == []
    assert check_images(create_dataset("torch/image_folder", folders, "train")) == []


def test_strict_dataset_ends_and_keeps_bytes(folders):
    dataset = create_dataset("", folders, "train", load_bytes=True)
    assert isinstance(dataset, StrictImageDataset)
    assert dataset[0][0] == (folders / "train" / "ant" / "0.jpg").read_bytes()
    with pytest.raises(IndexError):
        dataset[len(dataset)]


# Textures


def test_textures_repeat_and_differ():
    dataset = TextureDataset("train", img_size=32)
    again = create_dataset("textures", None, "training", img_size=32, images_per_class=10)
    assert len(dataset) == 800
    assert len(again) == 80
    assert np.array_equal(dataset[17][0], again[17][0])  # not by the number of images, nor by what was read before
    other = [TextureDataset("validation", img_size=32), TextureDataset("train", img_size=32, seed=1)]
    for different in (dataset[25][0], *(o[17][0] for o in other)):
        assert not np.array_equal(dataset[17][0], different)
    image, label = again[17]
    assert (image.mode, image.size, label) == ("RGB", (32, 32), 1)
    assert create_dataset("textures", split="test", input_img_mode="L")[0][0].mode == "L"
    assert [again[i][1] for i in range(9)] == [0, 1, 2, 3, 4, 5, 6, 7, 0]
    with pytest.raises(IndexError):
        again[80]


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("no split 'fold'", {"split": "fold"}),
        ("2 to 12 classes", {"num_classes": 13}),
        ("2 to 12 classes", {"num_classes": 1}),
        ("at least 1 image", {"images_per_class": 0}),
        ("too small", {"img_size": 8}),
        ("seed", {"seed": -1}),
        ("takes no argument 'colour'", {"colour": 1}),
    ],
)
def test_bad_texture_arguments(match, arguments):
    refused(match, "textures", None, **{"split": "train", **arguments})


def held_out_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Least squares onto one-hot labels, the halves exchanged."""
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    features = np.c_[features, np.ones(len(features))]
    targets = np.eye(labels.max() + 1)[labels]
    halves = np.arange(len(labels)) // (labels.max() + 1) % 2
    hits = 0
    for half in (0, 1):
        fit, held = halves != half, halves == half
        gram = features[fit].T @ features[fit] + np.eye(features.shape[1])
        hits += (
            (features[held] @ np.linalg.solve(gram, features[fit].T @ targets[fit])).argmax(1) == labels[held]
        ).sum()
    return hits / len(labels)


def test_textures_tell_nothing_on_average_and_much_in_their_covariance():
    classes, number = 12, 40
    dataset = TextureDataset("train", classes, number, img_size=48)
    images = np.stack([np.asarray(image) for image, _ in dataset]) / 255.0
    labels = np.array([label for _, label in dataset])
    flat = images.reshape(len(images), -1, 3)

    # first order: mean and spread of every channel, over a class, are those of all (standard errors from the images)
    for statistic in (flat.mean(1), flat.var(1), np.quantile(flat, 0.9, axis=1)):
        by_class = np.stack([statistic[labels == label].mean(0) for label in range(classes)])
        error = statistic.std(0) / np.sqrt(number)
        assert np.abs((by_class - statistic.mean(0)) / error).max() < 4
    chance = 1 / classes
    assert held_out_accuracy(flat.mean(1), labels) < chance + 0.06
    histograms = np.stack([np.quantile(flat[..., c], np.linspace(0.05, 0.95, 10), axis=1) for c in range(3)])
    assert held_out_accuracy(histograms.transpose(2, 0, 1).reshape(len(images), -1), labels) < chance + 0.06

    # second order: the covariance of the channels finds the pair of threads; neighbours tell warp from weft
    def covariances(vectors):
        vectors = vectors - vectors.mean(1, keepdims=True)
        sigma = vectors.transpose(0, 2, 1) @ vectors / vectors.shape[1]
        rows, columns = np.triu_indices(sigma.shape[1])
        return sigma[:, rows, columns]

    colour = held_out_accuracy(covariances(flat), labels)
    step = 3
    patches = np.concatenate([images[:, :-step, :-step], images[:, step:, :-step], images[:, :-step, step:]], -1)
    joint = held_out_accuracy(covariances(patches.reshape(len(images), -1, 9)), labels)
    assert 0.25 < colour < 0.6  # six pairs: at most half, warp and weft being alike
    assert joint > 0.75


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_for_terminals(folders, tmp_path, monkeypatch, terminal):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    check_images(create_dataset("", folders, "train"))
    write_textures(tmp_path / "cloth", 2, 1, 1, img_size=16)
    assert [name in stream.getvalue() for name in ("checking images", "textures")] == [terminal, terminal]


def test_written_textures_are_an_image_folder(tmp_path):
    root = write_textures(tmp_path / "cloth", 3, images_per_class=2, validation_per_class=1, img_size=16, seed=5)
    assert os.listdir(tmp_path) == ["cloth"]
    for split, number in (("train", 2), ("validation", 1)):
        source = TextureDataset(split, 3, number, img_size=16, seed=5)
        written = create_dataset("", root, split)
        assert sorted(written.class_names) == sorted(source.class_names)
        assert sorted(written.filenames()) == sorted(source.filenames())
        by_name = {name: written[index] for index, name in enumerate(written.filenames())}
        for index, name in enumerate(source.filenames()):
            image, label = by_name[name]
            assert np.array_equal(image, source[index][0])
            assert written.class_names[label] == source.class_names[source[index][1]]
    with pytest.raises(GCPError, match="exists already"):
        write_textures(root, progress=False)
    (tmp_path / "blank").mkdir()
    write_textures(tmp_path / "blank", 2, 1, 1, img_size=16, progress=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(GCPError, match="cannot be written"):
        write_textures(tmp_path / "file" / "below", 2, 1, 1, img_size=16, progress=False)
    assert sorted(os.listdir(tmp_path)) == ["blank", "cloth", "file"]


def test_links_that_lead_back_do_not_repeat_images(folders):
    (folders / "train" / "ant" / "loop").symlink_to(folders / "train")
    assert len(create_dataset("", folders, "train", is_training=True)) == 6


def test_messages_name_the_options_of_the_command(tmp_path):
    """A split that is missing, of training and of evaluation; a list that would be read with another --dataset."""
    photograph(tmp_path / "ant" / "0.jpg")
    text = refused("no folder 'train'", "", tmp_path, "train")
    assert "validate: --split; embed: --splits" in text
    assert "--train-split" not in text
    assert "--train-split" in refused("no folder 'train'", "", tmp_path, "train", is_training=True)
    for name, dataset in (("train.csv", "multilabel"), ("train.txt", "list")):
        (tmp_path / name).write_text("")
        assert f"For the list {name} give --dataset {dataset}." in refused("no folder 'train'", "", tmp_path, "train")


def test_splits_are_not_taken_for_classes(folders):
    assert "holds splits (train, validation)" in refused("name a split", "", folders, "", is_training=True)


def test_classes_that_differ_by_capital_letters_are_named(tmp_path, caplog):
    for name in ("Robin", "robin", "Wren"):
        photograph(tmp_path / "train" / name / "0.jpg")
    assert create_dataset("", tmp_path, "train").num_classes == 3
    assert "capital letters alone, and count as several: 'Robin', 'robin'." in caplog.text
