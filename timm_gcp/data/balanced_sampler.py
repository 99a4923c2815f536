"""A sampler that draws every class equally often."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

__all__ = ["BalancedSampler"]


class BalancedSampler(Sampler[int]):
    """Draws as many images as there are, the same number of every class, up to one, in an order of chance.

    The images of a class come in random order, each once before any comes again. The order of an epoch depends on
    seed and epoch alone; several processes draw the same one and take turns.

    Args:
        labels: of the images, ``[N]``, integers.
        seed: of the run.
        rank: of this process.
        world_size: number of processes; their shares have the same length, for which up to ``world_size`` - 1 images
            more are drawn.
    """

    def __init__(self, labels: np.ndarray, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.images = [torch.from_numpy(np.flatnonzero(labels == label)) for label in np.unique(labels)]
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.share = -(-len(labels) // world_size)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that is drawn next, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.share

    def __iter__(self) -> Iterator[int]:
        state = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        number, more = divmod(self.share * self.world_size, len(self.images))
        with_more = set(torch.randperm(len(self.images), generator=generator)[:more].tolist())
        drawn = [
            images[_repeated_order(len(images), number + (k in with_more), generator)]
            for k, images in enumerate(self.images)
        ]
        order = torch.randperm(self.share * self.world_size, generator=generator)
        yield from torch.cat(drawn)[order][self.rank :: self.world_size].tolist()


def _repeated_order(size: int, number: int, generator: torch.Generator) -> torch.Tensor:
    """The first ``number`` entries of random orders of ``range(size)``, one after the other."""
    return torch.cat([torch.randperm(size, generator=generator) for _ in range(-(-number // size) or 1)])[:number]
