"""The pool of Moment Probing: its formula, its gradient, and the models that it is part of."""

import itertools
import pickle

import pytest
import timm
import torch

from timm_gcp import GCPError, graft
from timm_gcp.models.folder import save_folder
from timm_gcp.moment_pooling import MomentPool
from timm_gcp.onnx.export import export_onnx


def reference(pool, x):
    """The layer for one map ``[C, M]``, entry by entry in float64."""
    conv = pool.reduce.conv
    reduced = conv.weight.flatten(1).double() @ x.double() + conv.bias.double()[:, None]
    groups = []
    for part in reduced.chunk(pool.options.groups):
        columns = []
        for position in part.T:
            spread = ((position - position.mean()) ** 2).mean()
            normal = (position - position.mean()) / (spread + 1e-5).sqrt()
            columns.append(normal * pool.norm.weight.double() + pool.norm.bias.double())
        groups.append(torch.stack(columns, 1))
    crosses = []
    for one, other in itertools.pairwise(groups):
        cross = torch.zeros(len(one), len(other), dtype=torch.float64)
        for i, row in enumerate(one):
            for j, column in enumerate(other):
                cross[i, j] = ((row - row.mean()) * (column - column.mean())).mean()
        crosses.append(cross / cross.norm(dim=0, keepdim=True))
    maps = torch.stack(crosses)
    for conv in (pool.compress.conv1, pool.compress.conv2):
        maps = convolved(maps, conv.weight.double())
        if conv is pool.compress.conv1:
            maps = maps * 0.5 * (1 + torch.erf(maps / 2**0.5))
    return maps.flatten()


def convolved(maps, weight):
    side = (maps.shape[-1] - 3) // 2 + 1
    out = torch.zeros(len(weight), side, side, dtype=torch.float64)
    for i in range(side):
        for j in range(side):
            patch = maps[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            out[:, i, j] = (weight * patch).sum((1, 2, 3))
    return out


def randomised(pool):
    for parameter in pool.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    torch.nn.init.uniform_(pool.norm.weight, 0.5, 1.5)
    return pool


@pytest.mark.parametrize(("reduce", "groups"), [(32, 4), (22, 2), (30, 3)])
def test_the_formula(reduce, groups):
    pool = randomised(MomentPool(10, reduce, groups))
    x = torch.randn(2, 10, 3, 4)
    expected = torch.stack([reference(pool, one.flatten(1)) for one in x])
    found = pool(x)
    assert found.shape == (2, pool.out_features)
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert torch.allclose(pool.double()(x.double()), expected, atol=1e-8)


def test_the_sizes_of_the_paper():
    assert MomentPool(768).out_features == 3 * 31 * 31
    assert MomentPool(768, first_order="class").out_features == 768 + 2883


def test_layouts_and_first_order():
    x = torch.randn(2, 12, 3, 4)
    pools = {fmt: MomentPool(12, 28, input_fmt=fmt, first_order="mean+class") for fmt in ("NCHW", "NHWC", "NLC")}
    for pool in pools.values():
        pool.load_state_dict(pools["NCHW"].state_dict())
    token = torch.randn(2, 12)
    expected = pools["NCHW"](x, token)
    assert torch.allclose(expected[:, :24], torch.cat([x.mean((2, 3)), token], 1))
    assert torch.allclose(pools["NHWC"](x.movedim(1, -1), token), expected, atol=1e-6)
    assert torch.allclose(pools["NLC"](x.flatten(2).mT, token), expected, atol=1e-6)
    with pytest.raises(GCPError, match="class token"):
        pools["NCHW"](x)


def test_gradients():
    pool = randomised(MomentPool(5, 14, 2, first_order="mean")).double()
    x = torch.randn(2, 5, 2, 3, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*pool.named_parameters(), strict=True)
    start = [parameter.detach().requires_grad_() for parameter in parameters]

    def call(x, *values):
        return torch.func.functional_call(pool, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *start))


AWKWARD = {
    "zeros": torch.zeros(2, 8, 3, 3),
    "constant": torch.ones(2, 8, 3, 3),
    "one position": torch.arange(16.0).view(2, 8, 1, 1),
    "large": 1e15 * torch.arange(144.0).sin().view(2, 8, 3, 3),
    "small": 1e-15 * torch.arange(144.0).sin().view(2, 8, 3, 3),
    "equal channels": torch.arange(18.0).view(2, 1, 3, 3).expand(2, 8, 3, 3),
}


@pytest.mark.parametrize("x", AWKWARD.values(), ids=AWKWARD)
def test_awkward_maps(x):
    """The output and all gradients are finite."""
    pool, x = MomentPool(8, 28), x.clone().requires_grad_()
    out = pool(x)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in pool.parameters())


def test_mixed_precision_is_for_the_convolutions_alone():
    pool, x = MomentPool(16, 28), torch.randn(2, 16, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        low = pool(x)
    assert torch.allclose(low.float(), pool(x), atol=0.1)
    assert pool.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reduce": 30}, "reduce=30"),
        ({"reduce": 24}, "7 channels or more"),
        ({"groups": 1}, "two groups or more"),
        ({"input_fmt": "CHW"}, "input_fmt"),
        ({"first_order": "last"}, "first_order"),
    ],
)
def test_refused_by_the_layer(arguments, message):
    with pytest.raises(GCPError, match=message):
        MomentPool(64, **{"reduce": 32, **arguments})


@pytest.mark.parametrize(("name", "first_order"), [("test_resnet", "mean"), ("test_vit", "class"), ("test_vit", None)])
def test_a_model_and_its_folder(name, first_order, tmp_path):
    model = graft(timm.create_model(name, num_classes=5), "mp", reduce=32, first_order=first_order).eval()
    x = torch.randn(2, *model.pretrained_cfg["input_size"])
    expected = model(x)
    save_folder(model, tmp_path / "model")
    again = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    assert torch.equal(again(x), expected)
    assert again.pretrained_cfg["architecture"] == f"{name}_mp"
    assert again.global_pool.options == model.global_pool.options
    again.reset_classifier(3)
    assert again(x).shape == (2, 3)
    assert again.reset_classifier(0) is None
    assert again(x).shape == (2, model.global_pool.out_features)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)


def test_a_registered_name():
    model = timm.create_model("resnet18_mp", num_classes=3, first_order="mean")
    assert model.global_pool.channels == 512
    assert model.fc.in_features == 512 + 2883
    assert "resnet18_mp" in timm.list_models("resnet18*")
    traced = torch.jit.trace(timm.create_model("test_resnet_mp").eval(), torch.randn(1, 3, 64, 64))
    assert traced(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.slow
def test_the_export(tmp_path):
    model = graft(timm.create_model("test_resnet", num_classes=5), "mp", first_order="mean").eval()
    assert export_onnx(model, tmp_path / "model.onnx", torch.randn(5, 3, 64, 64)) < 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method_args": {"alpha": 0.3}}, "no method_args"),
        ({"reduction": "linear"}, "no reduction"),
        ({"count_sketch": 100}, "no count_sketch"),
        ({"spectral_dtype": "float32"}, "no dtype"),
        ({"chunk_size": 2}, "no chunk_size"),
        ({"first_order": "class"}, "class token"),
        ({"global_pool": "isqrt"}, "'isqrt'"),
        ({"pretrained": True}, "no pretrained weights"),
    ],
)
def test_refused_by_the_model(arguments, message):
    with pytest.raises(GCPError, match=message):
        timm.create_model("test_resnet_mp", **arguments)
