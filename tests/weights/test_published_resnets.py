"""Published ResNets of every depth: told apart by their entries, and equal to a network made from torchvision's."""

import re

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from timm_gcp.errors import GCPError
from timm_gcp.weights.upstream import convert

DEPTHS = (18, 34, 50, 101, 152)
CLASSES = 3


class Standalone(nn.Module):
    """The standalone network of GCP_Optimization, from torchvision's ResNet: the last stage has stride 1."""

    def __init__(self, depth, reduce=256):
        super().__init__()
        plain = getattr(torchvision.models, f"resnet{depth}")()
        last = plain.layer4[0]
        (last.conv1 if depth < 50 else last.conv2).stride = last.downsample[0].stride = (1, 1)
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, getattr(plain, name))
        self.layer_reduce = nn.Conv2d(512 if depth < 50 else 2048, reduce, 1, bias=False)
        self.layer_reduce_bn = nn.BatchNorm2d(reduce)
        self.fc = nn.Linear(reduce * (reduce + 1) // 2, CLASSES)

    def forward(self, x):
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.layer_reduce_bn(self.layer_reduce(x)).relu().flatten(2)
        x = x - x.mean(-1, keepdim=True)
        sigma = x @ x.mT / x.shape[-1]
        trace = sigma.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
        eye = torch.eye(sigma.shape[-1])
        y, z = sigma / trace, eye
        for _ in range(5):
            t = (3 * eye - z @ y) / 2
            y, z = y @ t, t @ z
        return self.fc((y * trace.sqrt()).flatten(1)[:, torch.ones_like(eye).triu().flatten().nonzero().squeeze(1)])


def network(depth, **arguments):
    torch.manual_seed(depth)
    model = Standalone(depth, **arguments)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            # The last norm of a block is small, so that deep residual stacks do not blow up.
            last = re.search(r"layer\d\.\d+\.bn3" if depth >= 50 else r"layer\d\.\d+\.bn2", name)
            nn.init.uniform_(module.weight, *((0.1, 0.3) if last else (0.5, 1.5)))
            nn.init.normal_(module.running_mean, std=0.1)
    return model.eval()


def shapes(depth):
    """The entries of a standalone network of a depth, all zero."""
    with torch.device("meta"):
        model = Standalone(depth)
    return {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in model.state_dict().items()}


@torch.no_grad()
@pytest.mark.parametrize("depth", [18, 34, pytest.param(50, marks=pytest.mark.slow)])
def test_logits_of_a_standalone_network(depth):
    model = network(depth)
    saved = {f"module.{key}": value for key, value in model.state_dict().items()}  # DataParallel, as it is saved
    published = convert(saved, f"resnet{depth}_mpncov")
    assert (published.backbone, published.triu_order) == (f"resnet{depth}", "row")
    assert published.model_args == {"reduce": 256, "last_stride": 1}
    x = torch.randn(2, 3, 96, 96)
    expected = model(x)
    assert (published.build("isqrt")(x) - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("depth", [18, pytest.param(152, marks=pytest.mark.slow)])
def test_the_depth_is_told_from_the_blocks(depth):
    published = convert(shapes(depth))
    assert published.backbone == f"resnet{depth}"
    assert published.strided
    with torch.device("meta"):
        ours = timm.create_model(f"resnet{depth}_isqrt", num_classes=CLASSES)
    assert published.weights.keys() == ours.state_dict().keys()


def test_a_resnet_34_is_no_resnet_50():
    """Both have 3, 4, 6 and 3 blocks."""
    assert convert(shapes(34)).backbone == "resnet34"


@pytest.mark.parametrize(("arch", "stride"), [("resnet18", 2), ("mpncovresnet18", 1)])
def test_the_layout_of_features_and_representation(arch, stride):
    """fast-MPN-COV's and DifferentiableSVD's networks of basic blocks, whose last map has 512 channels."""
    parts = ["conv1", "bn1", "-", "-", "layer1", "layer2", "layer3", "layer4"]
    reduction = {"layer_reduce": "conv_dr_block.0", "layer_reduce_bn": "conv_dr_block.1"}
    renamed = {}
    for key, value in shapes(18).items():
        first, _, rest = key.partition(".")
        if first in reduction:
            renamed[f"representation.module.{reduction[first]}.{rest}"] = value
        else:
            renamed[f"classifier.{rest}" if first == "fc" else f"features.module.{parts.index(first)}.{rest}"] = value
    published = convert(renamed, arch)
    assert (published.backbone, published.model_args) == ("resnet18", {"reduce": 256, "last_stride": stride})


def test_other_blocks_are_refused_by_their_number_and_kind():
    fewer = {key: value for key, value in shapes(34).items() if not key.startswith("layer3.5")}
    with pytest.raises(GCPError, match=r"ResNet of 3-4-5-3 blocks \(basic blocks\); those of resnet18, resnet34"):
        convert(fewer)
