"""Moment Probing: the pool `MomentPool` and a linear classifier, trained on the stored features of a frozen backbone.

Gao, Wang, Lin, Zhu, Hu, Zhang: Tuning Pre-trained Model via Moment Probing, ICCV 2023. The paper trains on features of
augmented images; here the features are stored, along R principal directions. The 1×1 convolution of the pool acts on
them, P(X − mean) + P mean = PX with the directions P, so that the whole is the pool of a model whose convolution has
the weight WP. The cross-covariances are those of a part of the positions, drawn anew for every batch, in place of the
augmentation. The epoch at which training stops is chosen on a part of the training images.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GCPError
from ..moment_pooling import MOMENT_POOL, MomentPool
from .directions import Directions
from .features import FeatureSet
from .heads import FittedHead
from .options import MomentSettings
from .parts import first_order_parts

__all__ = ["MomentHead", "fit_moment"]

_EVALUATED = 256
"""Rows that are evaluated at a time."""


@dataclass(frozen=True)
class MomentHead(FittedHead):
    """The head of a probe by Moment Probing; ``method`` is 'mp'.

    Attributes:
        pool: with the directions in its convolution; its output is what ``weights`` take.
        epochs: how long it was trained.
    """

    pool: MomentPool
    epochs: int

    @property
    def pool_args(self) -> dict[str, Any]:
        """See `FittedHead`."""
        return {
            "reduce": self.pool.channels,
            "groups": self.pool.options.groups,
            "first_order": self.first_order,
        }

    def fill(self, pool: Any) -> None:
        """See `FittedHead`."""
        pool.load_state_dict(self.pool.state_dict())


def fit_moment(
    train: FeatureSet,
    evaluation: FeatureSet | None,
    directions: Directions,
    classes: int,
    first_order: str | None,
    settings: MomentSettings | None = None,
    device: torch.device | None = None,
    say: Callable[[str], None] = print,
) -> tuple[MomentHead, Tensor | None]:
    """Trains the pool and its classifier on stored features.

    On a CPU with one number of threads the result is the same to the last bit every time.

    Args:
        train: features of the training images.
        evaluation: features that are scored at the end, or None.
        directions: along which the features are.
        classes: number of classes.
        first_order: 'mean', 'class', 'mean+class' or None.
        settings: of the training; None takes the defaults.
        device: where it runs; None is the CPU.
        say: takes lines for the user.

    Returns:
        The head, and the logits of the evaluation features ``[images, classes]``, averaged over their views.

    Raises:
        GCPError: a loss that is not finite, or settings that do not fit.
    """
    settings, device = settings or MomentSettings(), device or torch.device("cpu")
    inputs = _Inputs(train, directions, first_order)
    trainer = _Trainer(inputs, classes, settings, device)
    chosen = settings.epochs
    kept, held = _split(train.labels(), settings)
    if len(held):
        accuracies = [accuracy for _, accuracy in trainer.epochs(kept, settings.epochs, held)]
        chosen = 1 + accuracies.index(max(accuracies))
        say(
            f"Moment Probing: {100 * max(accuracies):.2f} % of {len(held)} held-out training images after epoch "
            f"{chosen} of {settings.epochs}; trained again with all of them up to there."
        )
    network, _ = list(trainer.epochs(torch.arange(train.images), chosen))[-1]
    scores = None
    if evaluation is not None:
        inputs = inputs.like(evaluation)
        scores = trainer.logits(network, inputs, torch.arange(evaluation.images))
    return _head(network, trainer.inputs, first_order, chosen), scores


class _Inputs:
    """Features as the network takes them: the map along the directions, and the first-order vectors, standardised.

    Attributes:
        features: the stored ones.
        directions: along which they are.
        names: of the first-order vectors, as they are stored.
        unit: root mean square of the centred maps.
        centre, scale: of the first-order vectors, ``[D]``; one scale for each vector.
    """

    def __init__(self, features: FeatureSet, directions: Directions, first_order: str | None) -> None:
        self.features, self.directions = features, directions
        self.names = [part.name for part in first_order_parts(first_order)]
        squares = [
            features.maps(start, min(start + _EVALUATED, features.rows)).double().square().mean((1, 2))
            for start in range(0, features.rows, _EVALUATED)
        ]
        self.unit = float(torch.cat(squares).mean().sqrt()) or 1.0
        vectors = [features.first(name).double() for name in self.names]
        self.centre = torch.cat([torch.zeros(0), *(vector.mean(0) for vector in vectors)]).float()
        scales = [(vector - vector.mean(0)).square().mean().sqrt().expand(vector.shape[1]) for vector in vectors]
        self.scale = torch.cat([torch.zeros(0), *scales]).float()
        self.scale[self.scale == 0] = 1
        self._load()

    def _load(self) -> None:
        self._means = self.features.first("mean") @ self.directions.matrix.T
        vectors = [self.features.first(name) for name in self.names]
        self._vectors = torch.cat(vectors, 1) if vectors else torch.zeros(self.features.rows, 0)

    def like(self, features: FeatureSet) -> "_Inputs":
        """Other features, standardised as these are."""
        other = object.__new__(_Inputs)
        other.__dict__.update(self.__dict__, features=features)
        other._load()
        return other

    def rows(self, images: Tensor) -> Tensor:
        """The rows of some images, all views of each."""
        views = self.features.views
        return (images[:, None] * views + torch.arange(views)).flatten()

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``[B, R, M]`` and vectors ``[B, D]`` of some rows."""
        maps = torch.cat([self.features.maps(row, row + 1) for row in rows.tolist()])
        vectors = (self._vectors[rows] - self.centre) / self.scale
        return (maps + self._means[rows, :, None]) / self.unit, vectors


class _Network(nn.Module):
    """The pool on features along the directions, and the average of two classifiers, as the paper has it."""

    def __init__(self, components: int, first: int, classes: int, settings: MomentSettings) -> None:
        super().__init__()
        self.pool = MomentPool(components, settings.width, settings.groups)
        self.second = nn.Linear(self.pool.out_features, classes)
        self.first = nn.Linear(first, classes) if first else None

    def forward(self, maps: Tensor, vectors: Tensor) -> Tensor:
        second: Tensor = self.second(self.pool(maps.unsqueeze(3)))
        return second if self.first is None else (self.first(vectors) + second) / 2


class _Trainer:
    """Trains networks from the same start."""

    def __init__(self, inputs: _Inputs, classes: int, settings: MomentSettings, device: torch.device) -> None:
        self.inputs, self.classes, self.settings, self.device = inputs, classes, settings, device
        self.labels = inputs.features.labels().repeat_interleave(inputs.features.views)

    def epochs(self, images: Tensor, number: int, held: Tensor | None = None) -> Iterator[tuple[_Network, float]]:
        """Trains epoch by epoch.

        Args:
            images: to train on.
            number: of epochs to train, of those of the schedule.
            held: images to evaluate after each.

        Yields:
            The network, and its accuracy on those images; nan without them.
        """
        settings, rows = self.settings, self.inputs.rows(images)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            components, first = self.inputs.features.components, len(self.inputs.scale)
            network = _Network(components, first, self.classes, settings).to(self.device)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        steps = settings.epochs * math.ceil(len(rows) / settings.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _course(steps, settings.warmup))
        generator = torch.Generator().manual_seed(settings.seed)
        for _ in range(number):
            network.train()
            order = rows[torch.randperm(len(rows), generator=generator)]
            for batch in order.split(settings.batch_size):
                self._update(network, optimizer, batch, generator)
                schedule.step()
            accuracy = math.nan
            if held is not None:
                right = self.logits(network, self.inputs, held).argmax(1) == self.inputs.features.labels()[held]
                accuracy = right.double().mean().item()
            yield network, accuracy

    def _update(
        self, network: _Network, optimizer: torch.optim.Optimizer, rows: Tensor, generator: torch.Generator
    ) -> None:
        maps, vectors = self.inputs.batch(rows)
        maps = _some_positions(maps, self.settings.positions, generator)
        logits = network(maps.to(self.device), vectors.to(self.device))
        loss = nn.functional.cross_entropy(
            logits, self.labels[rows].to(self.device), label_smoothing=self.settings.smoothing
        )
        if not loss.isfinite():
            raise GCPError("The loss of Moment Probing is not finite: lower its `learning_rate`.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.inference_mode()
    def logits(self, network: _Network, inputs: _Inputs, images: Tensor) -> Tensor:
        """Logits of some images ``[images, classes]``, averaged over their views, on the CPU."""
        network.eval()
        found = []
        for rows in inputs.rows(images).split(_EVALUATED):
            maps, vectors = inputs.batch(rows)
            found.append(network(maps.to(self.device), vectors.to(self.device)).cpu())
        return torch.cat(found).view(len(images), inputs.features.views, -1).mean(1)


def _course(steps: int, warmup: float) -> Callable[[int], float]:
    """The rate of an update as a share of its peak: a linear rise, then half a cosine to zero."""
    rising = warmup * steps

    def share(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))

    return share


def _some_positions(maps: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A part of the positions of each map ``[B, R, M]``, at least two; all of them where it is 1."""
    batch, components, positions = maps.shape
    number = max(2, round(share * positions))
    if number >= positions:
        return maps
    chosen = torch.rand(batch, positions, generator=generator).argsort(1)[:, :number]
    return maps.gather(2, chosen[:, None].expand(-1, components, -1))


def _split(labels: Tensor, settings: MomentSettings) -> tuple[Tensor, Tensor]:
    """Images to train on and images held out, a share of every class; a class keeps one image at least."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(settings.seed))
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        own = order[labels[order] == label]
        held[own[: min(len(own) - 1, round(settings.held_out * len(own)))]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


@torch.no_grad()
def _head(network: _Network, inputs: _Inputs, first_order: str | None, epochs: int) -> MomentHead:
    """The network as a pool of the backbone's own channels and one linear layer."""
    network, matrix = network.cpu(), inputs.directions.matrix.double()
    trained = network.pool
    pool = MomentPool(
        matrix.shape[1], trained.channels, trained.options.groups, first_order=first_order
    ).requires_grad_(False)
    state = trained.state_dict()
    weight = state["reduce.conv.weight"].flatten(1).double() @ matrix / inputs.unit
    pool.load_state_dict({**state, "reduce.conv.weight": weight.float()[:, :, None, None]})
    weights, bias = network.second.weight.double(), network.second.bias.double()
    if network.first is not None:
        first = network.first.weight.double() / inputs.scale
        bias = (bias + network.first.bias - first @ inputs.centre.double()) / 2
        weights = torch.cat([first, weights], 1) / 2
    return MomentHead(inputs.directions, MOMENT_POOL, first_order, weights, bias, pool.eval(), epochs)
