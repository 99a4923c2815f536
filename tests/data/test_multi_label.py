"""CSV files of images with any number of labels."""

import pytest
import torch

from tests.support.multi_label_images import CLASSES, write_multi_label
from timm_gcp import GCPError
from timm_gcp.data import check_images, create_dataset, divide
from timm_gcp.data.class_counts import class_counts, describe_counts
from timm_gcp.data.holdout import split_to_divide


@pytest.fixture
def photos(tmp_path):
    return write_multi_label(tmp_path / "data", (("train", 8), ("val", 4)))


def opened(folder, split="train", **more):
    return create_dataset("multilabel", folder, split, **more)


def targets(dataset):
    return [dataset[index][1].tolist() for index in range(len(dataset))]


def test_labels_in_one_cell(photos):
    dataset = opened(photos)
    assert dataset.class_names == sorted(CLASSES)
    assert dataset.num_classes == 3
    assert dataset.multi_label
    # green, red, striped, from the bits of the index
    assert targets(dataset) == [[float(i >> 1 & 1), float(i & 1), float(i >> 2 & 1)] for i in range(8)]
    assert dataset[3][1].dtype == torch.float32
    assert class_counts(dataset, 3).tolist() == [4, 4, 4]
    assert describe_counts(dataset, 3, dataset.class_names) == "8 images (1 without a label), 4 per class"


def test_columns_of_zeros_and_ones(photos):
    """The order of the columns is that of the classes; another file may have them in another order."""
    rows = [f"photos/train-{i}.jpg,{i & 1},{i >> 1 & 1},{i >> 2 & 1}" for i in range(8)]
    (photos / "train.csv").write_text("\n".join(["image,red,green,striped", *rows]))
    rows = [f"photos/val-{i}.jpg, {i >> 2 & 1}.0, {i & 1}.0, {i >> 1 & 1}.0" for i in range(4)]
    (photos / "val.csv").write_text("\n".join(["image,striped,red,green", *rows]))
    dataset, evaluation = opened(photos), opened(photos, "validation")
    assert dataset.class_names == evaluation.class_names == list(CLASSES)
    for each in (dataset, evaluation):
        assert targets(each) == [[float(i >> bit & 1) for bit in range(3)] for i in range(len(each))]


def test_other_separator_and_line_ends(photos):
    text = (photos / "train.csv").read_text().replace(";", " | ").replace("\n", "\r\n")
    before = targets(opened(photos))
    (photos / "train.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert targets(opened(photos)) == before


def test_classes_of_a_file(photos):
    (photos / "classes.txt").write_text("striped\nred\ngreen\nnever\n")
    dataset = opened(photos)
    assert dataset.class_names == ["striped", "red", "green", "never"]
    assert targets(dataset)[5] == [1.0, 1.0, 0.0, 0.0]
    assert "none of never" in describe_counts(dataset, 4, dataset.class_names)


def test_a_part_is_held_out(photos):
    assert split_to_divide("multilabel", str(photos), "train", "validation", 0.25) is None
    (photos / "val.csv").unlink()
    assert split_to_divide("multilabel", str(photos), "train", "validation", 0.25) == "train"
    train, held = divide(opened(photos), 0.25, seed=0)
    assert (len(train), len(held)) == (6, 2)
    assert {train.filename(i) for i in range(6)}.isdisjoint(held.filename(i) for i in range(2))
    assert held.multi_label


def test_bad_images_are_left_out(photos):
    (photos / "photos" / "train-7.jpg").write_bytes(b"no image")
    with pytest.raises(GCPError, match="cannot be read"):
        check_images(opened(photos), progress=False)
    dataset = opened(photos, skip_bad_images=True)
    check_images(dataset, progress=False)
    assert len(dataset) == 7


def test_rows_without_content_are_left_out(photos):
    (photos / "train.csv").write_text("image,labels\nphotos/train-1.jpg,red\n,\n   \n")
    assert len(opened(photos, "train")) == 1


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("train", "", "begins with ''"),
        ("train", "path,labels\n", "begins with 'path,labels'"),
        ("train", "image,labels\n", "names no class"),
        (
            "train",
            "image,labels\nphotos/train-1.jpg,red\nphotos/none.jpg,red\n",
            "line 3: there is no file 'photos/none",
        ),
        ("train", "image,labels\n../out.jpg,red\n", "line 2: path '../out.jpg' leaves the data set"),
        ("train", "image,labels\nphotos/train-1.jpg,red\nphotos/train-1.jpg,\n", "line 3: .*stands in line 2 too"),
        ("train", "image,labels\nphotos/train-1.jpg,red\nphotos//train-1.jpg,\n", "line 3: .*stands in line 2 too"),
        ("train", "image,labels\nphotos/train-1.jpg,red,green\n", "line 2 has 3 cells"),
        ("train", "image,labels\nphotos/train-1.jpg\n", "line 2 has 1 cells"),
        ("train", "image,labels\n,red\n", "line 2 names no image"),
        ("train", 'image,labels\n"photos/train-1.jpg,red\n', "it is no line of a CSV file"),
        ("train", "image,red,red\nphotos/train-1.jpg,0,1\n", "names the class 'red' twice"),
        ("train", "image,red,\nphotos/train-1.jpg,0,1\n", "a column without a name"),
        ("train", "image,red,green\nphotos/train-1.jpg,0,-1\n", "line 2: 'green' is '-1', not 0 or 1"),
        ("train", "image,red,green\nphotos/train-1.jpg,0,\n", "line 2: 'green' is '', not 0 or 1"),
        ("val", "image,labels\nphotos/val-1.jpg,redd\n", "line 2: the label 'redd' is no class .*did you mean red"),
        ("val", "image,labels\n", "lists no image"),
        ("val", "image,red,green\nphotos/val-1.jpg,0,1\n", "has no column for 'striped'"),
        ("val", "image,red,green,striped,new\nphotos/val-1.jpg,0,1,0,0\n", "has a column for 'new'"),
        ("classes.txt", "red\nred\n", "names the class 'red' twice"),
    ],
)
def test_bad_files(photos, file, text, said):
    (photos / (file if "." in file else f"{file}.csv")).write_text(text)
    with pytest.raises(GCPError, match=said):
        opened(photos, "train" if file != "val" else "validation")


def test_missing_files(photos):
    with pytest.raises(GCPError, match="holds no CSV file for split 'test', only 'train', 'val'"):
        opened(photos, "test")
    (photos / "train.csv").unlink()
    with pytest.raises(GCPError, match=r"neither classes\.txt nor train\.csv"):
        opened(photos, "validation")
    (photos / "val.csv").unlink()
    with pytest.raises(GCPError, match=r"holds no 'train.csv': write one"):
        opened(photos)
    with pytest.raises(GCPError, match="is not a folder"):
        opened(photos / "none")
    with pytest.raises(GCPError, match=r"brings its names from classes\.txt or train\.csv"):
        opened(photos, class_map="map.txt")
