"""The options of the head beside the method: their values by formula, and every way to save, copy or compile them."""

import copy
import inspect
import pickle
import re

import pytest
import timm
import torch
import torch.distributed as dist
from timm.models import save_for_hf
from timm.utils import ModelEmaV3
from torch import nn
from torch.autograd import gradcheck

from timm_gcp import GCPError, GlobalCovariancePool, graft, pool_features, register_backbone
from timm_gcp.models.folder import save_folder
from timm_gcp.moment_pooling import MomentPool
from timm_gcp.onnx.export import export_onnx
from timm_gcp.pool_options import PoolOptions

# Every option, alone and together with others.
HEADS = {
    "linear": {"reduction": "linear"},
    "linear_norm": {"reduction": "linear_norm"},
    "mean": {"first_order": "mean"},
    "groups": {"groups": 4},
    "sketch": {"count_sketch": 40},
    "dropout": {"channel_dropout": 0.3},
    "adaptive": {"channel_dropout": "adaptive"},
    "normalized": {"first_order": "mean", "normalize_parts": True},
    "together": {
        "groups": 2,
        "count_sketch": 37,
        "reduction": "linear_norm",
        "first_order": "mean",
        "channel_dropout": "adaptive",
        "normalize_parts": True,
    },
}
ALL = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
# For tests that take seconds: the fast set runs them on all options together.
ALL_SLOWLY = pytest.mark.parametrize(
    "head", [pytest.param(HEADS[name], marks=() if name == "together" else pytest.mark.slow, id=name) for name in HEADS]
)
IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
RECORDS_ARGUMENTS = "data_config" in inspect.signature(save_for_hf).parameters  # timm's savers do, since 1.0.29


def model_with(head, name="test_resnet_isqrt"):
    return timm.create_model(name, num_classes=3, reduce=16, **head)


def pool_with(head, **arguments):
    return GlobalCovariancePool(12, "isqrt", 8, **{**head, "count_sketch": head.get("count_sketch") and 9}, **arguments)


def test_one_list_of_options():
    """What has to be changed for a new option, besides the layer that uses it."""
    defaults = {name: getattr(PoolOptions(), name) for name in PoolOptions.names()}
    for function in (GlobalCovariancePool, graft):
        parameters = inspect.signature(function).parameters
        assert {name: parameters[name].default for name in defaults} == defaults
    assert PoolOptions().given() == {}
    assert {name for head in HEADS.values() for name in head} == set(defaults)


# Values


@pytest.mark.parametrize("first_order", [None, "mean", "class", "mean+class"])
@pytest.mark.parametrize("reduction", ["conv", "linear", "linear_norm"])
def test_output_of_the_pool(reduction, first_order):
    pool = GlobalCovariancePool(12, "isqrt", 5, reduction=reduction, first_order=first_order).eval()
    x, token = torch.randn(3, 12, 4, 6), torch.randn(3, 12)
    out = pool(x, token) if "class" in (first_order or "") else pool(x)
    assert out.shape == (3, pool.out_features)
    triangle = pool_features(pool.reduce(x).flatten(2), "isqrt")
    parts = {"mean": x.mean((2, 3)), "class": token}
    assert torch.equal(out, torch.cat([*(parts[name] for name in (first_order or "").split("+") if name), triangle], 1))
    assert set(dict(pool.named_parameters())) == {"reduce.conv.weight"} | (
        set() if reduction == "linear" else {"reduce.norm.weight", "reduce.norm.bias"}
    )


def test_a_linear_reduction_commutes_with_the_covariance():
    pool = GlobalCovariancePool(8, "svdlyap", 4, reduction="linear").double()
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    weight = pool.reduce.conv.weight.flatten(1)
    sigma = torch.stack([torch.cov(each, correction=0) for each in x.flatten(2)])
    assert torch.allclose(pool(x), _triangle(_root(weight @ sigma @ weight.T)), atol=1e-10)


def test_linear_norm_normalises_each_position():
    pool = GlobalCovariancePool(8, "svdlyap", 5, reduction="linear_norm", input_fmt="NLC").double()
    nn.init.normal_(pool.reduce.norm.weight)
    nn.init.normal_(pool.reduce.norm.bias)
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    y = x @ pool.reduce.conv.weight.flatten(1).T
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + pool.reduce.norm.eps).sqrt()
    y = y * pool.reduce.norm.weight + pool.reduce.norm.bias
    sigma = torch.stack([torch.cov(each.T, correction=0) for each in y])
    assert torch.allclose(pool(x), _triangle(_root(sigma)), atol=1e-10)


def test_groups_are_the_blocks_of_a_block_diagonal_covariance():
    x = torch.randn(3, 12, 4, 6, dtype=torch.float64)
    pool = GlobalCovariancePool(12, "svdlyap", None, groups=3)
    sigma = torch.stack([torch.cov(each, correction=0) for each in x.flatten(2)])
    sigma = sigma * torch.block_diag(*[torch.ones(4, 4)] * 3)
    root = _root(sigma)
    blocks = torch.cat([_triangle(root[:, i : i + 4, i : i + 4]) for i in (0, 4, 8)], 1)
    assert pool.out_features == 30
    assert torch.allclose(pool(x), blocks, atol=1e-10)
    assert pool(x[:0]).shape == (0, 30)
    assert gradcheck(pool, (x[:, :, :3, :3].clone().requires_grad_(),))


@pytest.mark.parametrize("method", ["svdpade", "polar", "bcnn", "cbp", "logm", "cov", "gaussian", "bdc"])
def test_groups_with_every_kind_of_method(method):
    x = torch.randn(2, 6, 4, 4)
    args = {"sketch": 5} if method == "cbp" else {}
    pool = GlobalCovariancePool(6, method, None, method_args=args, groups=2)
    expected = [pool_features(part.flatten(2), method, **args) for part in (x[:, :3], x[:, 3:])]
    assert torch.allclose(pool(x), torch.cat(expected, 1), atol=1e-6)
    assert pool.out_features == pool(x).shape[1]


@pytest.mark.parametrize("groups", [1, 2])
def test_a_sketch_takes_the_triangles_place(groups):
    x = torch.randn(2, 12, 4, 4, dtype=torch.float64)
    whole = GlobalCovariancePool(12, "polar", None, groups=groups)
    pool = GlobalCovariancePool(12, "polar", None, groups=groups, count_sketch=20, first_order="mean")
    assert pool.out_features == 32
    assert torch.equal(pool(x), torch.cat([x.mean((2, 3)), pool.sketch(whole(x))], 1))
    assert gradcheck(pool, (x[:, :, :3, :3].clone().requires_grad_(),))


@pytest.mark.parametrize("first_order", [None, "mean", "mean+class"])
def test_normalized_parts_have_one_length(first_order):
    x, token = torch.randn(2, 12, 4, 6, dtype=torch.float64), 40 * torch.randn(2, 12, dtype=torch.float64)
    given = (x, token) if first_order == "mean+class" else (x,)
    plain = GlobalCovariancePool(12, "polar", None, first_order=first_order)
    pool = GlobalCovariancePool(12, "polar", None, first_order=first_order, normalize_parts=True)
    widths = [12] * len(pool.options.first_order_parts) + [78]
    for part, own in zip(plain(*given).split(widths, 1), pool(*given).split(widths, 1), strict=True):
        assert torch.allclose(own, 16 * part / part.norm(dim=1, keepdim=True), rtol=1e-5)
        assert torch.allclose(own.norm(dim=1), torch.tensor(16.0).double(), rtol=1e-5)
    assert gradcheck(pool, tuple(each.requires_grad_() for each in given))


def test_normalized_parts_of_extreme_length():
    pool = GlobalCovariancePool(5, "isqrt", None, first_order="mean", normalize_parts=True)
    for x in (torch.zeros(2, 5, 3, 3), 1e15 * torch.rand(2, 5, 3, 3), torch.full((2, 5, 3, 3), 6e4).half()):
        x.requires_grad_()
        y = pool(x)
        y.float().sum().backward()
        assert torch.isfinite(y).all()
        assert torch.isfinite(x.grad).all()


def _root(sigma):
    values, vectors = torch.linalg.eigh(sigma)
    return vectors @ torch.diag_embed(values.clamp_min(0).sqrt()) @ vectors.mT


def _triangle(y):
    rows, columns = torch.triu_indices(y.shape[-1], y.shape[-1])
    return y[:, rows, columns]


def test_refused():
    with pytest.raises(GCPError, match="Unknown reduction 'pca'; there are conv, linear, linear_norm"):
        GlobalCovariancePool(8, reduction="pca")
    with pytest.raises(GCPError, match="Unknown first_order 'max'"):
        GlobalCovariancePool(8, first_order="max")
    with pytest.raises(GCPError, match="takes the class token"):
        GlobalCovariancePool(8, reduce=None, first_order="class")(torch.randn(1, 8, 3, 3))
    with pytest.raises(GCPError, match="takes the class token"):
        GlobalCovariancePool(8, reduce=None)(torch.randn(1, 8, 3, 3), torch.randn(1, 8))
    for first_order in ("class", "mean+class"):
        with pytest.raises(GCPError, match="has none; use 'mean'"):
            graft(timm.create_model("test_resnet"), "isqrt", first_order=first_order)
    with pytest.raises(GCPError, match="groups=3 does not divide 8 channels"):
        GlobalCovariancePool(8, reduce=None, groups=3)
    for value in (0, -1, True, 2.0, "2"):
        with pytest.raises(GCPError, match="groups is the whole number"):
            GlobalCovariancePool(8, reduce=None, groups=value)
        with pytest.raises(GCPError, match="count_sketch is the whole number"):
            GlobalCovariancePool(8, reduce=None, count_sketch=value)
    with pytest.raises(GCPError, match="longer than the 36 numbers"):
        GlobalCovariancePool(8, reduce=None, count_sketch=37)
    with pytest.raises(GCPError, match="longer than the 12 numbers"):
        GlobalCovariancePool(8, reduce=None, count_sketch=13, groups=4)
    for value in (0, 1, -0.1, 1.5, True, "half"):
        with pytest.raises(GCPError, match="channel_dropout is a probability above 0 and under 1"):
            GlobalCovariancePool(8, reduce=None, channel_dropout=value)
    with pytest.raises(GCPError, match="normalize_parts is True or False, not 'yes'"):
        GlobalCovariancePool(8, reduce=None, normalize_parts="yes")
    for method in ("cbp", "bcnn", "gaussian"):
        with pytest.raises(GCPError, match=f"'{method}' is none"):
            GlobalCovariancePool(8, method, reduce=None, count_sketch=5)


@pytest.mark.parametrize("reduce", [-3, "a", "16", 2.0, True, [4]])
def test_a_reduction_to_no_number_of_channels(reduce):
    message = re.escape(
        f"reduce={reduce} does not fit a feature map of 96 channels; give a whole number up to 96, or 0"
    )
    for build in (
        lambda: GlobalCovariancePool(96, reduce=reduce),
        lambda: graft(timm.create_model("test_resnet"), reduce=reduce),
        lambda: timm.create_model("test_resnet_isqrt", reduce=reduce),
    ):
        with pytest.raises(GCPError, match=message):
            build()
    with pytest.raises(GCPError, match="Moment Probing cannot divide reduce="):
        graft(timm.create_model("test_resnet"), "mp", reduce=reduce)


@pytest.mark.parametrize("channels", ["32", 0, -1, 8.0, None, True])
@pytest.mark.parametrize("pool", [GlobalCovariancePool, MomentPool])
def test_a_map_of_no_number_of_channels(pool, channels):
    with pytest.raises(
        GCPError, match=re.escape(f"in_features is the whole number of channels of the incoming map, not {channels!r}")
    ):
        pool(channels)


# In a model


def same(again, model, images=IMAGES):
    with torch.no_grad():
        return torch.equal(again.eval()(images), model.eval()(images))


def timms(model, folder):
    save_for_hf(model, str(folder), model_args=None if RECORDS_ARGUMENTS else dict(model.gcp_args))


@ALL
@pytest.mark.parametrize("save", [timms, save_folder])
def test_a_folder_builds_the_same_head(head, save, tmp_path):
    model = model_with(head)
    save(model, tmp_path / "m")
    again = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True)
    assert same(again, model)
    assert again.global_pool.options == model.global_pool.options == PoolOptions(**head)
    assert set(head) <= set(model.gcp_args)


def test_the_maps_of_a_folder_with_options(tmp_path):
    model = model_with(HEADS["together"]).eval()
    save_folder(model, tmp_path / "m")
    maps = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True, features_only=True).eval()
    with torch.no_grad():
        assert torch.equal(maps(IMAGES)[-1], model.forward_features(IMAGES))


@pytest.mark.parametrize("first_order", ["class", "mean", "mean+class"])
def test_a_folder_of_a_vit_with_first_order(first_order, tmp_path):
    register_backbone("test_vit")
    model = model_with({"first_order": first_order, "reduction": "linear"}, "test_vit_isqrt")
    save_folder(model, tmp_path / "m", class_names=list("abc"))
    again = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True)
    assert same(again, model, torch.randn(2, *model.pretrained_cfg["input_size"]))
    parts = len(model.global_pool.options.first_order_parts)
    assert again.get_classifier().in_features == parts * again.num_features + 16 * 17 // 2


@ALL
def test_copies(head):
    model = model_with(head)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), ModelEmaV3(model).module):
        assert same(other, model)
    with torch.device("meta"):
        empty = model_with(head)
    empty.load_state_dict(model.state_dict(), assign=True)
    assert same(empty, model)


@ALL
def test_an_average_of_the_weights_follows_the_model(head):
    model = model_with(head)
    average = ModelEmaV3(model, decay=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(IMAGES).square().sum().backward()
    optimizer.step()
    average.update(model)
    assert same(average.module, model)


@ALL
def test_a_switch_of_the_method_keeps_the_width(head):
    model = model_with(head).eval()
    model.global_pool.method = "polar"
    exact = model(IMAGES)
    model.reset_classifier(5)
    assert model(IMAGES).shape == (3, 5)
    model.reset_classifier(3, "isqrt")
    assert model.global_pool.method == "isqrt"
    assert model(IMAGES).shape == exact.shape
    if head.get("count_sketch"):
        with pytest.raises(GCPError, match="the classifier would not fit"):
            model.global_pool.method = "bcnn"


@ALL
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_chunks_and_checkpoints_change_nothing(head, chunk_size):
    plain = pool_with(head)
    pool = pool_with(head, chunk_size=chunk_size)
    pool.load_state_dict(plain.state_dict())
    pool.set_grad_checkpointing()
    x = torch.randn(5, 12, 4, 4)
    gradients = []
    for each in (plain, pool):
        given = x.clone().requires_grad_()
        torch.manual_seed(1)
        out = each(given)
        gradients.append((out, *torch.autograd.grad(out.square().sum(), (given, *each.parameters()))))
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-4) for a, b in zip(*gradients, strict=True))


@ALL_SLOWLY
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace")
def test_compiles_traces_and_exports(head):
    torch._dynamo.reset()
    pool = pool_with(head)
    x = torch.randn(5, 12, 4, 4)
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    outputs = []
    for each in (compiled, pool):
        torch.manual_seed(1)
        outputs.append(each(x))
    assert torch.allclose(*outputs, atol=1e-5)
    pool.eval()
    traced = torch.jit.trace(pool, torch.randn(2, 12, 4, 4))
    assert torch.allclose(traced(x), pool(x), atol=1e-5)
    free = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(pool, (torch.randn(2, 12, 4, 4),), dynamic_shapes=free, strict=False).module()
    assert torch.allclose(exported(x), pool(x), atol=1e-5)
    model = model_with(head)
    assert same(torch.fx.symbolic_trace(model.eval()), model)


@ALL
@pytest.mark.slow
def test_an_onnx_file_gives_the_same_logits(head, tmp_path):
    assert export_onnx(model_with(head), tmp_path / "m.onnx", IMAGES, batch_size=2) < 1e-3


@ALL
def test_every_parameter_takes_part_in_distributed_training(head, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(model_with(head))
        for _ in range(2):  # the second forward refuses parameters without a gradient
            model(IMAGES).square().sum().backward()
    finally:
        dist.destroy_process_group()
    assert all(parameter.grad is not None for parameter in model.parameters())
