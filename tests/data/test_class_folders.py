"""Class folders: which level is the class, spellings of splits, and class maps and lists of any editor."""

import logging
import tarfile

import pytest
from PIL import Image

from timm_gcp.data import ReaderImageList, check_apart, create_dataset
from timm_gcp.data.class_counts import class_labels
from timm_gcp.data.image_folder import FolderReader
from timm_gcp.diagnosis import DiagnosisOptions
from timm_gcp.diagnosis.splits import open_splits
from timm_gcp.errors import GCPError
from timm_gcp.text_files import read_text


def photograph(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 40, 40)).save(path)
    return path


def labels(dataset):
    return [label for _, label in dataset.reader.samples]


@pytest.fixture
def nested(tmp_path):
    """Two classes; one is kept by session, the other has some images in a folder of their own."""
    for split in ("train", "validation"):
        for name in ("cat/session0/0.jpg", "cat/session1/0.jpg", "dog/0.jpg", "dog/edited/deep/0.jpg"):
            photograph(tmp_path / split / name)
    return tmp_path


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_class_is_the_first_level(nested, split, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = create_dataset("", nested, split)
    assert dataset.class_names == ["cat", "dog"]
    assert labels(dataset) == [0, 0, 1, 1]
    assert "3 images lie in folders within a class ('cat/session0', 'cat/session1', 'dog/edited/deep')" in caplog.text
    assert "--class-from leaf" in caplog.text


@pytest.mark.parametrize("split", ["train", "validation"])
def test_leaves(nested, split, caplog):
    dataset = create_dataset("", nested, split, class_from="leaf")
    assert dataset.class_names == ["deep", "dog", "session0", "session1"]
    photograph(nested / split / "dog" / "session0" / "0.jpg")
    with caplog.at_level(logging.WARNING):
        create_dataset("", nested, split, class_from="leaf")
    assert "'cat/session0', 'dog/session0' together make the class 'session0'" in caplog.text


def test_flat_classes_warn_of_nothing(tmp_path, caplog):
    photograph(tmp_path / "train" / "a" / "0.jpg")
    (tmp_path / "train" / "a" / "annotations").mkdir()
    with caplog.at_level(logging.WARNING):
        assert len(create_dataset("", tmp_path, "train")) == 1
    assert not caplog.text


def test_class_of_files_that_are_not_read(tmp_path, caplog):
    photograph(tmp_path / "train" / "a" / "0.jpg")
    for name in ("b/0.txt", "b/deep/1.txt", "a/note.txt"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).write_text("x")
    with pytest.raises(GCPError, match=r"no image of class 'b' \(files in 'b': 2 .txt"):
        create_dataset("", tmp_path, "train")
    photograph(tmp_path / "train" / "b" / "0.webp")
    with caplog.at_level(logging.WARNING):
        assert create_dataset("", tmp_path, "train").class_names == ["a", "b"]
    assert "3 files are not read as images: 3 .txt; the first is 'a/note.txt'" in caplog.text


def test_unknown_choice_of_class(nested):
    with pytest.raises(GCPError, match="use top or leaf"):
        FolderReader(nested, "train", class_from="stem")


@pytest.mark.parametrize(("train", "validation"), [("Train", "VAL"), ("TRAINING", "Validation"), ("train", "Eval")])
def test_splits_in_capitals(tmp_path, train, validation):
    for name in ("a", "b", "c"):
        photograph(tmp_path / train / name / "0.jpg")
    photograph(tmp_path / validation / "c" / "0.jpg")
    assert create_dataset("", tmp_path, "train").class_names == ["a", "b", "c"]
    evaluation = create_dataset("", tmp_path, "validation")
    assert labels(evaluation) == [2]
    assert labels(create_dataset("", tmp_path / validation, "")) == [2]


@pytest.mark.parametrize("name", ["train", "Train"])
def test_training_folder_alone(tmp_path, name):
    photograph(tmp_path / name / "a" / "0.jpg")
    with pytest.raises(GCPError, match=rf"only '{name}': give --val-fraction 0.2 .*, move .* to validation/<class>"):
        create_dataset("", tmp_path, "validation")
    for test in ("test", "Test"):
        photograph(tmp_path / test / "a" / "0.jpg")
        with pytest.raises(GCPError, match="choose one with --val-split"):
            create_dataset("", tmp_path, "validation")


def test_class_folders_without_splits(tmp_path):
    photograph(tmp_path / "a" / "0.jpg")
    with pytest.raises(GCPError, match=r"make it, as train/<class>.*--train-split '' --val-split ''"):
        create_dataset("", tmp_path, "train", is_training=True)


def test_tar_files_read_every_type(tmp_path):
    photograph(tmp_path / "x" / "cat" / "0.webp")
    photograph(tmp_path / "x" / "dog" / "0.jpg")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "x", "x")
    train, evaluation = (create_dataset("", tmp_path / "x.tar", split) for split in ("train", "validation"))
    assert len(train) == 2
    assert class_labels(train) is not None
    with pytest.raises(GCPError, match="images that are trained on, all 2 of them: give --val-split '' to train"):
        check_apart(train, evaluation, "train", "validation")
    splits, _ = open_splits(DiagnosisOptions(data_dir=str(tmp_path / "x.tar")))
    assert [split.name for split in splits] == ["all"]


CLASSES = "ant\nbee\ncat\n"
EDITORS = {
    "plain": CLASSES.encode(),
    "byte-order mark": b"\xef\xbb\xbf" + CLASSES.encode(),
    "Windows": CLASSES.replace("\n", "\r\n").encode("utf-8-sig"),
    "UTF-16": CLASSES.encode("utf-16"),
    "old Mac": CLASSES.replace("\n", "\r").encode(),
    "blank lines": b"\nant\n\n  bee \ncat\n\n\n",
}


@pytest.mark.parametrize("editor", EDITORS)
def test_class_maps_and_names_of_every_editor(tmp_path, editor):
    for name in ("ant", "bee", "cat"):
        photograph(tmp_path / "train" / name / "0.jpg")
    file = tmp_path / "classes.txt"
    file.write_bytes(EDITORS[editor])
    assert create_dataset("", tmp_path, "train", class_map=str(file)).class_names == ["ant", "bee", "cat"]
    assert create_dataset("", tmp_path, "train", class_map="classes.txt").num_classes == 3  # beside the data
    (tmp_path / "list.txt").write_text("train/ant/0.jpg, 0\n")
    assert ReaderImageList(tmp_path, "list").class_names == ["ant", "bee", "cat"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("ant\nbee\nant\n", "line 3, names the class 'ant' a second time"),
        ("ant\n\nbee\n\n ant\n", "line 5, names the class 'ant'"),
        ("\n \n", "names no class"),
    ],
)
def test_class_maps_are_checked(tmp_path, text, match):
    photograph(tmp_path / "train" / "ant" / "0.jpg")
    (tmp_path / "map.txt").write_text(text)
    with pytest.raises(GCPError, match=match):
        create_dataset("", tmp_path, "train", class_map=str(tmp_path / "map.txt"))


def test_text_that_is_none(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GCPError, match=r"--names x cannot be read \(it is not UTF-8 text\)"):
        read_text(tmp_path / "x", "--names x")
    with pytest.raises(GCPError, match="No such file"):
        read_text(tmp_path / "none")
    assert read_text(tmp_path / "x", strict=False)


def test_lists_of_windows(tmp_path):
    photograph(tmp_path / "train" / "ant" / "0.jpg")
    (tmp_path / "Train.txt").write_text("train\\ant\\0.jpg, 0\n.\\train\\ant\\0.jpg, 0\n")
    reader = ReaderImageList(tmp_path, "train")
    assert len(reader) == 2
    reader[0][0].close()
    for path in ("..\\x.jpg", "C:\\x.jpg", "\\x.jpg"):
        (tmp_path / "bad.txt").write_text(f"{path}, 0\n")
        with pytest.raises(GCPError, match="leaves the data set"):
            ReaderImageList(tmp_path, "bad")
