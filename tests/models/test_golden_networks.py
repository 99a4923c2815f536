"""The published networks: our network with their converted weights gives their logits.

``golden/networks.json`` holds the keys and shapes of eight published checkpoints, and the logits that upstream's
networks gave with the deterministic weights of ``published.fill``.
"""

import pytest
import torch

from tests.support.published import GOLDEN, PADE, image, state_dict
from tests.support.tools import slow_but
from timm_gcp.weights.upstream import convert

BACKBONES = {
    "fm.mpncovresnet50.standalone": ("resnet50", {"reduce": 256, "last_stride": 1}),
    "fm.mpncovresnet101.standalone": ("resnet101", {"reduce": 256, "last_stride": 1}),
    "fm.mpncovresnet50.MPNCOV": ("resnet50", {"reduce": 256, "last_stride": 1}),
    "fm.alexnet.MPNCOV": ("alexnet", {"reduce": 0, "batch_norm": False}),
    "fm.mpncovvgg16_bn.standalone": ("vgg16_bn", {"reduce": 256}),
    "ds.resnet50.SVD_Pade": ("resnet50", {"reduce": 256, "last_stride": 2}),
    "ds.mpncovresnet50.SVD_Pade": ("resnet50", {"reduce": 256, "last_stride": 1}),
    "ds.alexnet.SVD_Pade": ("alexnet", {"reduce": 0, "batch_norm": True}),
}


SMALL = ("fm.mpncovresnet50.standalone", PADE)


@pytest.mark.parametrize("network", slow_but(SMALL, GOLDEN))
def test_logits_of_the_published_network(network):
    golden = GOLDEN[network]
    published = convert(state_dict(network), golden["arch"])
    assert (published.backbone, published.model_args) == BACKBONES[network]
    assert published.num_classes == 1000
    assert not published.stride_open
    model = published.build("isqrt" if network.startswith("fm") else "svdpade")
    with torch.no_grad():
        logits = model(image())
    expected = torch.tensor(golden["logits_first8"])
    # 49 positions of 256 channels: upstream centres in float32, whose rounding the root of the null space shows.
    tolerance = 1e-4 if network == PADE else 1e-5
    assert (logits[:, :8] - expected).norm() <= tolerance * expected.norm()
    assert torch.allclose(logits.norm(dim=1), torch.tensor(golden["logits_norm"]), rtol=tolerance)
