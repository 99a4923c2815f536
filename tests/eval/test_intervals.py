"""Confidence intervals."""

import pandas as pd
import pytest

from eval.intervals import difference_over_images, mean_interval, paired, unpaired


def test_intervals():
    values = mean_interval([1.0, 2.0, 3.0])
    assert (values.mean, values.number) == (2.0, 3)
    assert values.half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)  # Student's t for 2 degrees of freedom
    assert values.verdict() == "not significant"
    gap = paired(pd.Series({0: 5.0, 1: 6.1, 2: 4.9, 3: 0.0}), pd.Series({0: 1.0, 1: 2.0, 2: 1.0}))
    assert gap is not None
    assert (gap.number, gap.verdict()) == (3, "higher")
    assert paired(pd.Series({0: 1.0}), pd.Series({1: 1.0})) is None
    assert paired(pd.Series({0: 1.0}), pd.Series({0: 0.0})).verdict() == "not significant"  # one seed decides nothing
    # Equal deviations and numbers: Welch's interval is Student's with 4 degrees of freedom.
    welch = unpaired([11.0, 12.0, 13.0], [1.0, 2.0, 3.0])
    assert welch.mean == 10
    assert welch.half == pytest.approx(2.776445 * (2 / 3) ** 0.5, rel=1e-6)
    assert str(welch) == "+10.0 ± 2.3"


def test_an_interval_over_test_images():
    gap = difference_over_images(80.0, 75.0, 2000)
    assert gap.mean == 5
    assert gap.half == pytest.approx(100 * 1.959964 * ((0.16 + 0.1875) / 2000) ** 0.5, rel=1e-6)
