"""The numbers of the paper: complete, plausible, and about methods that exist."""

from timm_gcp import METHODS
from timm_gcp.weights.paper_results import FINE_GRAINED, IMAGENET, fine_grained_table, imagenet_table


def test_rows():
    assert len({(row.network, row.method) for row in IMAGENET}) == len(IMAGENET) == 12
    for row in IMAGENET:
        assert row.method in METHODS or row.method == ""
        assert 20 < row.top1 < 24
        assert 5 < row.top5 < 8
        # The hybrid protocol has lower errors for every method that has a switch.
        assert (row.hybrid_top1 is None) == (row.method in ("", "isqrt")) == (row.hybrid_top5 is None)
        assert row.hybrid_top1 is None or (row.hybrid_top1 < row.top1 and row.hybrid_top5 < row.top5)
    for row in FINE_GRAINED:
        assert row.method in METHODS
        for pair in (row.birds, row.dogs, row.cars):
            assert pair is None or 80 < pair[0] < pair[1] < 94


def test_tables():
    assert "| `resnet101` | average pooling | 22.63 / 6.44 |  |" in imagenet_table()
    assert "| SVD-TopN (`svdtopn`) | did not converge | did not converge | did not converge |" in fine_grained_table()
    for table in (imagenet_table(), fine_grained_table()):
        assert "of the paper" in table.partition("\n")[0]
