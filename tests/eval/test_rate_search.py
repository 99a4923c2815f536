"""The search for learning rates."""

import pytest

from eval import rate_search
from eval.record import append_row, read_cells, write_table
from tests.eval.rows import row_of
from timm_gcp import GCPError


def test_the_search_widens_until_the_best_has_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr(rate_search, "SEARCH_FOLDS", (0, 1))
    limits = (0.0125, 1.6)
    assert rate_search.with_neighbours({0.1, 0.2}, 0.2, limits) == {0.1, 0.2, 0.4}
    assert rate_search.with_neighbours({0.1, 0.2}, 0.1, limits) == {0.05, 0.1, 0.2}
    assert rate_search.with_neighbours({0.1, 0.2, 0.4}, 0.2, limits) == {0.1, 0.2, 0.4}
    assert rate_search.with_neighbours({0.8, 1.6}, 1.6, limits) == {0.8, 1.6}
    with pytest.raises(GCPError, match="--stage 1"):
        rate_search.rate_of(tmp_path, "isqrt", 12)
    for rate, fold, top1 in ((0.1, 0, 60), (0.1, 1, 70), (0.2, 0, 66), (0.2, 1, 65)):
        append_row(tmp_path / "experiment.csv", row_of("isqrt", rate, fold, top1, 12, 5000))
    # Every covariance head takes the rate of Newton–Schulz.
    assert rate_search.rate_of(tmp_path, "isqrt", 12) == rate_search.rate_of(tmp_path, "svd-hybrid", 12) == 0.2
    # Within a standard error (of 50 photographs: seven points) the smaller rate is taken.
    write_table(tmp_path / "experiment.csv", read_cells(tmp_path / "experiment.csv").assign(held_count=25))
    assert rate_search.rate_of(tmp_path, "isqrt", 12) == 0.1
    with pytest.raises(GCPError, match="'average' is not chosen yet"):
        rate_search.rate_of(tmp_path, "average", 12)
