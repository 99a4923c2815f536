"""The CSV files of results."""

import pytest

from eval.record import append_row, provenance, read_cells, read_table, write_table
from tests.support.tools import ROOT


def test_rows_survive_and_columns_stay(tmp_path):
    append_row(tmp_path / "t.csv", {"a": 1, "b": "x, y", "c": 0.1 + 0.2})
    append_row(tmp_path / "t.csv", {"a": 2, "b": "", "c": None})
    assert (tmp_path / "t.csv").read_bytes() == b'a,b,c\r\n1,"x, y",0.30000000000000004\r\n2,,\r\n'
    table = read_table(tmp_path / "t.csv")
    assert (list(table["a"]), table["c"][0], list(table["b"].isna())) == ([1, 2], pytest.approx(0.3), [False, True])
    assert read_table(tmp_path / "none.csv", ["a"]).empty
    assert set(provenance()) == {"date", "machine", "versions"}


@pytest.mark.parametrize("path", sorted((ROOT / "eval" / "results").glob("*.csv")), ids=lambda path: path.stem)
def test_recorded_files_are_written_again_byte_for_byte(path, tmp_path):
    *rows, last = read_cells(path).to_dict("records")
    write_table(tmp_path / "t.csv", rows)
    append_row(tmp_path / "t.csv", last)
    assert (tmp_path / "t.csv").read_bytes() == path.read_bytes()
