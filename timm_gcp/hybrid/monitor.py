"""Measures the conditioning of the covariances during training."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..distributed import gathered, process_count
from ..errors import GCPError
from ..pooling import find_pools
from ..spectral.covariance import binary_scale, centre
from ..spectral.eigh import eigh
from ..spectral.factor import kept

__all__ = ["ConditioningMonitor", "conditioning", "conditioning_word", "largest_k", "split_groups"]

EPS = torch.finfo(torch.float64).eps
GOOD, FAIR = 1e6, 1e10
"""Upper ends of κ: times the rounding of float32 (1.2e-7) and float64 (2.2e-16) they are 0.1 and 2e-6."""


@torch.no_grad()
def conditioning(x: Tensor, eps: float = EPS) -> Tensor:
    """The conditioning of the covariances of a batch of features.

    Σ is centred and divided by M. Its eigenvalues come in float64 from the smaller of XXᵀ and XᵀX. By construction no
    more than ``min(C, M − 1)`` of them are above zero. Of these:

    - *kept* are those above ``max(C, M)·eps(float64)·λ_max``, the rest is rounding (``spectral.factor``). The rank
      is their number, κ is the largest divided by the smallest.
    - *under eps* are those at or under `eps`, which the published SVD layers raise to `eps` whatever the scale (Song,
      Sebe, Wang, ICCV 2021: 'the smallest positive number the data precision allows'), and those not kept. They are
      counted as a share of ``min(C, M − 1)``, so the zeros that M < C makes do not count.

    Args:
        x: features ``[B, C, ...]``, any floating dtype.
        eps: threshold in the units of Σ. The default is that of float64, in which the SVD family works;
            ``torch.finfo(torch.float32).eps`` tells how many eigenvalues single precision would lose as well.

    Returns:
        ``[B, 3]`` in float64: κ (nan where Σ = 0), rank, share under eps (0 where M = 1). A row is all nan where the
        features are not finite.
    """
    finite, scale, eigenvalues, above_rounding = _spectra(x)
    possible = eigenvalues.shape[1]
    largest = eigenvalues.amax(-1) if possible else torch.zeros_like(scale)
    rank = above_rounding.sum(-1)
    smallest = torch.where(above_rounding, eigenvalues, math.inf).amin(-1) if possible else largest
    kappa = torch.where(rank > 0, largest / smallest, math.nan)
    above = above_rounding & (eigenvalues * scale.square()[:, None] > eps)
    under = 1 - above.sum(-1).double() / possible if possible else torch.zeros_like(kappa)
    return torch.where(finite[:, None], torch.stack([kappa, rank.double(), under], -1), math.nan)


@torch.no_grad()
def largest_k(x: Tensor) -> Tensor:
    """The largest 1/(λi − λj) between kept eigenvalues of the covariances, what an SVD's gradient multiplies by.

    Args:
        x: features ``[B, C, ...]``, any floating dtype.

    Returns:
        ``[B]`` in float64: inf where two are equal, nan where fewer than two are kept or the features are not finite.
    """
    finite, scale, eigenvalues, kept_ones = _spectra(x)
    if eigenvalues.shape[1] < 2:
        return torch.full_like(scale, math.nan)
    # Ascending: the nearest pair is a pair of neighbours.
    gap = torch.where(kept_ones[:, :-1], eigenvalues.diff(dim=1), math.inf).amin(1) * scale.square()
    return torch.where(finite & gap.isfinite(), 1 / gap, math.nan)


def _spectra(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each image: whether it is finite, its scale, the eigenvalues of Σ / scale² that may be above zero, which are.

    Shapes ``[B]``, ``[B]`` and twice ``[B, min(C, M − 1)]``, ascending.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.detach().flatten(2).double()
        channels, positions = x.shape[1:]
        possible = min(channels, positions - 1)
        finite = x.isfinite().all(-1).all(-1)
        x = torch.where(finite[:, None, None], x, 0.0)
        scale = binary_scale(x)  # 1e±200 neither overflows nor vanishes when squared
        x = centre(x / scale)
        eigenvalues, _ = eigh(x @ x.mT if channels <= positions else x.mT @ x)
    eigenvalues = eigenvalues[:, eigenvalues.shape[1] - possible :].clamp_min(0)
    above_rounding = kept(eigenvalues, max(channels, positions)) if possible else eigenvalues > 0
    return finite, scale[:, 0, 0], eigenvalues, above_rounding


def split_groups(x: Tensor, groups: int) -> Tensor:
    """The maps whose covariances a pool with groups of channels takes.

    Args:
        x: features ``[B, C, ...]``.
        groups: number G of groups of neighbouring channels.

    Returns:
        ``[B·G, C/G, ...]``: the groups of the first image, then those of the next.
    """
    return x.reshape(len(x) * groups, x.shape[1] // groups, *x.shape[2:])


def conditioning_word(kappa: float) -> str:
    """'good', 'fair' or 'poor' for a condition number of covariances."""
    if kappa <= GOOD:
        return "good"
    return "fair" if kappa <= FAIR else "poor"


class ConditioningMonitor:
    """Measures the conditioning of the covariances while a model trains, and leaves training as it is.

    A forward hook on the reduction of every covariance pool looks at the map whose covariance is taken (with ``groups``
    each group of channels alone; before channel dropout): no gradient, no random number, no change of the output;
    evaluation is not measured. Under ``torch.compile`` the hook runs outside the graph; attach before compiling.

    Args:
        model: a model with covariance pools, wrapped or not.
        every: measures one training forward in so many, the first included.
        max_images: images to measure of such a batch, from its start.
        eps: threshold of ``under_eps`` (see `conditioning`).

    Attributes:
        skipped: covariances that the last summary left out because their features were not finite; an image has one,
            or one for each of the pool's ``groups``.

    Raises:
        GCPError: the model has no covariance pool, or `every` or `max_images` is under 1.

    Example::

        with ConditioningMonitor(model) as monitor:
            train_one_epoch(model)
            print(monitor.summary())   # {'kappa': 3.1e+06, 'rank': 48.0, 'under_eps': 0.0}
    """

    def __init__(self, model: nn.Module, every: int = 10, max_images: int = 8, eps: float = EPS) -> None:
        if every < 1 or max_images < 1:
            raise GCPError(f"every and max_images are at least 1, not {every} and {max_images}.")
        pools = find_pools(model)
        self._reductions = [pool.reduce for pool in pools]
        self._groups = {id(pool.reduce): pool.options.groups for pool in pools}
        if not self._reductions:
            raise GCPError(f"{type(model).__name__} has no covariance pool, so there is no conditioning to measure.")
        self.every = every
        self.max_images = max_images
        self.eps = eps
        self.skipped = 0
        self._forwards = {id(module): 0 for module in self._reductions}
        self._measured: list[Tensor] = []
        self._handles: list[RemovableHandle] = []
        self._model = model

    def attach(self) -> "ConditioningMonitor":
        """Starts measuring; a second call changes nothing."""
        if not self._handles:
            hook = _hook(self)
            self._handles = [module.register_forward_hook(hook) for module in self._reductions]
        return self

    def close(self) -> None:
        """Stops measuring and removes the hooks; what has been measured stays."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> "ConditioningMonitor":
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.close()

    def see(self, module: nn.Module, features: Tensor) -> None:
        """Counts a training forward of a reduction, and measures it if it is its turn."""
        count = self._forwards.get(id(module))
        # A deep copy of the model carries the hook along, but is not the model that is watched.
        if count is None:
            return
        self._forwards[id(module)] = count + 1
        if count % self.every == 0:
            images = features[: self.max_images]
            self._measured.append(conditioning(split_groups(images, self._groups[id(module)]), self.eps))

    def summary(self, reset: bool = True) -> dict[str, float]:
        """Medians over the images measured since the last summary, of all processes together.

        Under distributed training every process has to call it, and all get the same numbers.

        Args:
            reset: forgets the measurements, for the next epoch.

        Returns:
            ``kappa`` (largest / smallest kept eigenvalue), ``rank`` (number of kept eigenvalues), ``under_eps`` (share
            of eigenvalues under eps, in [0, 1], not counting those that M < C makes zero); see `conditioning`. A value
            is nan where nothing has been measured.
        """
        measured = self._everything()
        good = ~measured[:, 1].isnan()
        self.skipped = int((~good).sum())
        if reset:
            self._measured = []
            self._forwards = dict.fromkeys(self._forwards, 0)
        columns = measured[good].T
        return {name: _median(column) for name, column in zip(("kappa", "rank", "under_eps"), columns, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """What has been measured since the last summary, of all processes together; every process has to call it."""
        return {"measured": self._everything(), "forwards": list(self._forwards.values())}

    def load_state_dict(self, state: Mapping[str, Any], first: bool = True) -> None:
        """Takes up what ``state_dict`` gave.

        Args:
            state: the state.
            first: whether this is the first process; the others leave the measurements to it.
        """
        self._measured = [state["measured"]] if first else []
        self._forwards = dict(zip(self._forwards, state["forwards"], strict=True))

    def _everything(self) -> Tensor:
        measured = torch.cat([m.cpu() for m in self._measured]) if self._measured else torch.empty(0, 3).double()
        if process_count() == 1:
            return measured
        # NCCL moves tensors between GPUs only.
        nccl = dist.get_backend() == "nccl"
        return gathered(measured, next(self._model.parameters()).device if nccl else torch.device("cpu"))


def _hook(monitor: ConditioningMonitor) -> Callable[[nn.Module, Any, Tensor], None]:
    # A function, not a method: copying a model copies its hooks, and a method would take the monitor along.
    def hook(module: nn.Module, inputs: Any, features: Tensor) -> None:
        if module.training:
            monitor.see(module, features)

    uncompiled: Callable[[nn.Module, Any, Tensor], None] = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return uncompiled


def _median(column: Tensor) -> float:
    column = column[~column.isnan()]
    # torch.median takes the lower of the two middle values; quantile their mean.
    return float(column.quantile(0.5)) if len(column) else math.nan
