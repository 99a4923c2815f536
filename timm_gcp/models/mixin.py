"""The class of a grafted model: a timm model's class with a covariance-pooled head in place of its own."""

from typing import Any

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from ..errors import GCPError
from ..map_pool import MapPool
from ..method import name_of_dtype
from ..moment_pooling import MOMENT_POOL, MomentPool, moment_pool
from ..pool_options import PoolOptions, check_reduce
from ..pooling import GlobalCovariancePool
from .alexnet import hidden_layers
from .head import Head, family_of, read_head
from .names import split_name
from .stride import set_last_stride

__all__ = ["DEFAULT_REDUCE", "GCPMixin", "default_width", "put_pool", "replace_pool"]

DEFAULT_REDUCE = -1
"""The value of ``reduce`` that stands for ``default_width``."""

GENERIC_POOL = "gcp"
"""The ``global_pool`` of folders whose architecture alone names the method."""

_POOLS_OF_TIMM = ("avg", "max", "avgmax", "catavgmax", "token", "map", "prr")
"""Values of ``global_pool`` that the plain models of timm have."""

_RECORDED = ("last_stride", "reduce", "method_args", "spectral_dtype", *PoolOptions.names())
"""Names of the arguments of a pool that ``GCPMixin.gcp_args`` may hold."""

for _pool in (GlobalCovariancePool, MomentPool):
    register_notrace_module(_pool)  # one node of an fx graph, like timm's layers with control flow


def default_width(in_features: int) -> int:
    """The usual number of channels of the covariance: 256, 64 for tiny backbones, 0 (all) for at most 64 channels.

    Args:
        in_features: channels of the last feature map.
    """
    return next((width for width in (256, 64) if in_features > width), 0)


class GCPMixin(nn.Module):
    """Overrides the head in timm's interface; ``graft`` derives a class from this and from the model's own."""

    gcp_head: Head
    num_classes: int
    num_features: int
    head_hidden_size: int

    @property
    def gcp_args(self) -> dict[str, Any]:
        """The arguments that a saved folder records, so that the same model is built again with its present method."""
        recorded: dict[str, Any] = dict(self.__dict__.get("gcp_args", {}))
        pool = getattr(self, "global_pool", None)
        if isinstance(pool, GlobalCovariancePool):
            recorded["method_args"] = pool.method_args
        return recorded

    @gcp_args.setter
    def gcp_args(self, arguments: dict[str, Any]) -> None:
        self.__dict__["gcp_args"] = arguments

    @property
    def _model_args(self) -> dict[str, Any]:
        """The arguments that timm's own savers write into ``config.json``: those of the backbone and ``gcp_args``."""
        given = {key: value for key, value in self.gcp_args.items() if value not in (None, {})}
        kept = self.__dict__.get("_model_args", {})
        return {**{key: value for key, value in kept.items() if key not in _RECORDED}, **given}

    @_model_args.setter
    def _model_args(self, arguments: dict[str, Any]) -> None:
        self.__dict__["_model_args"] = arguments

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Computes logits from the feature map: norm, pool, hidden layers of VGG and AlexNet, dropout, classifier.

        Args:
            x: feature map, in the backbone's layout.
            pre_logits: return the input of the classifier.

        Returns:
            Logits ``[B, num_classes]``, or the features ``[B, head_hidden_size]``. Without a pool (``global_pool=''``)
            the normalised map.
        """
        head = self.gcp_head
        if head.norm is not None:
            x = self._part(head.norm)(x)
        pool = self._part("global_pool")
        if not isinstance(pool, MapPool):
            return x
        tokens = x[:, head.prefix :] if head.prefix else x
        x = pool(tokens, x[:, 0]) if "class" in pool.options.first_order_parts else pool(tokens)
        if head.hidden:
            x = self._part("pre_logits")(x)
        if head.drop is not None:
            x = self._part(head.drop)(x)
        else:
            x = nn.functional.dropout(x, float(getattr(self, "drop_rate", 0.0)), self.training)
        return x if pre_logits else self._part(head.classifier)(x)

    @property
    def removed_layers(self) -> tuple[str, ...]:
        """Prefixes of keys of the backbone's head layers that the pool replaces; a state dict may hold them in vain.

        Saved models of MobileNetV4 from the time when its ``norm_head`` stayed, unused, hold that layer.
        """
        return tuple(f"{path}." for path in self.gcp_head.replaced)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own = self.state_dict().keys()
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = key.removeprefix(prefix)
            if name.startswith(self.removed_layers) and name not in own:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _part(self, path: str) -> Any:
        part: Any = self
        for name in path.split("."):  # torch 2.6 does not compile get_submodule
            part = getattr(part, name)
        return part

    def get_classifier(self, name_only: bool = False) -> Any:
        """The classifier, or its path, which is that of the backbone's own family."""
        name = self.gcp_head.classifier
        return name if name_only else self._part(name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier, as timm's models do.

        Args:
            num_classes: outputs of the new classifier; 0 for none.
            global_pool: None keeps the pool, ``''`` removes it (the model then returns its feature map), the name of a
                method sets the pool's method.

        Raises:
            GCPError: any other pooling, which only the plain backbone has.
        """
        pool = self._part("global_pool")
        width = self.num_features
        if global_pool == "":
            if num_classes:
                raise GCPError("A linear classifier needs pooled features: give global_pool='' with num_classes=0.")
            self.global_pool = nn.Identity()
        elif not isinstance(pool, MapPool):
            raise GCPError("The pool of this model was taken away; create the model again to get it back.")
        else:
            if global_pool in _POOLS_OF_TIMM:
                cfg: Any = getattr(self, "pretrained_cfg", None) or {}
                plain = split_name(cfg.get("architecture") or "").backbone or "the plain model"
                raise GCPError(
                    f"This model pools a covariance, and global_pool={global_pool!r} asks for another pool: create "
                    f"{plain}, or give the name of a method, such as 'isqrt'."
                )
            if global_pool not in (None, GENERIC_POOL, pool.method):
                pool.method = global_pool
            width = self.head_hidden_size if self.gcp_head.hidden else pool.out_features
        self.head_hidden_size = width
        self.num_classes = num_classes
        like = next(self.parameters())
        classifier = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        classifier.to(device=like.device, dtype=like.dtype).train(self.training)
        self.set_submodule(self.gcp_head.classifier, classifier)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the activations of the backbone's stages and of the pool in the backward pass.

        Raises:
            AssertionError: the family does not support it (raised by timm).
        """
        super().set_grad_checkpointing(enable)  # type: ignore[misc]
        pool = self._part("global_pool")
        if isinstance(pool, GlobalCovariancePool):
            pool.set_grad_checkpointing(enable)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:  # type: ignore[override]
        # The class is made at run time; unpickling derives it again from the class of timm.
        return _blank, (type(self).__mro__[2],), self.__dict__


def _grafted_class(base: type) -> type:
    """The subclass of a timm class with a covariance-pooled head; one object per class."""
    if base not in _GRAFTED:
        namespace = {"__module__": __name__, "__doc__": base.__doc__}
        _GRAFTED[base] = type(f"{base.__name__}GCP", (GCPMixin, base), namespace)
    return _GRAFTED[base]


_GRAFTED: dict[type, type] = {}


def _blank(base: type) -> nn.Module:
    cls = _grafted_class(base)
    return cls.__new__(cls)  # type: ignore[call-overload]


def put_pool(
    model: nn.Module,
    method: str = "svdpade",
    reduce: int | None = DEFAULT_REDUCE,
    last_stride: int | None = None,
    dtype: torch.dtype | None = None,
    **pool_args: Any,
) -> nn.Module:
    """Replaces a model's pooling and classifier as ``graft`` does, with its arguments, but keeps the model's name."""
    if isinstance(model, GCPMixin):
        raise GCPError(
            f"{type(model).__name__} has a covariance pool already; set another method by model.global_pool.method."
        )
    head = read_head(model)
    family = family_of(model)
    grafted: Any = model
    pool, width = _make_pool(model, head, method, reduce, dtype, pool_args)
    if last_stride is None and family.stride_one and grafted.feature_info[-1]["reduction"] == 32:
        last_stride = 1
    if last_stride is not None:
        set_last_stride(model, last_stride)
    grafted.__class__ = _grafted_class(type(model))
    grafted.gcp_head = head
    _keep(model, head)
    if head.hidden:
        like = next(model.parameters())
        hidden = hidden_layers(pool.out_features, grafted.head_hidden_size, grafted.drop_rate)
        grafted.pre_logits = hidden.to(device=like.device, dtype=like.dtype).train(model.training)
    _set_pool(model, pool, width, last_stride)
    return model


def replace_pool(
    model: nn.Module,
    method: str,
    reduce: int | None = DEFAULT_REDUCE,
    dtype: torch.dtype | None = None,
    **pool_args: Any,
) -> nn.Module:
    """Replaces the covariance pool of a grafted model, and its classifier by a fresh one.

    Args:
        model: grafted, without hidden layers between pool and classifier; it is changed.
        method: as `graft` takes it.
        reduce: as `graft` takes it.
        dtype: as `graft` takes it.
        **pool_args: fields of `PoolOptions`, ``method_args`` and ``chunk_size``.

    Returns:
        The same model.

    Raises:
        GCPError: arguments that do not fit.
    """
    grafted: Any = model
    pool, width = _make_pool(model, grafted.gcp_head, method, reduce, dtype, pool_args)
    _set_pool(model, pool, width, grafted.gcp_args["last_stride"])
    return model


def _make_pool(
    model: nn.Module,
    head: Head,
    method: str,
    reduce: int | None,
    dtype: torch.dtype | None,
    pool_args: dict[str, Any],
) -> tuple[GlobalCovariancePool | MomentPool, int]:
    """The pool for a model's map, and its width; 0 for all channels."""
    network: Any = model
    channels = int(network.num_features)
    if pool_args.get("first_order") == "auto":
        pool_args["first_order"] = head.first_order
    pool: GlobalCovariancePool | MomentPool
    if method == MOMENT_POOL:
        pool = moment_pool(
            channels, None if reduce == DEFAULT_REDUCE else reduce or 0, head.input_fmt, dtype, **pool_args
        )
        width = pool.channels
    else:
        width = reduce or 0
        if reduce == DEFAULT_REDUCE:
            usual = family_of(model).reduce
            width = default_width(channels) if usual is None else usual
        check_reduce(width, channels, most=channels)
        pool = GlobalCovariancePool(channels, method, width, dtype, input_fmt=head.input_fmt, **pool_args)
    if "class" in pool.options.first_order_parts and not head.prefix:
        raise GCPError(
            f"first_order='{pool.options.first_order}' needs a class token, and {type(model).__name__} has none; use "
            "'mean'."
        )
    return pool, width


def _set_pool(model: nn.Module, pool: GlobalCovariancePool | MomentPool, width: int, last_stride: int | None) -> None:
    """Sets the pool of a grafted model, its record, and a classifier that fits."""
    grafted: Any = model
    like = next(model.parameters())
    grafted.global_pool = pool.to(device=like.device, dtype=like.dtype).train(model.training)
    grafted.gcp_args = _arguments(pool, width, last_stride)
    grafted.reset_classifier(grafted.num_classes)


def _arguments(pool: GlobalCovariancePool | MomentPool, reduce: int, last_stride: int | None) -> dict[str, Any]:
    """The arguments of a pool that stay when its method is switched."""
    arguments: dict[str, Any] = {"last_stride": last_stride, "reduce": reduce, **pool.options.given()}
    if isinstance(pool, GlobalCovariancePool) and pool.dtype is not None:
        arguments["spectral_dtype"] = name_of_dtype(pool.dtype)
    return arguments


def _keep(model: nn.Module, head: Head) -> None:
    """Removes from a head all layers that do not stay beside a covariance pool."""
    for path in head.replaced:
        if path != head.container:
            model.set_submodule(path, nn.Identity())
    if head.container is None:
        return
    kept: dict[str, nn.Module] = {head.classifier: nn.Identity()}
    for inner in (head.drop, head.norm):
        if inner is not None and inner.startswith(f"{head.container}."):
            kept[inner] = model.get_submodule(inner)
    model.set_submodule(head.container, nn.ModuleDict())
    for path in reversed(kept):  # the classifier last, as the data flows
        *above, name = path.split(".")
        parent = model
        for step in above:
            if not hasattr(parent, step):
                parent.add_module(step, nn.ModuleDict())
            parent = parent.get_submodule(step)
        parent.add_module(name, kept[path])
