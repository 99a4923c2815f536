"""Published checkpoints with deterministic weights, as ``tests/golden/networks.json`` lists them."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "networks.json").read_text())
PADE = "ds.resnet50.SVD_Pade"


def fill(key, shape):
    """The deterministic weights of a checkpoint entry, as the golden values' own script makes them."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if len(shape) == 1:
        if key.endswith("bn3.weight"):  # a small last norm keeps deep residual stacks from blowing up
            return rng.uniform(0.1, 0.3, shape).astype(np.float32)
        if key.endswith(("running_var", ".weight")):
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return (rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)


def state_dict(network, num_classes=1000):
    """Upstream's state dict, in upstream's order; fewer classes make it smaller."""
    shapes = {key: tuple(shape) for key, shape in GOLDEN[network]["keys"].items()}
    last = [key for key in shapes if key.startswith(("classifier", "fc"))][-2:]
    shapes.update({key: (num_classes, *shapes[key][1:]) for key in last})
    return {key: torch.from_numpy(fill(key, shape)) for key, shape in shapes.items()}


def image(size=224):
    rng = np.random.Generator(np.random.PCG64(7))
    noise = rng.standard_normal((3, size, size))
    t = np.linspace(0, 4 * np.pi, size)
    smooth = np.stack([np.outer(np.sin((c + 1) * t), np.cos((c + 2) * t / 2)) for c in range(3)]) * 1.5 + 0.5
    return torch.from_numpy(np.stack([noise, smooth]).astype(np.float32))
