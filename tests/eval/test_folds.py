"""Folds of the grocery photographs."""

from pathlib import Path

from eval.folds import split_blocks, write_folds


def test_folds_are_blocks_of_file_numbers(photographs, tmp_path):
    lines = (photographs / "train.txt").read_text().splitlines()
    held = [split_blocks(lines, fold)[1] for fold in range(2)]
    assert sorted(line for fold in held for line in fold) == sorted(lines)
    assert [Path(line.split(",")[0]).stem for line in held[1]] == [
        f"{n}_{i:03}" for n in ("Apple", "Milk") for i in range(10, 20)
    ]
    data = write_folds(photographs, tmp_path / "folds")
    train, held0 = ((data / f"fold0-{part}.txt").read_text().splitlines() for part in ("train", "val"))
    assert sorted(train + held0) == sorted(lines)
    for name in ("fold0-val", "val", "test"):
        assert (data / (data / f"{name}.txt").read_text().split(",")[0]).is_file()
    assert write_folds(photographs, data) == data  # a second time does no harm


def test_the_order_is_that_of_the_numbers():
    lines = [f"a/x_{i}.jpg, 0" for i in (10, 9, 2, 1, 100)]
    assert split_blocks(lines, 1)[1] == [f"a/x_{i}.jpg, 0" for i in (9, 10, 100)]
    assert split_blocks(lines, 0)[1] == [f"a/x_{i}.jpg, 0" for i in (1, 2)]
