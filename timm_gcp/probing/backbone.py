"""The features of images by a frozen backbone: what a covariance pool on it would see."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data.loaders import WrappedDataset, evaluation_loader
from ..data.preprocessing import preprocessing
from ..errors import GCPError
from ..models import graft
from ..models.deepcopy import copy_model
from ..models.head import Head
from ..models.mixin import GCPMixin, replace_pool
from .features import Features
from .options import FeatureOptions

__all__ = ["Backbone", "require_linear_head", "with_pool"]


class _Part(WrappedDataset):
    """Some images of a data set."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        super().__init__(dataset)
        self.indices = indices

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)


class Backbone:
    """A frozen backbone in evaluation mode, with its preprocessing.

    Args:
        model: a timm classification model, plain or with a covariance pool; it is copied, and not changed.
        options: preprocessing, device, precision and loading.

    Attributes:
        data_config: preprocessing.
        has_token: whether it has a class token.
        first_order: the vectors that the options mean: 'mean', 'class', 'mean+class' or None.
        key: what its features depend on, beside the images.

    Raises:
        GCPError: a model whose features cannot be pooled, or that has hidden layers behind its pool.
    """

    def __init__(self, model: nn.Module, options: FeatureOptions) -> None:
        self.options = options
        self.data_config = preprocessing(options, model, use_test_size=True)
        model = copy_model(model)
        body: Any = model if isinstance(model, GCPMixin) else graft(model, "isqrt", reduce=0)
        require_linear_head(body)
        self._head = body.gcp_head
        self.has_token, self.first_order = bool(self._head.prefix), _first_order(options, self._head)
        body.reset_classifier(0, "")
        self.key: dict[str, Any] = {
            "weights": _digest(body),
            "last_stride": body.gcp_args["last_stride"],
            "data_config": {name: str(value) for name, value in sorted(self.data_config.items())},
            "orient": not options.ignore_exif_orientation,
            "amp": options.amp_dtype if options.amp else None,
            "batch_size": options.batch_size,
        }
        self._device = options.torch_device
        self._autocast = options.autocast(self._device)
        layout = torch.channels_last if options.channels_last else torch.preserve_format
        self._model: Any = body.to(self._device, memory_format=layout).eval()

    @torch.inference_mode()
    def features(self, images: Tensor) -> Features:
        """The features of a batch of images ``[B, C, H, W]``, in float32.

        Raises:
            GCPError: a map of a single position, which has no covariance.
        """
        images = images.to(self._device)
        if self.options.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            x = self._model(images)
        x = x.float()
        token = x[:, 0] if self.has_token else None
        if self._head.input_fmt == "NLC":
            maps = x[:, self._head.prefix :].mT
        else:
            maps = (x.movedim(-1, 1) if self._head.input_fmt == "NHWC" else x).flatten(2)
        if maps.shape[2] < 2:
            raise GCPError(
                "Images of this size leave a feature map of 1 position, which has no covariance; give a larger "
                "`img_size`."
            )
        return Features(maps, token)

    def batches(
        self, dataset: Any, indices: Sequence[int], mirror: bool = False
    ) -> Iterator[tuple[list[Features], Tensor]]:
        """Features of some images in batches: of the images, and of their mirror images if asked for.

        Args:
            dataset: in timm's form.
            indices: of the images, in the order wanted.
            mirror: adds the mirror images.

        Yields:
            The features of each view, and the labels ``[B]``.
        """
        part, size = _Part(dataset, indices), self.options.batch_size
        with evaluation_loader(self.options, part, self.data_config, self._device, size) as loader:
            for images, labels in loader:
                views = [images, images.flip(-1)] if mirror else [images]
                yield [self.features(view) for view in views], labels.cpu()


def _first_order(options: FeatureOptions, head: Head) -> str | None:
    """The first-order vectors that the options mean.

    Raises:
        GCPError: the class token of a backbone that has none.
    """
    if options.first_order == "auto":
        return head.first_order
    if "class" in options.first_order and not head.prefix:
        raise GCPError(
            f"`first_order={options.first_order}` needs a class token, and this backbone has none; use mean."
        )
    return None if options.first_order == "none" else options.first_order


def with_pool(model: nn.Module, method: str, **pool_args: Any) -> Any:
    """Puts a pool on a backbone, in the place of the covariance pool that it may have.

    Args:
        model: plain or grafted; it is changed.
        method: as `graft` takes it.
        **pool_args: as `graft` takes them.

    Returns:
        The same model, grafted.

    Raises:
        GCPError: hidden layers lie between pool and classifier (VGG, AlexNet), or arguments do not fit.
    """
    if not isinstance(model, GCPMixin):
        graft(model, method, **pool_args)
        require_linear_head(model)
        return model
    require_linear_head(model)
    return replace_pool(model, method, **pool_args)


def require_linear_head(grafted: Any) -> None:
    """Makes sure that a linear classifier can follow the pool of a grafted model.

    Raises:
        GCPError: hidden layers lie between pool and classifier (VGG, AlexNet).
    """
    if grafted.gcp_head.hidden:
        raise GCPError(
            f"{type(grafted).__name__} has hidden layers between pool and classifier, so a linear classifier has no "
            "place in it; use another backbone."
        )


def _digest(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers of a model."""
    digest = hashlib.sha256()
    state: Mapping[str, Tensor] = model.state_dict()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
