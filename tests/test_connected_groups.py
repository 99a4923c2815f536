"""Groups that pairs connect."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from timm_gcp.connected_groups import connected_groups


def test_groups():
    assert connected_groups([]) == []
    assert connected_groups([(9, 4), (1, 2), (4, 7), (3, 3)]) == [[1, 2], [3], [4, 7, 9]]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=15))
def test_as_by_merging_sets(pairs):
    groups = [{number} for number in set(itertools.chain(*pairs))]
    for first, second in pairs:
        joined = [group for group in groups if first in group or second in group]
        groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    assert connected_groups(pairs) == sorted(map(sorted, groups))
