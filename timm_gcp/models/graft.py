"""Puts the pool on a timm model, and keeps timm's conventions while doing so."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.models.resnet import ResNet
from torch import nn

from ..errors import GCPError
from ..pooling import GlobalCovariancePool

__all__ = ["GCPMixin", "graft", "set_last_stride"]

DEFAULT_REDUCE = -1
"""``reduce`` of a head whose width follows the backbone: see ``default_width``."""


def default_width(in_features: int) -> int:
    """The field's number of channels for the covariance: 256, 64 for tiny backbones, 0 (all) where there are no more.

    Args:
        in_features: channels of the last feature map.
    """
    return next((width for width in (256, 64) if in_features > width), 0)


class GCPMixin(nn.Module):
    """What a grafted model has beyond its own class. Use ``graft``, which makes a subclass of the model's class."""

    gcp_args: dict[str, Any]
    num_classes: int
    num_features: int
    head_hidden_size: int
    get_classifier: Callable[..., Any]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier, in timm's manner.

        Args:
            num_classes: outputs of the new classifier; 0 for none.
            global_pool: None keeps the pool, ``''`` takes it away (the model then returns its feature map), the name
                of a method sets the pool's method.

        Raises:
            GCPError: a pooling that is none of these; the plain backbone has the others.
        """
        pool = self.get_submodule("global_pool")
        width = self.num_features
        if global_pool == "":
            if num_classes:
                raise GCPError("A linear classifier needs pooled features: give global_pool='' with num_classes=0.")
            self.global_pool = nn.Identity()
        elif not isinstance(pool, GlobalCovariancePool):
            raise GCPError("The pool of this model was taken away; create the model again to get it back.")
        else:
            if global_pool is not None and global_pool != pool.pool_type:
                pool.method = global_pool
            width = pool.out_features
        self.head_hidden_size = width
        self.num_classes = num_classes
        name = str(self.get_classifier(name_only=True))
        like = next(self.parameters())
        classifier = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        self.set_submodule(name, classifier.to(device=like.device, dtype=like.dtype).train(self.training))

    def __reduce_ex__(self, protocol):  # type: ignore[override]
        # The class was made at run time: it is found again through the class that it was made from.
        return _blank, (type(self).__mro__[2],), self.__dict__


def _grafted_class(base: type) -> type:
    """The subclass of a timm class that carries the pool; the same object for the same class."""
    if base not in _GRAFTED:
        namespace = {"__module__": __name__, "__doc__": base.__doc__}
        _GRAFTED[base] = type(f"{base.__name__}GCP", (GCPMixin, base), namespace)
    return _GRAFTED[base]


_GRAFTED: dict[type, type] = {}


def _blank(base: type) -> nn.Module:
    cls = _grafted_class(base)
    return cls.__new__(cls)  # type: ignore[call-overload]


def graft(
    model: nn.Module,
    method: str = "svdpade",
    reduce: int | None = DEFAULT_REDUCE,
    last_stride: int | None = 1,
    dtype: torch.dtype | None = None,
    method_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Replaces the global pooling of a timm model by covariance pooling, and its classifier by a fresh one.

    The model itself is changed and returned; its class becomes a subclass of its own class, so everything else of
    timm goes on working (``forward_features``, ``forward_head``, ``features_only``, ``group_matcher``, …). The
    parameters of the backbone keep their names and values.

    Args:
        model: a classification model of timm's ResNet class (ResNet, ResNeXt, SE-ResNet, Wide ResNet, …).
        method: a name of ``timm_gcp.METHODS``.
        reduce: channels after the 1×1 reduction; -1 takes 256, 64 for backbones of at most 256 channels, none for at
            most 64; 0 or None leaves the channels as they are.
        last_stride: stride of the last stage: 1 (14×14 maps at 224 px, as iSQRT-COV has it), 2 (7×7), or None to leave
            the model as it is.
        dtype: precision of the spectral part; None takes the method's own.
        method_args: the method's arguments.

    Returns:
        The same model.

    Raises:
        GCPError: a model of another class, or arguments that do not fit.
    """
    if isinstance(model, GCPMixin):
        raise GCPError(
            f"{type(model).__name__} has a covariance pool already; set another method by model.global_pool.method."
        )
    if not isinstance(model, ResNet):
        raise GCPError(f"graft knows models of timm's ResNet class; {type(model).__name__} is none of them.")
    num_features = int(model.num_features)
    width = default_width(num_features) if reduce == DEFAULT_REDUCE else (reduce or 0)
    if width < 0 or width > num_features:
        raise GCPError(f"reduce={width} does not fit a feature map of {num_features} channels; 0 leaves them all.")
    pool = GlobalCovariancePool(num_features, method, width, dtype, method_args)
    like = next(model.parameters())
    if last_stride is not None:
        set_last_stride(model, last_stride)
    model.__class__ = _grafted_class(type(model))
    model.global_pool = pool.to(device=like.device, dtype=like.dtype).train(model.training)
    # What a saved folder has to say so that the same model is built again.
    model.gcp_args = {"last_stride": last_stride, "reduce": width, "method_args": dict(method_args or {})}
    if dtype is not None:
        model.gcp_args["spectral_dtype"] = str(dtype).removeprefix("torch.")
    model.reset_classifier(model.num_classes)
    return model


def set_last_stride(model: nn.Module, stride: int) -> nn.Module:
    """Gives the last stage of a timm ResNet the stride 1 or 2, without dilation; weights are untouched.

    Args:
        model: a model of timm's ResNet class, grafted or plain.
        stride: 1 doubles the sides of the last feature map; 2 is timm's own.

    Returns:
        The same model.

    Raises:
        GCPError: another stride, another class, or a stage that downsamples by a layer whose stride cannot be set.
    """
    if stride not in (1, 2):
        raise GCPError(f"The stride of the last stage is 1 or 2, not {stride}.")
    if not isinstance(model, ResNet):
        raise GCPError(f"set_last_stride knows models of timm's ResNet class; {type(model).__name__} is none of them.")
    info = model.feature_info[-1]
    if info["reduction"] == (16 if stride == 1 else 32):
        return model
    if info["reduction"] != 32 or stride != 1:
        raise GCPError("The last stage's stride can be set on a model of output stride 32 only; create it without one.")
    block = model.layer4[0]
    for name, module in list(block.named_modules()):
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
        elif isinstance(module, nn.AvgPool2d) and module.stride == 2:
            block.set_submodule(name, nn.Identity())  # pooling 2×2 only served the stride
        elif not any(module.children()) and getattr(module, "stride", 1) not in (1, (1, 1)):
            raise GCPError(f"The last stage downsamples by {type(module).__name__}, whose stride cannot be set: use 2.")
    block.stride = 1
    info["reduction"] = 16
    return model
