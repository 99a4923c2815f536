"""``timm-gcp train``: trains a timm model, with the hybrid protocol where it ends in covariance pooling.

Under ``torchrun --nproc-per-node N -m timm_gcp.training.train ...`` it trains on several devices.
"""

import argparse
import csv
import io
import json
import math
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.distributed as dist
from timm.data import FastCollateMixup, Mixup, create_loader
from timm.layers import convert_sync_batchnorm
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import safe_model_name
from timm.optim import create_optimizer_v2, optimizer_kwargs, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.utils import (
    ModelEmaV3,
    NativeScaler,
    distribute_bn,
    init_distributed_device,
    is_primary,
    random_seed,
    unwrap_model,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..data import check_images, create_dataset
from ..errors import GCPError
from ..methods import get_method
from ..pooling import find_pools
from ..version import __version__
from ..weights.folder import model_arguments, save_folder
from .arguments import parse_train_args
from .checkpoint import RunSaver, load_training_checkpoint, load_weights, read_weights, save_atomically, weights_of
from .curves import draw_curves
from .engine import Progress, Stepper, evaluate, train_one_epoch
from .hybrid import (
    AtEpoch,
    ConditioningSettles,
    HybridSchedule,
    LearningRateFraction,
    SwitchRule,
    base_learning_rate,
    preview_learning_rates,
)
from .monitor import ConditioningMonitor
from .validate import create_model, evaluation_loader, make_autocast, preprocessing, reason, set_method

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp train``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status: 0, or 130 when interrupted.

    Raises:
        GCPError: bad input, before any training; or a loss that is not finite.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args, text = parse_train_args(argv)
    device = init_distributed_device(args)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    run = _prepare(args, device)
    run.command = shlex.join(["timm-gcp", "train", *argv])
    run.arguments = text
    try:
        _train(run)
    except KeyboardInterrupt:
        last = run.folder / "last.pth.tar"
        run.progress.say(f"Stopped; go on with --resume {last}" if last.exists() else "Stopped.")
        return 130
    finished = is_primary(args)
    if args.distributed:
        dist.barrier()
        dist.destroy_process_group()
    if finished:
        _finish(run)
    return 0


@dataclass
class _Run:
    """All that one training run consists of."""

    args: argparse.Namespace
    device: torch.device
    folder: Path
    model: nn.Module
    data_config: dict[str, Any]
    class_names: list[str] | None
    train_loader: Any
    eval_loader: Any
    eval_dataset: Any
    mixup: Mixup | None
    loss: nn.Module
    stepper: Stepper
    scheduler: Any
    epochs: int
    start_epoch: int
    schedule: HybridSchedule | None
    monitor: ConditioningMonitor | None
    ema: ModelEmaV3 | None
    resumed: dict[str, Any] | None
    progress: Progress
    autocast: Callable[[], Any]
    seconds: float = 0.0
    command: str = ""
    arguments: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def plain(self) -> nn.Module:
        """The model without wrappers."""
        return unwrap_model(self.model)

    @property
    def method(self) -> str | None:
        """The method in force, None without covariance pooling."""
        pools = find_pools(self.model)
        return pools[0].method if pools else None

    @property
    def final_method(self) -> str | None:
        """The method under which the model is saved."""
        return self.schedule.final if self.schedule else self.method

    @property
    def metric(self) -> str:
        """What ranks the epochs; without a validation split, the training loss."""
        return self.args.eval_metric if self.eval_loader is not None else "loss"


# ---------------------------------------------------------------------------------------------- before the training


def _prepare(args: argparse.Namespace, device: torch.device) -> _Run:
    """Builds everything and checks it; nothing is written yet."""
    folder = _run_folder(args)
    resumed = load_training_checkpoint(args.resume) if args.resume else None
    random_seed(args.seed, args.rank)
    channels = args.in_chans or (args.input_size[0] if args.input_size else 3)
    train_data, eval_data = _datasets(args, channels)
    num_classes = _number_of_classes(args, train_data, eval_data)

    model: Any = _model(args, num_classes, channels)
    data_config = preprocessing(args, model)
    model = model.to(device, memory_format=torch.channels_last if args.channels_last else torch.preserve_format)
    _check_image_size(model, data_config["input_size"], args.model, device)
    if args.grad_checkpointing:
        model.set_grad_checkpointing(enable=True)
    if args.distributed and args.sync_bn:
        if device.type == "cpu":
            raise GCPError("--sync-bn works on GPUs only; leave it out on the CPU.")
        model = convert_sync_batchnorm(model)

    schedule = _hybrid_schedule(args, model)
    loader, mixup = _train_loader(args, train_data, data_config, num_classes, device)
    batch = args.validation_batch_size or args.batch_size
    eval_loader = None
    if eval_data is not None:
        eval_loader = evaluation_loader(args, eval_data, data_config, device, batch, args.distributed)
    autocast = make_autocast(device, args.amp, args.amp_dtype)
    scaled = args.amp and args.amp_dtype == "float16" and device.type == "cuda"
    scaler = NativeScaler(device=device.type) if scaled else None
    _set_learning_rate(args)
    optimizer = _optimizer(args, model)
    if resumed is not None:
        _load_resumed(args, resumed, model, optimizer, scaler, schedule)
    ema = ModelEmaV3(model, decay=args.model_ema_decay, use_warmup=args.model_ema_warmup) if args.model_ema else None
    if ema is not None:
        if resumed is not None and "state_dict_ema" in resumed:
            load_weights(ema.module, weights_of(resumed, args.resume, use_ema=True), args.resume)
        if schedule is not None:
            schedule.add(ema.module)
    monitor = None
    if args.monitor_every and find_pools(model):
        monitor = ConditioningMonitor(model, every=args.monitor_every).attach()

    stepper = Stepper(model, optimizer, scaler, args.clip_grad, args.clip_mode, args.grad_accum_steps)
    updates = stepper.updates(len(loader))
    start = resumed["epoch"] + 1 if resumed else 0
    scheduler, epochs = _scheduler(args, optimizer, updates, schedule, start, resumed)
    wrapped: Any = model
    if args.torchcompile:
        wrapped = torch.compile(wrapped, backend=args.torchcompile)
    if args.distributed:
        wrapped = DistributedDataParallel(wrapped, device_ids=[device] if device.type == "cuda" else None)
    stepper.model = wrapped
    return _Run(
        args=args,
        device=device,
        folder=folder or _dated_folder(args, data_config),
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
        progress=Progress(start, epochs, args.log_interval, is_primary(args)),
        autocast=autocast,
        seconds=float((resumed or {}).get("gcp", {}).get("seconds", 0.0)),
    )


def _run_folder(args: argparse.Namespace) -> Path | None:
    """The folder that the arguments name, if it is free or the resumed run's own; None if they name none."""
    if not args.experiment:
        return None
    folder = Path(args.output or "output/train") / args.experiment
    if folder.exists() and not folder.is_dir():
        raise GCPError(f"{folder} is a file; choose another --experiment.")
    # A run that failed in its first epoch has left its arguments only.
    if not is_primary(args) or not folder.is_dir() or all(file.name == "args.yaml" for file in folder.iterdir()):
        return folder
    last = folder / "last.pth.tar"
    if not args.resume:
        remedy = f", or continue it with --resume {last}" if last.exists() else ""
        raise GCPError(f"The run folder {folder} is not empty; choose another --experiment{remedy}.")
    if Path(args.resume).resolve().parent != folder.resolve():
        raise GCPError(
            f"The run folder {folder} holds another run than --resume {args.resume}; choose another --experiment."
        )
    return folder


def _dated_folder(args: argparse.Namespace, data_config: Mapping[str, Any]) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    name = safe_model_name(args.model.rstrip("/").rpartition("/")[2].rpartition(":")[2])
    return Path(args.output or "output/train") / f"{stamp}-{name}-{data_config['input_size'][-1]}"


def _datasets(args: argparse.Namespace, channels: int) -> tuple[Any, Any]:
    common = dict(
        class_map=args.class_map,
        download=args.dataset_download and is_primary(args),
        input_img_mode="RGB" if channels == 3 else "L",
        skip_bad_images=args.skip_bad_images,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    train = create_dataset(args.dataset, args.data_dir, args.train_split, is_training=True, **common)
    evaluation = create_dataset(args.dataset, args.data_dir, args.val_split, **common) if args.val_split else None
    for dataset in (train, evaluation):
        if dataset is not None and not args.no_check_images:
            check_images(dataset, progress=is_primary(args) and sys.stderr.isatty())
    return train, evaluation


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


def _model(args: argparse.Namespace, num_classes: int, channels: int) -> nn.Module:
    arguments: dict[str, Any] = {
        "num_classes": num_classes,
        "in_chans": channels if args.in_chans or args.input_size else None,
        "drop_rate": args.drop or None,
        "drop_path_rate": args.drop_path,
        **(args.model_kwargs or {}),
    }
    folder = args.model.startswith(("local-dir:", "hf-hub:", "hf_hub:")) or Path(args.model).is_dir()
    pretrained = bool((args.pretrained or folder or args.pretrained_path) and not args.resume)
    if args.pretrained_path and not args.resume:
        if folder:
            raise GCPError("--pretrained-path goes with a registered --model; a model folder brings its own weights.")
        weights = read_weights(args.pretrained_path, use_ema=True)
        like = create_model(args.model, last_stride=args.last_stride, **arguments)
        load_weights(like, weights, args.pretrained_path, optional=_head(like))
        arguments["pretrained_cfg_overlay"] = dict(file=args.pretrained_path, num_classes=-1)
    model = create_model(args.model, pretrained=pretrained, last_stride=args.last_stride, **arguments)
    if args.initial_checkpoint:
        load_weights(model, read_weights(args.initial_checkpoint, use_ema=True), args.initial_checkpoint)
    return model


def _head(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of the parameters that a checkpoint of the backbone alone lacks."""
    modules = {id(module) for module in (*find_pools(model), *_classifiers(model))}
    return tuple(f"{name}." for name, module in model.named_modules() if id(module) in modules)


def _classifiers(model: Any) -> list[nn.Module]:
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    found = classifier if isinstance(classifier, (tuple, list)) else [classifier]
    return [module for module in found if isinstance(module, nn.Module)]


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
        raise GCPError(f"{name} cannot take images of {size} pixels: {reason(error)}.") from error
    finally:
        for handle in handles:
            handle.remove()
    if any(math.prod(shape[2:]) < 2 for shape in shapes):
        raise GCPError(
            f"Images of {size} pixels leave {name} a feature map of 1 position, which has no covariance; use "
            f"--img-size {2 * max(input_size[1:])} or more, or --last-stride 1."
        )


def _hybrid_schedule(args: argparse.Namespace, model: nn.Module) -> HybridSchedule | None:
    pools = find_pools(model)
    wanted = args.switch_lr_fraction is not None or args.switch_epoch is not None or args.switch_conditioning
    if not pools:
        if args.hybrid or wanted:
            option = "--hybrid" if args.hybrid else "--switch-..."
            raise GCPError(f"{option} needs a model with covariance pooling (resnet50_svdpade), not {args.model}.")
        return None
    if args.hybrid is False:
        return None
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
            collate = FastCollateMixup(**settings)
    interpolation = args.train_interpolation
    if args.no_aug or not interpolation:
        interpolation = data_config["interpolation"]
    try:
        loader = create_loader(
            dataset,
            input_size=data_config["input_size"],
            batch_size=args.batch_size,
            is_training=True,
            use_prefetcher=not args.no_prefetcher,
            no_aug=args.no_aug,
            re_prob=args.reprob,
            re_mode=args.remode,
            re_count=args.recount,
            train_crop_mode=args.train_crop_mode,
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
            num_workers=args.workers,
            distributed=args.distributed,
            collate_fn=collate,
            pin_memory=args.pin_mem,
            device=device,
            # Workers live for one epoch: they take their seeds from the epoch's, so that a resumed run sees the same.
            persistent_workers=False,
            worker_seeding="all",
        )
    except (AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
        raise GCPError(f"The augmentation arguments cannot be used: {reason(error)}.") from error
    if hasattr(loader.dataset, "__len__") and not len(loader):
        raise GCPError(
            f"--batch-size {args.batch_size} is more than the {len(dataset)} training images"
            f"{f' of {args.world_size} processes' if args.distributed else ''} fill; use a smaller one."
        )
    if hasattr(loader.sampler, "seed"):
        loader.sampler.seed = args.seed
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


def _set_learning_rate(args: argparse.Namespace) -> None:
    if args.lr is None:
        ratio = args.batch_size * args.world_size * args.grad_accum_steps / args.lr_base_size
        scale = args.lr_base_scale or ("sqrt" if any(o in args.opt.lower() for o in ("ada", "lamb")) else "linear")
        args.lr = args.lr_base * (ratio**0.5 if scale == "sqrt" else ratio)


def _optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    kwargs = {**optimizer_kwargs(cfg=args), **(args.opt_kwargs or {})}
    if args.classifier_lr_mult != 1:
        kwargs["param_group_fn"] = lambda module: _groups(args, module)
    try:
        return create_optimizer_v2(model, **kwargs)
    except Exception as error:  # an optimiser's own checks
        raise GCPError(f"Optimizer '{args.opt}' cannot be made: {reason(error)}.") from error


def _groups(args: argparse.Namespace, model: nn.Module) -> list[dict[str, Any]]:
    """timm's parameter groups, with the classifier's in groups of their own.

    Their ``lr_scale`` is what timm's schedulers multiply by. ``initial_lr`` stays unscaled, since the schedulers start
    from it, and ``lr`` is scaled from the first update on.
    """
    options = {key: value for key, value in (args.opt_kwargs or {}).items() if key.startswith("fallback_")}
    options["no_weight_decay_list"] = getattr(model, "no_weight_decay", set)()
    if args.layer_decay is not None:
        groups = param_groups_layer_decay(
            model,
            weight_decay=args.weight_decay,
            layer_decay=args.layer_decay,
            min_scale=args.layer_decay_min_scale,
            no_opt_scale=args.layer_decay_no_opt_scale,
            **options,
        )
    else:
        groups = param_groups_weight_decay(model, weight_decay=args.weight_decay, **options)
    classifier = {id(p) for module in _classifiers(model) for p in module.parameters()}
    base, head = [], []
    for group in groups:
        own = [p for p in group["params"] if id(p) in classifier]
        rest = [p for p in group["params"] if id(p) not in classifier]
        scale = group.get("lr_scale", 1.0)
        if rest:
            base.append({**group, "params": rest, "initial_lr": args.lr, "lr": args.lr * scale})
        if own:
            scale *= args.classifier_lr_mult
            head.append({**group, "params": own, "initial_lr": args.lr, "lr": args.lr * scale, "lr_scale": scale})
    return base + head


def _load_resumed(
    args: argparse.Namespace,
    checkpoint: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    schedule: HybridSchedule | None,
) -> None:
    load_weights(model, weights_of(checkpoint, args.resume), args.resume)
    if not args.no_resume_opt:
        try:
            optimizer.load_state_dict(checkpoint["optimizer"])
            if scaler is not None and scaler.state_dict_key in checkpoint:
                scaler.load_state_dict(checkpoint[scaler.state_dict_key])
        except (KeyError, ValueError, RuntimeError, AttributeError) as error:
            raise GCPError(
                f"{args.resume} holds no state that fits this optimiser ({reason(error)}); give the run's own --opt "
                "arguments, or --no-resume-opt."
            ) from error
    state = checkpoint.get("hybrid")
    if schedule is not None and state is None:
        raise GCPError(
            f"{args.resume} was trained without the hybrid protocol; add --no-hybrid, or start from its weights with "
            "--initial-checkpoint."
        )
    if schedule is None and state is not None:
        raise GCPError(f"{args.resume} was trained with the hybrid protocol; leave --no-hybrid out.")
    if schedule is not None and state is not None:
        schedule.load_state_dict(state)


def _scheduler(
    args: argparse.Namespace,
    optimizer: torch.optim.Optimizer,
    updates: int,
    schedule: HybridSchedule | None,
    start: int,
    resumed: Mapping[str, Any] | None,
) -> tuple[Any, int]:
    """The scheduler at the first epoch of this run, and the number of epochs; the switch is checked."""
    settings = scheduler_kwargs(args, decreasing_metric=args.eval_metric == "loss" or not args.val_split)
    groups_before = [(group["lr"], group.get("initial_lr")) for group in optimizer.param_groups]

    def make(target: torch.optim.Optimizer) -> Any:
        with warnings.catch_warnings():
            # timm warns that nobody saves the state of its plateau scheduler; our checkpoints hold it.
            warnings.simplefilter("ignore", FutureWarning)
            return create_scheduler_v2(target, **settings, updates_per_epoch=updates)

    try:
        scheduler, epochs = make(optimizer)
    except (ValueError, AssertionError) as error:
        raise GCPError(f"Scheduler '{args.sched}' cannot be made: {reason(error)}.") from error
    if scheduler is None and args.sched != "none":
        raise GCPError(f"Scheduler '{args.sched}' is not known to timm {timm.__version__}; update timm or use cosine.")
    if start > epochs:
        raise GCPError(f"--resume {args.resume} has trained {start} epochs, more than --epochs {epochs}; raise it.")
    if schedule is not None:
        per_epoch = updates if args.sched_on_updates else None
        schedule.check(preview_learning_rates(optimizer, make, epochs, per_epoch), epochs, per_epoch)
    if start and scheduler is not None:
        if args.sched_on_updates:
            scheduler.step_update(start * updates)
        else:
            scheduler.step(start)
        plateau = (resumed or {}).get("plateau")
        if plateau is not None and hasattr(scheduler, "lr_scheduler"):
            scheduler.lr_scheduler.load_state_dict(plateau["state"])
            for group, lr in zip(optimizer.param_groups, plateau["lrs"], strict=True):
                group["lr"] = lr
    elif scheduler is None:
        for group, (lr, _) in zip(optimizer.param_groups, groups_before, strict=True):
            group["lr"] = lr
    return scheduler, epochs


# --------------------------------------------------------------------------------------------------- the training


def seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """Seeds every generator for one epoch, so that order and augmentation do not depend on what ran before."""
    random_seed(int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0]))


def _train(run: _Run) -> None:
    args, primary = run.args, is_primary(run.args)
    saver = _open_folder(run) if primary else None
    optimizer, loader = run.stepper.optimizer, run.train_loader
    updates = run.stepper.updates(len(loader))
    if primary:
        run.progress.say(_describe(run))

    def lr() -> float:
        return base_learning_rate(optimizer)

    def announce(epoch: int) -> None:
        assert run.schedule is not None
        run.progress.say(f"epoch {epoch}: method {run.schedule.warm} → {run.schedule.final} at lr {lr():.3g}")

    for epoch in range(run.start_epoch, run.epochs):
        began = time.monotonic()
        seed_epoch(args.seed, epoch, args.rank)
        for target in (loader.sampler, loader.dataset):
            if hasattr(target, "set_epoch"):
                target.set_epoch(epoch)
        first = epoch * updates if args.sched_on_updates else None
        if run.schedule is not None and run.schedule.step(lr(), epoch, update=first):
            announce(epoch)
        if args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
            for target in (run.mixup, loader):
                if target is not None and getattr(target, "mixup_enabled", False):
                    target.mixup_enabled = False

        def after_update(done: int, loss: float, epoch: int = epoch) -> None:
            if run.ema is not None:
                run.ema.update(run.plain, step=done)
            if run.scheduler is not None:
                run.scheduler.step_update(num_updates=done, metric=loss)
            if args.sched_on_updates and run.schedule is not None and run.schedule.step(lr(), epoch, update=done):
                announce(epoch)

        trained = train_one_epoch(
            run.stepper,
            loader,
            run.loss,
            epoch=epoch,
            device=run.device,
            progress=run.progress,
            method=lambda: run.method,
            lr=lr,
            after_update=after_update,
            autocast=run.autocast,
            prepare=run.mixup,
            channels_last=args.channels_last,
        )
        rate = lr()
        if args.distributed and args.dist_bn:
            for module in (run.model, run.ema.module if run.ema else None):
                if module is not None:
                    distribute_bn(module, args.world_size, args.dist_bn == "reduce")
        conditioning = run.monitor.summary() if run.monitor else {}
        if run.schedule is not None and conditioning:
            run.schedule.observe(conditioning, epoch)
        evaluated: dict[str, float] = {}
        if run.eval_loader is not None:
            evaluated = evaluate(
                run.ema.module if run.ema else run.model,
                run.eval_loader,
                device=run.device,
                autocast=run.autocast,
                channels_last=args.channels_last,
                description="evaluating" if primary else "",
            )
        metric = evaluated[run.metric] if evaluated else trained["loss"]
        if run.scheduler is not None:
            run.scheduler.step(epoch + 1, metric)
        seconds = time.monotonic() - began
        run.seconds += seconds
        if saver is not None:
            row = _summary_row(run, epoch, trained, evaluated, rate, conditioning, seconds)
            run.rows.append(row)
            _write_summary(run)
            # The warm phase is saved but not ranked: the best model has to be one of the final method.
            ranked = run.schedule is None or run.schedule.switched
            best, best_epoch = saver.save_checkpoint(epoch, metric if ranked else None)
            run.progress.say(_epoch_line(row, run.epochs, run.metric, best, best_epoch))


def _open_folder(run: _Run) -> RunSaver:
    run.folder.mkdir(parents=True, exist_ok=True)
    save_atomically(run.folder / "args.yaml", lambda file: file.write(run.arguments.encode()))
    saver = RunSaver(
        run.plain,
        run.stepper.optimizer,
        run.args,
        run.folder,
        lambda: _extra_state(run),
        decreasing=run.metric == "loss",
        max_history=run.args.checkpoint_hist,
        model_ema=run.ema.module if run.ema else None,
        amp_scaler=run.stepper.scaler,
    )
    if run.resumed is not None:
        saver.resume(run.resumed, run.args.resume)
        run.rows = _read_summary(Path(run.args.resume).parent / "summary.csv", run.start_epoch)
        if run.rows:
            _write_summary(run)
    return saver


def _extra_state(run: _Run) -> dict[str, Any]:
    """What our checkpoints hold beside timm's: enough to build the model again, and to go on."""
    model = run.plain
    config = getattr(model, "pretrained_cfg", None) or {}
    arguments = {**(run.args.model_kwargs or {}), **model_arguments(model)}
    state: dict[str, Any] = {
        "gcp": {
            "architecture": config.get("architecture") or run.args.model,
            "num_classes": run.args.num_classes,
            "model_args": arguments,
            "last_stride": None if find_pools(model) else run.args.last_stride,
            "data_config": dict(run.data_config),
            "class_names": run.class_names,
            "method": run.method,
            "final_method": run.final_method,
            "ema": run.ema is not None,
            "seconds": run.seconds,
        }
    }
    if run.schedule is not None:
        state["hybrid"] = run.schedule.state_dict()
    if hasattr(run.scheduler, "lr_scheduler"):
        lrs = [group["lr"] for group in run.stepper.optimizer.param_groups]
        state["plateau"] = {"state": run.scheduler.lr_scheduler.state_dict(), "lrs": lrs}
    return state


def _describe(run: _Run) -> str:
    parameters = sum(p.numel() for p in run.plain.parameters())
    lines = [
        f"{run.args.model}: {parameters / 1e6:.2f} M parameters, {run.args.num_classes} classes, images of "
        f"{'×'.join(map(str, run.data_config['input_size']))}, {run.device}"
        f"{f', {run.args.world_size} processes' if run.args.distributed else ''}",
        f"{_span(run)}, lr {run.args.lr:.4g} ({run.args.opt}, {run.args.sched}), run folder {run.folder}",
    ]
    if run.schedule is not None:
        lines.append(run.schedule.describe())
    elif run.method:
        lines.append(f"Method {run.method} throughout.")
    return "\n".join(lines)


def _span(run: _Run) -> str:
    if run.start_epoch == run.epochs:
        return f"all {run.epochs} epochs done"
    return f"epochs {run.start_epoch} to {run.epochs - 1}"


def _summary_row(
    run: _Run,
    epoch: int,
    trained: Mapping[str, float],
    evaluated: Mapping[str, float],
    lr: float,
    conditioning: Mapping[str, float],
    seconds: float,
) -> dict[str, Any]:
    row: dict[str, Any] = {"epoch": epoch, **{f"train_{key}": value for key, value in trained.items()}}
    row.update({f"eval_{key}": evaluated.get(key, math.nan) for key in ("loss", "top1", "top5")})
    row.update(lr=lr, method=run.method or "")
    row.update({key: conditioning.get(key, math.nan) for key in ("kappa", "rank", "under_eps")})
    row["seconds"] = round(seconds, 3)
    return {key: "" if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def _write_summary(run: _Run) -> None:
    buffer = io.StringIO()
    columns = list(run.rows[-1])
    writer = csv.DictWriter(buffer, fieldnames=columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(run.rows)
    save_atomically(run.folder / "summary.csv", lambda file: file.write(buffer.getvalue().encode()))


def _read_summary(path: Path, before: int) -> list[dict[str, Any]]:
    """The rows of earlier epochs, from the run that is resumed."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["epoch"].isdigit() and int(row["epoch"]) < before]


def _epoch_line(row: Mapping[str, Any], epochs: int, metric: str, best: float | None, best_epoch: int | None) -> str:
    def show(key: str, form: str) -> str:
        return "–" if row[key] == "" else format(row[key], form)

    text = f"epoch {row['epoch']}/{epochs - 1}  train loss {show('train_loss', '.4f')} top1 {show('train_top1', '.2f')}"
    if row["eval_loss"] != "":
        text += f"  eval loss {show('eval_loss', '.4f')} top1 {show('eval_top1', '.2f')}"
        text += f" top5 {show('eval_top5', '.2f')}"
    text += f"  lr {row['lr']:.3g}"
    if row["method"]:
        text += f"  {row['method']} κ {show('kappa', '.2g')} rank {show('rank', 'g')}"
    text += f"  {row['seconds']:.1f} s"
    return text + (f"  (best {metric} {best:.4g}, epoch {best_epoch})" if best is not None else "")


# ---------------------------------------------------------------------------------------------------- the outcome


def _finish(run: _Run) -> None:
    """Evaluates the best model under the final method, and writes what a run leaves behind."""
    if run.monitor is not None:
        run.monitor.close()
    args, model = run.args, run.plain
    best = run.folder / "model_best.pth.tar"
    path = next((p for p in (best, run.folder / "last.pth.tar") if p.is_file()), Path(args.resume))
    checkpoint = load_training_checkpoint(path)
    load_weights(model, weights_of(checkpoint, path, use_ema=run.ema is not None), path)
    if run.final_method:
        set_method(model, run.final_method)
    metrics: dict[str, float] = {}
    if run.eval_dataset is not None:
        batch = args.validation_batch_size or args.batch_size
        metrics = evaluate(
            model,
            evaluation_loader(args, run.eval_dataset, run.data_config, run.device, batch),
            device=run.device,
            autocast=run.autocast,
            channels_last=args.channels_last,
            description="evaluating the best model",
        )
    result = {
        **{key: metrics.get(key) for key in ("top1", "top5", "loss", "count")},
        "method": run.final_method,
        "epoch": checkpoint["epoch"],
        "epochs": run.epochs,
        "switched_at": run.schedule.switched_at if run.schedule else None,
        "model": args.model,
        "split": args.val_split,
        "seed": args.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "wall_seconds": round(run.seconds, 1),
        "command": run.command,
        "versions": {
            "timm_gcp": __version__,
            "timm": timm.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    save_atomically(run.folder / "result.json", lambda file: file.write((json.dumps(result, indent=2) + "\n").encode()))
    draw_curves(run.folder / "summary.csv", run.folder / "curves.png")
    run.progress.say(_outcome(run, result))


def _outcome(run: _Run, result: Mapping[str, Any]) -> str:
    """Saves the model folder, and says what came out."""
    args, model = run.args, run.plain
    text = f"Best epoch {result['epoch']}"
    if result["top1"] is not None:
        text += f": top-1 {result['top1']:.2f}, top-5 {result['top5']:.2f}, loss {result['loss']:.4f}"
    if result["method"]:
        text += f" under {result['method']}"
    if args.last_stride == 1 and not find_pools(model):
        # timm itself cannot build this network: a folder would load as another one.
        return f"{text}. No model folder: timm has no undilated stride 1 for {args.model}; use the checkpoint."
    shown = {key: result[key] for key in ("top1", "top5", "loss", "method", "epoch") if result[key] is not None}
    folder = save_folder(
        model,
        run.folder / "model",
        class_names=run.class_names,
        metrics=shown,
        data_config=run.data_config,
        model_args=args.model_kwargs or {},
    )
    return f"{text}. Model folder: timm.create_model('local-dir:{folder}', pretrained=True)"


if __name__ == "__main__":
    from timm_gcp.cli import main as cli

    sys.exit(cli(["train", *sys.argv[1:]]))
