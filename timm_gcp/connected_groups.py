"""Groups of numbers that pairs connect."""

from collections.abc import Collection

import numpy as np

__all__ = ["connected_groups"]


def connected_groups(pairs: Collection[tuple[int, int]]) -> list[list[int]]:
    """The connected components of the graph whose edges are the pairs.

    Args:
        pairs: of numbers.

    Returns:
        The groups, each ascending, in the order of their smallest number.
    """
    from scipy.sparse import coo_array  # takes long to load
    from scipy.sparse.csgraph import connected_components

    if not pairs:
        return []
    numbers, places = np.unique(np.asarray(list(pairs)), return_inverse=True)
    first, second = places.reshape(-1, 2).T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(numbers), len(numbers)))
    count, group_of = connected_components(graph, directed=False)
    groups: list[list[int]] = [[] for _ in range(count)]
    for number, group in zip(numbers.tolist(), group_of.tolist(), strict=True):
        groups[group].append(number)
    return sorted(groups)
