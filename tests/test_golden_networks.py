"""The published AlexNets and VGG: our network with their weights gives their logits.

``golden/networks.json`` holds the keys and shapes of three published checkpoints, and the logits that upstream's
networks gave with the deterministic weights of ``fill``.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import timm_gcp  # noqa: F401  registers the models

GOLDEN = json.loads((Path(__file__).parent / "golden" / "networks.json").read_text())
REDUCTION = {
    "representation.conv_dr_block.0": "global_pool.reduce.conv",
    "representation.conv_dr_block.1": "global_pool.reduce.norm",
}
NETWORKS = [
    ("ds.alexnet.SVD_Pade", "alexnet_svdpade", {}, (0, 2, 4)),
    ("fm.alexnet.MPNCOV", "alexnet_isqrt", {"batch_norm": False}, (1, 4, 6)),
    ("fm.mpncovvgg16_bn.standalone", "vgg16_bn_isqrt", {}, (0, 3, 6)),
]


def fill(key, shape):
    """The deterministic weights of a checkpoint entry, as the golden values' own script makes them."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if len(shape) == 1:
        if key.endswith(("running_var", ".weight")):
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return (rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)


def image(size=224):
    rng = np.random.Generator(np.random.PCG64(7))
    noise = rng.standard_normal((3, size, size))
    t = np.linspace(0, 4 * np.pi, size)
    smooth = np.stack([np.outer(np.sin((c + 1) * t), np.cos((c + 2) * t / 2)) for c in range(3)]) * 1.5 + 0.5
    return torch.from_numpy(np.stack([noise, smooth]).astype(np.float32))


@pytest.mark.parametrize(("network", "name", "arguments", "layers"), NETWORKS, ids=[row[0] for row in NETWORKS])
def test_logits_of_the_published_network(network, name, arguments, layers):
    with torch.device("meta"):
        model = timm.create_model(name, **arguments).eval()
    ours = dict(zip((f"classifier.{n}" for n in layers), ("pre_logits.fc1", "pre_logits.fc2"), strict=False))
    ours.update({f"classifier.{layers[2]}": model.get_classifier(name_only=True), **REDUCTION})
    golden = GOLDEN[network]
    state = {}
    for key, shape in golden["keys"].items():
        layer, _, kind = key.replace("features.module.", "features.").rpartition(".")
        state[f"{ours.get(layer, layer)}.{kind}"] = torch.from_numpy(fill(key, tuple(shape)))
    model.load_state_dict(state, strict=True, assign=True)
    with torch.no_grad():
        logits = model(image())
    expected = torch.tensor(golden["logits_first8"])
    assert (logits[:, :8] - expected).norm() <= 1e-5 * expected.norm()
    assert torch.allclose(logits.norm(dim=1), torch.tensor(golden["logits_norm"], dtype=torch.float32), rtol=1e-5)
