"""Options of a training run, by the component that each part configures.

Names are timm's. The command line has the defaults of what only training takes (``commands/train_options.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.options import InputOptions, LoadingOptions, TrainingDataOptions
from ..hybrid.options import HybridOptions

__all__ = [
    "AugmentationOptions",
    "AveragingOptions",
    "ImbalanceOptions",
    "ModelOptions",
    "OptimizerOptions",
    "RunOptions",
    "SchedulerOptions",
    "TrainOptions",
]


@dataclass(kw_only=True)
class ModelOptions:
    """The model and the weights that it starts from.

    Attributes:
        model: registered name, model folder or ``hf-hub:`` id.
        pretrained: start from pretrained weights; a model folder or Hub model always starts from its own.
        pretrained_path: a checkpoint used as the pretrained weights.
        initial_checkpoint: a checkpoint whose weights are all loaded, with the classifier; '' for none.
        init_head: 'random' for a fresh head, 'probe' for one that is fitted to the frozen features of the training
            images; where the weights bring a head that fits, 'random' keeps it.
        train_only: 'head' or 'classifier' freezes the rest; None trains everything.
        num_classes: number of classes; None takes the data set's.
        model_kwargs: arguments of ``timm.create_model``.
        method_args: arguments of the model's method.
        last_stride: stride of a ResNet's last stage, 1 or 2; None takes the model's own.
        drop: dropout before the classifier.
        drop_path: stochastic depth; None takes the model's own.
        grad_checkpointing: recompute activations in the backward pass.
        torchcompile: backend of ``torch.compile``; None does not compile.
    """

    model: str
    pretrained: bool
    pretrained_path: str | None
    initial_checkpoint: str
    init_head: str
    train_only: str | None
    num_classes: int | None
    model_kwargs: dict[str, Any]
    method_args: dict[str, Any]
    last_stride: int | None
    drop: float
    drop_path: float | None
    grad_checkpointing: bool
    torchcompile: str | None


@dataclass(kw_only=True)
class OptimizerOptions:
    """Optimiser, learning rate, clipping and accumulation.

    Attributes:
        lr: peak of the learning rate; None takes ``lr_base`` times the ratio of global batch and ``lr_base_size``, and
            is filled in before the optimiser is made.
        find_lr: choose the rate by a range test; ``lr`` is filled in by it, or by the checkpoint that is resumed.
        batch_size: images per batch and process.
        grad_accum_steps: batches whose gradients make one update.
        classifier_lr_mult: factor of the learning rate for the classifier.
        opt, opt_eps, opt_betas, momentum, weight_decay, layer_decay, layer_decay_min_scale,
            layer_decay_no_opt_scale, opt_kwargs: as timm's ``create_optimizer_v2``.
        clip_grad, clip_mode: as timm's ``dispatch_clip_grad``; None does not clip.
        orthogonal_gradient: the nearest orthogonal gradient updates the reduction before the covariance pool.
        optimal_lr: the optimal learning rate updates it, where it is under the scheduled one.
    """

    lr: float | None
    find_lr: bool = False
    lr_base: float
    lr_base_size: int
    lr_base_scale: str
    batch_size: int
    grad_accum_steps: int
    classifier_lr_mult: float
    opt: str
    opt_eps: float | None
    opt_betas: Sequence[float] | None
    momentum: float
    weight_decay: float
    clip_grad: float | None
    clip_mode: str
    orthogonal_gradient: bool
    optimal_lr: bool
    layer_decay: float | None
    layer_decay_min_scale: float
    layer_decay_no_opt_scale: float | None
    opt_kwargs: dict[str, Any]


@dataclass(kw_only=True)
class SchedulerOptions:
    """The schedule of the learning rate, as timm's ``create_scheduler_v2``; lengths in epochs.

    Attributes:
        epochs: passes over the training images.
        sched_on_updates: change the rate at every update; None is filled in by the length of the run.
        warmup_epochs: None is filled in by the length of the run.
        decay_epochs: step: epochs between two falls of the rate; wsd and rsqrt: length of the decay, as a share of the
            schedule where it is under 1; None is filled in by the schedule.
    """

    epochs: int
    sched: str
    sched_on_updates: bool | None
    lr_noise: Sequence[float] | None
    lr_noise_pct: float
    lr_noise_std: float
    lr_cycle_mul: float
    lr_cycle_decay: float
    lr_cycle_limit: int
    lr_k_decay: float
    lr_decay_fn: str | None
    lr_stable_timescale: float | None
    warmup_epochs: float | None
    warmup_lr: float
    warmup_prefix: bool
    min_lr: float
    cooldown_epochs: int
    decay_milestones: Sequence[int]
    decay_epochs: float | None
    decay_rate: float
    patience_epochs: int


@dataclass(kw_only=True)
class AugmentationOptions:
    """Augmentation of the training images, mixing and the loss, as timm's ``create_loader``, ``Mixup`` and losses.

    Attributes:
        train_crop_mode: 'rrc', 'rkrc', 'rkrr', or 'eval' for the crop of evaluation; None is 'rrc'.
        mixup_off_epoch: no mixing from this epoch on, from 0; 0 never turns it off.
        smoothing: label smoothing.
    """

    no_aug: bool
    train_crop_mode: str | None
    scale: Sequence[float]
    ratio: Sequence[float]
    hflip: float
    vflip: float
    color_jitter: float
    color_jitter_prob: float | None
    grayscale_prob: float | None
    gaussian_blur_prob: float | None
    aa: str | None
    reprob: float
    remode: str
    recount: int
    train_interpolation: str
    mixup: float
    cutmix: float
    cutmix_minmax: Sequence[float] | None
    mixup_prob: float
    mixup_switch_prob: float
    mixup_mode: str
    mixup_off_epoch: int
    smoothing: float
    bce_loss: bool
    bce_sum: bool
    bce_target_thresh: float | None
    bce_pos_weight: float | None

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that targets are soft."""
        return self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None


@dataclass(kw_only=True)
class ImbalanceOptions:
    """Corrections for classes with few images.

    Attributes:
        class_weights: weights of the classes in the loss: 'balanced' for those inverse to the number of images, or a
            CSV file with the columns class and weight; '' for none.
        balanced_sampling: draw every class equally often.
        logit_adjustment: τ, with which the logarithms of the shares of the classes are added to the logits in the
            training loss; None adds nothing.
    """

    class_weights: str
    balanced_sampling: bool
    logit_adjustment: float | None


@dataclass(kw_only=True)
class AveragingOptions:
    """Batch norm among processes, and the average of the weights.

    Attributes:
        sync_bn: batch norm over the batches of all processes.
        dist_bn: after an epoch, batch norm's statistics are averaged ('reduce'), taken from the first process
            ('broadcast') or left as they are ('').
        model_ema: keep and evaluate an exponential moving average of the weights.
        model_ema_decay: share of the average that is kept at each update.
        model_ema_warmup: start with a smaller decay.
    """

    sync_bn: bool
    dist_bn: str
    model_ema: bool
    model_ema_decay: float
    model_ema_warmup: bool


@dataclass(kw_only=True)
class RunOptions:
    """The run itself: folder, resuming, seed, evaluation and checkpoints.

    Attributes:
        output: folder of runs; '' is ``output/train``.
        experiment: name of the run, a folder in ``output``; '' takes date, model and image size.
        resume: checkpoint to continue, or 'auto' for the newest of the run folder; '' starts from the beginning.
        no_resume_opt: resume without the state of the optimiser.
        seed: of weights, order and augmentation.
        validation_batch_size: images per batch of evaluation; None takes ``batch_size``.
        eval_metric: 'top1', 'top5' or 'loss'; of multi-label data 'map', 'micro_f1', 'macro_f1' or 'loss': what ranks
            the epochs.
        patience: end after so many ranked epochs without a better one; None trains all epochs.
        time_limit: end after the epoch in which the epochs of all segments exceed so many seconds; None for no limit.
        tta: 'mirror' evaluates the best model with logits averaged over each image and its mirror image.
        monitor_every: measure the conditioning every so many batches; 0 never.
        log_interval: updates between two lines.
        checkpoint_hist: number of checkpoints kept.
        recovery_interval: save a checkpoint every so many updates too; 0 at the end of epochs only.
        on_nonfinite: 'stop' or 'skip' where loss or gradient is not finite.
        no_report: write no report at the end of the run.
        log: 'tensorboard', 'wandb' or 'mlflow' takes the numbers of every epoch as well; '' for none.
        debug: show the traceback of an error.
        world_size: number of processes; known once they have joined.
    """

    output: str
    experiment: str
    resume: str
    no_resume_opt: bool
    seed: int
    validation_batch_size: int | None
    eval_metric: str
    patience: int | None
    time_limit: float | None
    tta: str
    monitor_every: int
    log_interval: int
    checkpoint_hist: int
    recovery_interval: int
    on_nonfinite: str
    no_report: bool
    log: str
    debug: bool
    world_size: int = field(default=1, init=False)


@dataclass(kw_only=True)
class TrainOptions(
    TrainingDataOptions,
    InputOptions,
    LoadingOptions,
    HybridOptions,
    ModelOptions,
    OptimizerOptions,
    SchedulerOptions,
    AugmentationOptions,
    ImbalanceOptions,
    AveragingOptions,
    RunOptions,
):
    """All options of a training run. A function takes the part that it needs, and is given the whole.

    What the user leaves open (``resume='auto'``, names of splits, ``num_classes``, ``lr``, ``warmup_epochs``,
    ``decay_epochs``, ``sched_on_updates``) is filled in while the run is prepared; checkpoints hold the options as they
    were then.
    """

    @property
    def evaluation_batch_size(self) -> int:
        """Images per batch of evaluation."""
        return self.validation_batch_size or self.batch_size
