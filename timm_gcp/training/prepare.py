"""Builds a run from its arguments and checks everything; nothing is written yet."""

import argparse
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.data import Mixup
from timm.layers import convert_sync_batchnorm
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.utils import (
    ModelEmaV3,
    NativeScaler,
    is_primary,
    random_seed,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..commands.value_checks import image_mode
from ..data import check_apart, check_images, create_dataset, divide, split_to_divide
from ..data.class_names import check_resumed_classes, say_other_classes
from ..data.loaders import WorkerMixup, batch_names, evaluation_loader, training_loader
from ..data.preprocessing import given_image_size, make_autocast, preprocessing
from ..data.transforms import CROP_AS_IN_EVALUATION, crop_as_in_evaluation, fit_policy
from ..distributed import by_first
from ..errors import GCPError
from ..hybrid.monitor import ConditioningMonitor
from ..hybrid.rules import AtEpoch, ConditioningSettles, LearningRateFraction, SwitchRule
from ..hybrid.schedule import HybridSchedule
from ..methods import get_method
from ..models.named import create_model
from ..models.names import brings_weights
from ..pooling import find_pools
from ..text import first_line
from ..weights.file import load_training_checkpoint, load_weights, read_weights, weights_of, without_prefix
from .faults import Faults
from .freezing import freeze_all_but
from .optimizer import classifiers, make_optimizer, make_scheduler, set_course, set_learning_rate
from .progress import Progress
from .resume import checkpoint_args, load_resumed, resume_from, resumed_position
from .run import Run
from .run_folder import RunFolder
from .step import Stepper


def prepare(args: argparse.Namespace, device: torch.device, folder: RunFolder) -> Run:
    """Builds everything and checks it; nothing is written yet but the lock of the run folder."""
    folder.claim_named()
    args.resume = resume_from(args, device)
    folder.check_free()
    resumed = load_training_checkpoint(args.resume) if args.resume else None
    random_seed(args.seed, args.rank)
    channels = args.in_chans or (args.input_size[0] if args.input_size else 3)
    train_data, eval_data = _datasets(args, channels, device)
    num_classes = _number_of_classes(args, train_data, eval_data)

    if resumed is not None:
        check_resumed_classes(args, resumed, train_data)
    model: Any = build_model(args, num_classes, channels)
    if resumed is None and is_primary(args):
        say_other_classes(args, model, train_data)
    data_config = preprocessing(args, model)
    model = model.to(device, memory_format=torch.channels_last if args.channels_last else torch.preserve_format)
    _check_image_size(model, data_config["input_size"], args.model, device)
    if args.grad_checkpointing:
        try:
            model.set_grad_checkpointing(enable=True)
        except (AssertionError, AttributeError) as error:
            raise GCPError(f"{args.model} does not support --grad-checkpointing in timm; leave it out.") from error
    if args.distributed and args.sync_bn:
        if device.type == "cpu":
            raise GCPError("--sync-bn works on GPUs only; leave it out on the CPU.")
        model = convert_sync_batchnorm(model)

    frozen = freeze_all_but(model, args.train_only) if args.train_only else []
    schedule = hybrid_schedule(args, model)
    loader, mixup = _train_loader(args, train_data, data_config, num_classes, device)
    batch = args.validation_batch_size or args.batch_size
    eval_loader = None
    if eval_data is not None:
        eval_loader = evaluation_loader(args, eval_data, data_config, device, batch, args.distributed)
    autocast = make_autocast(device, args.amp, args.amp_dtype)
    scaled = args.amp and args.amp_dtype == "float16" and device.type == "cuda"
    scaler = NativeScaler(device=device.type) if scaled else None
    set_learning_rate(args)
    set_course(args, checkpoint_args(resumed))
    optimizer = make_optimizer(args, model)
    if resumed is not None:
        load_resumed(args, resumed, model, optimizer, scaler, schedule)
    ema = ModelEmaV3(model, decay=args.model_ema_decay, use_warmup=args.model_ema_warmup) if args.model_ema else None
    if ema is not None:
        if resumed is not None and "state_dict_ema" in resumed:
            load_weights(ema.module, weights_of(resumed, args.resume, use_ema=True), args.resume)
        if schedule is not None:
            schedule.add(ema.module)
    monitor = None
    if args.monitor_every and find_pools(model):
        monitor = ConditioningMonitor(model, every=args.monitor_every).attach()

    clipping = args.clip_grad, args.clip_mode
    stepper = Stepper(model, optimizer, scaler, *clipping, args.grad_accum_steps, frozen)
    updates = stepper.updates(len(loader))
    start = resumed["epoch"] + 1 if resumed else 0
    position = resumed_position(args, resumed, len(loader), monitor)
    done = math.ceil(position.batches / args.grad_accum_steps)
    scheduler, epochs = make_scheduler(args, optimizer, updates, schedule, start, resumed, done)
    wrapped: Any = model
    if args.torchcompile:
        wrapped = torch.compile(wrapped, backend=args.torchcompile)
    if args.distributed:
        wrapped = DistributedDataParallel(wrapped, device_ids=[device] if device.type == "cuda" else None)
    stepper.model = wrapped
    path = folder.path or folder.claim_dated(data_config["input_size"][-1])
    skip, names = args.on_nonfinite == "skip", functools.partial(batch_names, loader)
    return Run(
        args=args,
        device=device,
        folder=path,
        model=wrapped,
        data_config=data_config,
        class_names=getattr(train_data, "class_names", None),
        train_loader=loader,
        eval_loader=eval_loader,
        eval_dataset=eval_data,
        mixup=mixup,
        loss=_loss(args).to(device),
        stepper=stepper,
        scheduler=scheduler,
        epochs=epochs,
        start_epoch=start,
        schedule=schedule,
        monitor=monitor,
        ema=ema,
        resumed=resumed,
        progress=Progress(start, epochs, args.log_interval, is_primary(args), device),
        autocast=autocast,
        faults=Faults(path, skip=skip, names=names, rank=args.rank),
        position=position,
        seconds=float((resumed or {}).get("gcp", {}).get("seconds", 0.0)),
    )


def _datasets(args: argparse.Namespace, channels: int, device: torch.device) -> tuple[Any, Any]:
    if args.dataset_download:
        by_first(functools.partial(_download, args), is_primary(args), device)
    common = dict(
        class_map=args.class_map,
        input_img_mode=image_mode(channels),
        skip_bad_images=args.skip_bad_images,
        orient=not args.ignore_exif_orientation,
        class_from=args.class_from,
        batch_size=args.batch_size,
        seed=args.seed,
    )

    def opened(split: str, is_training: bool = False) -> Any:
        dataset = create_dataset(args.dataset, args.data_dir, split, is_training=is_training, **common)
        if not args.no_check_images:
            check_images(dataset, progress=is_primary(args) and sys.stderr.isatty())
        return dataset

    divided = split_to_divide(args.dataset, args.data_dir, args.train_split, args.val_split, args.val_fraction)
    if divided is not None:
        # The parts have names in what a run prints and records, also where the folder has none.
        args.train_split, args.val_split = args.train_split or "train", args.val_split or "validation"
        args.held_out = True
        return divide(opened(divided, is_training=True), args.val_fraction, args.val_seed)
    args.held_out = False
    train = opened(args.train_split, is_training=True)
    evaluation = opened(args.val_split) if args.val_split else None
    if evaluation is not None:
        check_apart(train, evaluation, args.train_split, args.val_split)
    return train, evaluation


def _download(args: argparse.Namespace) -> None:
    for split in filter(None, (args.train_split, args.val_split)):
        create_dataset(args.dataset, args.data_dir, split, download=True, batch_size=args.batch_size)


def _number_of_classes(args: argparse.Namespace, train: Any, evaluation: Any) -> int:
    classes, names = getattr(train, "num_classes", None), getattr(train, "class_names", None)
    if args.num_classes is not None and classes is not None and args.num_classes != classes:
        raise GCPError(f"--num-classes {args.num_classes} contradicts the data set's {classes} classes; leave it out.")
    number = args.num_classes or classes
    if number is None:
        raise GCPError("This data set does not tell its number of classes; give --num-classes N.")
    others = getattr(evaluation, "class_names", None)
    if names and others and list(names) != list(others):
        differ = sorted(set(names) ^ set(others)) or list(others)
        raise GCPError(
            f"Splits '{args.train_split}' and '{args.val_split}' have different classes (such as '{differ[0]}'); make "
            "them agree, or give a --class-map."
        )
    args.num_classes = number
    return number


def build_model(args: argparse.Namespace, num_classes: int, channels: int) -> nn.Module:
    """The model to train, with the weights that the arguments ask for."""
    arguments: dict[str, Any] = {
        "num_classes": num_classes,
        "in_chans": channels if args.in_chans or args.input_size else None,
        "drop_rate": args.drop or None,
        "drop_path_rate": args.drop_path,
        "image_size": given_image_size(args),
        "method_args": args.method_args or None,
        **(args.model_kwargs or {}),
    }
    folder = brings_weights(args.model)
    pretrained = bool((args.pretrained or folder or args.pretrained_path) and not args.resume)
    if args.train_only and not (pretrained or args.resume or args.initial_checkpoint):
        raise GCPError(
            f"--train-only {args.train_only} would freeze random weights; add --pretrained, or start from a model "
            "folder or a checkpoint."
        )
    if args.pretrained_path and not args.resume:
        if folder:
            raise GCPError("--pretrained-path goes with a registered --model; a model folder brings its own weights.")
        like = create_model(args.model, last_stride=args.last_stride, **arguments)
        weights = without_prefix(read_weights(args.pretrained_path, use_ema=True), like, args.pretrained_path)
        load_weights(like, weights, args.pretrained_path, optional=_head(like))
        arguments["pretrained_cfg_overlay"] = dict(state_dict=weights, num_classes=-1)
    model: Any = create_model(args.model, pretrained=pretrained, last_stride=args.last_stride, **arguments)
    model.pretrained_cfg.pop("state_dict", None)
    if args.initial_checkpoint:
        load_weights(model, read_weights(args.initial_checkpoint, use_ema=True), args.initial_checkpoint)
    return model


def _head(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of the parameters that a checkpoint of the backbone alone lacks."""
    modules = {id(module) for module in (*find_pools(model), *classifiers(model))}
    return tuple(f"{name}." for name, module in model.named_modules() if id(module) in modules)


def _check_image_size(model: nn.Module, input_size: Sequence[int], name: str, device: torch.device) -> None:
    """Runs one blank image through the model, and looks at the maps that are pooled."""
    shapes: list[torch.Size] = []
    pools = find_pools(model)
    handles = [pool.reduce.register_forward_hook(lambda *call: shapes.append(call[2].shape)) for pool in pools]
    size = "×".join(map(str, input_size[1:]))
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, *input_size, device=device))
    except Exception as error:  # whatever a model does with a size that it does not take
        raise GCPError(f"{name} cannot take images of {size} pixels: {first_line(error)}.") from error
    finally:
        for handle in handles:
            handle.remove()
    if any(math.prod(shape[2:]) < 2 for shape in shapes):
        raise GCPError(
            f"Images of {size} pixels leave {name} a feature map of 1 position, which has no covariance; use "
            f"--img-size {2 * max(input_size[1:])} or more, or --last-stride 1."
        )


def hybrid_schedule(args: argparse.Namespace, model: nn.Module) -> HybridSchedule | None:
    """The hybrid protocol that the arguments ask for, with the model's own method as the final one.

    Returns:
        None where the protocol is off or has nothing to do.

    Raises:
        GCPError: options that have no effect, or that the model cannot follow.
    """
    pools = find_pools(model)
    wanted = args.switch_lr_fraction is not None or args.switch_epoch is not None or args.switch_conditioning
    if not pools:
        if args.hybrid or wanted:
            option = "--hybrid" if args.hybrid else "--switch-..."
            raise GCPError(f"{option} needs a model with covariance pooling (resnet50_svdpade), not {args.model}.")
        return None
    if args.hybrid is False or (args.hybrid is None and get_method(pools[0].method).of_sigma is None):
        return None  # bilinear pooling has no root to warm up for
    if pools[0].method == get_method(args.warm_method).name and not args.hybrid:
        if wanted:
            raise GCPError(
                f"--switch-... has no effect: {args.model} uses the warm method '{args.warm_method}' from the start; "
                "leave it out or choose another model."
            )
        return None
    rule: SwitchRule
    if args.switch_conditioning:
        rule = ConditioningSettles(latest_epoch=args.switch_epoch)
    elif args.switch_epoch is not None and args.switch_lr_fraction is None:
        rule = AtEpoch(args.switch_epoch)
    else:
        rule = LearningRateFraction(args.switch_lr_fraction or 0.1, latest_epoch=args.switch_epoch)
    return HybridSchedule(model, warm=args.warm_method, switch=rule)


def _train_loader(
    args: argparse.Namespace, dataset: Any, data_config: Mapping[str, Any], num_classes: int, device: torch.device
) -> tuple[Any, Mixup | None]:
    collate, mixup = None, None
    if _mixes(args):
        if args.batch_size % 2:
            raise GCPError(f"Mixup and cutmix need an even --batch-size, not {args.batch_size}.")
        settings = dict(
            mixup_alpha=args.mixup,
            cutmix_alpha=args.cutmix,
            cutmix_minmax=args.cutmix_minmax,
            prob=args.mixup_prob,
            switch_prob=args.mixup_switch_prob,
            mode=args.mixup_mode,
            label_smoothing=args.smoothing,
            num_classes=num_classes,
        )
        if args.no_prefetcher:
            mixup = Mixup(**settings)
        else:
            collate = WorkerMixup(**settings)
    interpolation = args.train_interpolation
    if args.no_aug or not interpolation:
        interpolation = data_config["interpolation"]
    as_evaluation = args.train_crop_mode == CROP_AS_IN_EVALUATION
    try:
        loader = training_loader(
            dataset,
            workers=args.workers,
            seed=args.seed,
            input_size=data_config["input_size"],
            batch_size=args.batch_size,
            use_prefetcher=not args.no_prefetcher,
            no_aug=args.no_aug,
            re_prob=args.reprob,
            re_mode=args.remode,
            re_count=args.recount,
            train_crop_mode=None if as_evaluation else args.train_crop_mode,
            scale=args.scale,
            ratio=args.ratio,
            hflip=args.hflip,
            vflip=args.vflip,
            color_jitter=args.color_jitter,
            color_jitter_prob=args.color_jitter_prob,
            grayscale_prob=args.grayscale_prob or 0.0,
            gaussian_blur_prob=args.gaussian_blur_prob or 0.0,
            auto_augment=args.aa,
            interpolation=interpolation,
            mean=data_config["mean"],
            std=data_config["std"],
            distributed=args.distributed,
            collate_fn=collate,
            pin_memory=args.pin_mem,
            device=device,
        )
    except (AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
        raise GCPError(f"The augmentation arguments cannot be used: {first_line(error)}.") from error
    if as_evaluation:
        loader.dataset.transform = crop_as_in_evaluation(loader.dataset.transform, data_config)
    fit_policy(loader.dataset.transform, data_config)
    if hasattr(loader.dataset, "__len__") and not len(loader):
        raise GCPError(
            f"--batch-size {args.batch_size} is more than the {len(dataset)} training images"
            f"{f' of {args.world_size} processes' if args.distributed else ''} fill; use a smaller one."
        )
    return loader, mixup


def _mixes(args: argparse.Namespace) -> bool:
    return args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None


def _loss(args: argparse.Namespace) -> nn.Module:
    """The loss that timm's script would choose."""
    if args.bce_loss:
        return BinaryCrossEntropy(
            smoothing=0.0 if _mixes(args) else args.smoothing,
            target_threshold=args.bce_target_thresh,
            sum_classes=args.bce_sum,
            pos_weight=args.bce_pos_weight,
        )
    if _mixes(args):
        return SoftTargetCrossEntropy()
    if args.smoothing:
        return LabelSmoothingCrossEntropy(smoothing=args.smoothing)
    return nn.CrossEntropyLoss()
