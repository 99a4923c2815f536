"""Which images a batch was made of."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset

__all__ = ["batch_names", "record_order"]


class _Recorded:
    """A sampler that remembers what it drew in this epoch."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.drawn: list[int] = []

    def __iter__(self) -> Iterator[int]:
        self.drawn = []
        for index in self.sampler:
            self.drawn.append(index)
            yield index

    def __len__(self) -> int:
        return len(self.sampler)


def record_order(loader: Any) -> None:
    """Makes a loader remember the order of its epoch, for ``batch_names``; a stream of images has none to remember."""
    if not isinstance(loader.dataset, IterableDataset):
        loader.batch_sampler.sampler = _Recorded(loader.batch_sampler.sampler)


def batch_names(loader: Any, index: int) -> list[str]:
    """The files of a batch of the present epoch, by their number where the data set has no names; [] where unknown."""
    recorded = getattr(loader.batch_sampler, "sampler", None)
    if not isinstance(recorded, _Recorded):
        return []
    size = loader.batch_sampler.batch_size
    numbers = recorded.drawn[index * size : (index + 1) * size]
    if not hasattr(loader.dataset, "filename"):
        return [str(number) for number in numbers]
    return [str(loader.dataset.filename(number)) for number in numbers]
