"""Loaders of training and evaluation: timm's, with processes that stay from epoch to epoch."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from timm.data import create_loader
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from .multi_label_batches import collate_multi_label
from .options import LoadingOptions
from .worker_mixup import WorkerMixup
from .workers import GuardedLoader, LoaderError, seed_worker, start_worker

__all__ = [
    "GuardedLoader",
    "LoaderError",
    "WorkerMixup",
    "WrappedDataset",
    "batch_names",
    "evaluation_loader",
    "training_loader",
]


class _EpochSampler:
    """A sampler that remembers what it drew in this epoch, and gives every index with the epoch's seed of the workers.

    Seeds come from torch's generator of the main process in the order in which a ``DataLoader`` with new workers
    draws them, so an epoch depends on that generator alone, whether the workers are new or not.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.drawn: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        """Tells the sampler which epoch it draws next, where it asks for that."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        self.drawn = []
        seed = int(torch.empty((), dtype=torch.int64).random_().item())
        for index in self.sampler:
            self.drawn.append(index)
            yield index, seed

    def __len__(self) -> int:
        return len(self.sampler)


class WrappedDataset(Dataset[Any]):
    """A data set around another one; timm's loader sets the transform of the inner one.

    Args:
        dataset: the inner one.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    @property
    def transform(self) -> Any:
        """The transform of the data set; can be set."""
        return self.dataset.transform

    @transform.setter
    def transform(self, transform: Any) -> None:
        self.dataset.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)


class _EpochSeeded(WrappedDataset):
    """A data set whose index brings the epoch's seed: a worker seeds itself at the first image of an epoch."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self._seed: int | None = None

    def __getitem__(self, key: tuple[int, int]) -> Any:
        index, seed = key
        worker = get_worker_info()
        if worker is not None and seed != self._seed:
            self._seed = seed
            seed_worker(seed + worker.id)
        return self.dataset[index]


def training_loader(
    dataset: Any, *, workers: int, seed: int, sampler: Sampler[int] | None = None, **options: Any
) -> GuardedLoader:
    """A loader of augmented training images, in an order of chance.

    Its processes live as long as the loader. All that they draw depends on torch's generator of the main process at
    the start of the epoch, so a run that is resumed there sees the same images. (The processes of a streamed data set
    live for one epoch.)

    Args:
        dataset: in timm's form.
        workers: loader processes; 0 loads in the main process.
        seed: of the order that several training processes share.
        sampler: order of the images, the share of this process; None for timm's own. Not for a streamed data set.
        **options: those of timm's ``create_loader``.

    Returns:
        The loader; its ``dataset`` is the one given.
    """
    streamed = isinstance(dataset, IterableDataset)
    options["collate_fn"] = options.get("collate_fn") or _collation(dataset, options.get("use_prefetcher", True))
    loader = create_loader(
        dataset if streamed else _EpochSeeded(dataset),
        is_training=True,
        num_workers=workers,
        persistent_workers=workers > 0 and not streamed,
        worker_seeding=start_worker,
        **options,
    )
    if hasattr(loader.sampler, "seed"):
        loader.sampler.seed = seed
    if not streamed:
        inner = getattr(loader, "loader", loader)  # behind timm's prefetcher
        # torch would draw a seed where it starts workers, and only there.
        inner.generator = torch.Generator()
        inner.batch_sampler.sampler = _EpochSampler(sampler or inner.batch_sampler.sampler)
    return GuardedLoader(loader, dataset)


def evaluation_loader(
    options: LoadingOptions,
    dataset: Any,
    data_config: Mapping[str, Any],
    device: torch.device,
    batch_size: int,
    distributed: bool = False,
) -> GuardedLoader:
    """timm's loader with the preprocessing of evaluation.

    Args:
        options: loader processes and prefetcher.
        dataset: in timm's form.
        data_config: what ``preprocessing`` returned.
        device: where the images go.
        batch_size: images per batch.
        distributed: each process gets its share of the images.
    """
    loader = create_loader(
        dataset,
        input_size=data_config["input_size"],
        batch_size=batch_size,
        is_training=False,
        use_prefetcher=not options.no_prefetcher,
        collate_fn=_collation(dataset, not options.no_prefetcher),
        interpolation=data_config["interpolation"],
        mean=data_config["mean"],
        std=data_config["std"],
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        distributed=distributed,
        crop_pct=data_config["crop_pct"],
        crop_mode=data_config["crop_mode"],
        pin_memory=options.pin_mem,
        device=device,
        worker_seeding=start_worker,
    )
    return GuardedLoader(loader)


def _collation(dataset: Any, prefetcher: bool) -> Any:
    """The collation that timm lacks; None for its own."""
    return collate_multi_label if prefetcher and getattr(dataset, "multi_label", False) else None


def batch_names(loader: Any, index: int) -> list[str]:
    """The files of a batch of the present epoch, by their number where the data set has no names; [] where unknown."""
    recorded = getattr(loader.batch_sampler, "sampler", None)
    if not isinstance(recorded, _EpochSampler):
        return []
    size = loader.batch_sampler.batch_size
    numbers = recorded.drawn[index * size : (index + 1) * size]
    if not hasattr(loader.dataset, "filename"):
        return [str(number) for number in numbers]
    return [str(loader.dataset.filename(number)) for number in numbers]
