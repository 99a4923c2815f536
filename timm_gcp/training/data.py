"""The data of a run: data sets, number of classes and loaders."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import Mixup
from torch import Tensor
from torch.utils.data import Sampler

from ..data.class_counts import class_counts
from ..data.loaders import GuardedLoader, evaluation_loader, training_loader
from ..data.multi_label_batches import MultiLabelMixup, MultiLabelWorkerMixup
from ..data.open_dataset import download_splits, open_splits
from ..data.transforms import CROP_AS_IN_EVALUATION, crop_as_in_evaluation, fit_policy
from ..data.worker_mixup import WorkerMixup
from ..distributed import Processes
from ..errors import GCPError
from ..tasks import MULTI_LABEL, SINGLE_LABEL
from ..text import first_line
from .options import TrainOptions

__all__ = ["Data", "Loaders", "make_loaders", "open_data"]


@dataclass
class Data:
    """The data sets of a run.

    Attributes:
        train: images that are trained on.
        evaluation: images that are evaluated after every epoch, or None.
        num_classes: number of classes.
    """

    train: Any
    evaluation: Any
    num_classes: int

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes by label, where the data set has them."""
        return getattr(self.train, "class_names", None)


@dataclass
class Loaders:
    """The loaders of a run.

    Attributes:
        train: batches to train on.
        evaluation: batches to evaluate, or None.
        mixup: mixes a batch on the device; None where nothing is mixed or the loader mixes.
    """

    train: GuardedLoader
    evaluation: GuardedLoader | None
    mixup: Mixup | None

    def close(self) -> None:
        """Ends the loader processes."""
        for loader in (self.train, self.evaluation):
            if loader is not None:
                loader.close()

    def ready(
        self, images: Tensor, targets: Tensor, device: torch.device, channels_last: bool
    ) -> tuple[Tensor, Tensor]:
        """A batch for the model: on the device, mixed where the loader has not mixed it, in the memory format.

        Args:
            images: ``[B, C, H, W]``.
            targets: of the images.
            device: of the model.
            channels_last: the memory format.
        """
        images, targets = images.to(device), targets.to(device)
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, targets

    def stop_mixing(self) -> None:
        """Turns mixup and CutMix off, also in loader processes that run already."""
        for target in (self.mixup, self.train):
            if target is not None and getattr(target, "mixup_enabled", False):
                target.mixup_enabled = False


def open_data(options: TrainOptions, processes: Processes) -> Data:
    """Opens the data sets of a run and checks them.

    Fills in ``train_split``, ``val_split``, ``held_out`` and ``num_classes`` of the options.

    Raises:
        GCPError: a data set that does not exist, is empty or contradicts the options or the other split.
    """
    batch_size = options.batch_size
    if options.dataset_download:
        processes.by_first(lambda: download_splits(options, batch_size=batch_size))
    train, evaluation = open_splits(
        options, options.channels or 3, progress=processes.first, batch_size=batch_size, seed=options.seed
    )
    options.num_classes = _number_of_classes(options.num_classes, train)
    if options.num_classes < 2 and options.task is SINGLE_LABEL:
        raise GCPError("All training images are of one class, so there is nothing to tell apart; add another class.")
    if options.task is MULTI_LABEL and evaluation is not None:
        counts = class_counts(evaluation, options.num_classes)
        if counts is not None and not counts.any():
            raise GCPError(
                f"No image of split '{options.val_split}' has a label, so there is no average precision; give another "
                "--val-split, or '' for none."
            )
    return Data(train, evaluation, options.num_classes)


def _number_of_classes(given: int | None, train: Any) -> int:
    classes = getattr(train, "num_classes", None)
    if given is not None and classes is not None and given != classes:
        raise GCPError(f"--num-classes {given} contradicts the data set's {classes} classes; leave it out.")
    number = given or classes
    if number is None:
        raise GCPError("This data set does not tell its number of classes; give --num-classes N.")
    return int(number)


def make_loaders(
    options: TrainOptions,
    data: Data,
    data_config: Mapping[str, Any],
    processes: Processes,
    sampler: Sampler[int] | None = None,
) -> Loaders:
    """The loaders of training, with its augmentation, and of evaluation.

    Args:
        options: of the run.
        data: its data sets.
        data_config: preprocessing of the model.
        processes: each gets its share of the images.
        sampler: order of the training images, the share of this process; None for timm's own.

    Raises:
        GCPError: augmentation that cannot be made, or a batch larger than the training images.
    """
    collate, mixup = _mixing(options, data.num_classes)
    as_evaluation = options.train_crop_mode == CROP_AS_IN_EVALUATION
    try:
        loader = training_loader(
            data.train,
            workers=options.workers,
            seed=options.seed,
            sampler=sampler,
            input_size=data_config["input_size"],
            mean=data_config["mean"],
            std=data_config["std"],
            batch_size=options.batch_size,
            use_prefetcher=not options.no_prefetcher,
            distributed=processes.distributed,
            collate_fn=collate,
            pin_memory=options.pin_mem,
            device=processes.device,
            train_crop_mode=None if as_evaluation else options.train_crop_mode,
            **_augmentation(options, data_config),
        )
    except (AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
        raise GCPError(f"The augmentation arguments cannot be used: {first_line(error)}.") from error
    if as_evaluation:
        loader.dataset.transform = crop_as_in_evaluation(loader.dataset.transform, data_config)
    fit_policy(loader.dataset.transform, data_config)
    if hasattr(loader.dataset, "__len__") and not len(loader):
        raise GCPError(
            f"--batch-size {options.batch_size} is more than the {len(data.train)} training images"
            f"{f' of {processes.world_size} processes' if processes.distributed else ''} fill; use a smaller one."
        )
    evaluation = None
    if data.evaluation is not None:
        batch = options.evaluation_batch_size
        evaluation = evaluation_loader(
            options, data.evaluation, data_config, processes.device, batch, processes.distributed
        )
    return Loaders(loader, evaluation, mixup)


def _mixing(options: TrainOptions, num_classes: int) -> tuple[WorkerMixup | None, Mixup | None]:
    """Mixup and CutMix in the loader processes, or on the device without the prefetcher."""
    if not options.mixes:
        return None, None
    if options.batch_size % 2:
        raise GCPError(f"Mixup and cutmix need an even --batch-size, not {options.batch_size}.")
    settings: dict[str, Any] = dict(
        mixup_alpha=options.mixup,
        cutmix_alpha=options.cutmix,
        cutmix_minmax=options.cutmix_minmax,
        prob=options.mixup_prob,
        switch_prob=options.mixup_switch_prob,
        mode=options.mixup_mode,
    )
    if options.task is MULTI_LABEL:  # its loss smooths
        settings["batch_size"] = options.batch_size
        return (
            (None, MultiLabelMixup(**settings)) if options.no_prefetcher else (MultiLabelWorkerMixup(**settings), None)
        )
    settings.update(label_smoothing=options.smoothing, num_classes=num_classes)
    return (None, Mixup(**settings)) if options.no_prefetcher else (WorkerMixup(**settings), None)


def _augmentation(options: TrainOptions, data_config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of timm's ``create_loader`` that augment."""
    interpolation = options.train_interpolation
    if options.no_aug or not interpolation:
        interpolation = data_config["interpolation"]
    return dict(
        no_aug=options.no_aug,
        re_prob=options.reprob,
        re_mode=options.remode,
        re_count=options.recount,
        scale=options.scale,
        ratio=options.ratio,
        hflip=options.hflip,
        vflip=options.vflip,
        color_jitter=options.color_jitter,
        color_jitter_prob=options.color_jitter_prob,
        grayscale_prob=options.grayscale_prob or 0.0,
        gaussian_blur_prob=options.gaussian_blur_prob or 0.0,
        auto_augment=options.aa,
        interpolation=interpolation,
    )
