"""A method of the user's own: registered, then used by its name like every other."""

import copy
import re

import pytest
import timm
import torch
from timm.models import _registry

import timm_gcp
from tests.support.reference import relative
from tests.support.tools import ROOT
from timm_gcp import METHODS, Argument, GCPError, GlobalCovariancePool, Method, SpectralMethod, methods, register_method
from timm_gcp.models import registry
from timm_gcp.onnx.pool import pool_eigenfree
from timm_gcp.spectral.loewner import exact_power
from timm_gcp.spectral.spectral_function import Elementwise, power


@pytest.fixture(autouse=True)
def _registries_restored(monkeypatch):
    """What a test registers is gone after it, from the table of methods and from timm's registry."""
    for name, value in vars(_registry).items():
        if not name.startswith("__") and isinstance(value, dict | set):
            monkeypatch.setattr(_registry, name, copy.deepcopy(value))
    monkeypatch.setattr(registry, "_registered", set(registry._registered))
    rows = dict(METHODS)
    yield
    methods._BY_NAME.clear()
    methods._BY_NAME.update(rows)


def powers(name="mine", **fields):
    """λ^alpha, as a user would write it."""
    given = dict(
        forward="a power",
        backward="exact",
        reference="none",
        arguments=(Argument("alpha", float, 0.25, "the power"),),
        function=lambda alpha: Elementwise(lambda t: t.pow(alpha), exact_power(alpha)),
        homogeneity=lambda alpha: 2 * alpha,
    )
    return SpectralMethod(name=name, **{**given, **fields})


def test_it_is_a_method_like_the_others():
    assert register_method(powers())[0] == "alexnet_mine"
    assert METHODS["mine"].defaults == {"alpha": 0.25}
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: timm_gcp.covariance_sqrt(x, "mine", alpha=0.4), x.clone().requires_grad_()
    )
    sigma = x @ x.mT
    root = timm_gcp.matrix_sqrt(sigma, "mine")
    assert relative(root @ root @ root @ root, sigma) < 1e-12
    assert relative(timm_gcp.pool_features(4e6 * x, "mine"), 2e3 * timm_gcp.pool_features(x, "mine")) < 1e-12
    with pytest.raises(GCPError, match="'alpha' of method 'mine' is a number above 0, not -1"):
        timm_gcp.pool_features(x, "mine", alpha=-1)


def test_models_have_it():
    register_method(powers())
    images = torch.randn(2, 3, 64, 64)
    by_name = timm.create_model("test_resnet_mine", num_classes=3, method_args={"alpha": 0.5}).eval()
    same = timm.create_model("test_resnet_polar", num_classes=3).eval()
    same.load_state_dict(by_name.state_dict())
    assert relative(by_name(images), same(images)) < 1e-5
    # A backbone that is registered with timm later has the method too.
    model = timm_gcp.graft(timm.create_model("test_vit", num_classes=3), "mine")
    assert model.pretrained_cfg["architecture"] == "test_vit_mine"
    assert timm.is_model("test_vit_mine")
    model(torch.randn(2, 3, 160, 160)).sum().backward()
    model.global_pool.method = "isqrt"
    model.global_pool.method = "mine"


def test_compiled_and_exported():
    register_method(powers())
    torch.compiler.reset()
    pool = GlobalCovariancePool(8, "mine", reduce=None)
    x = torch.randn(2, 8, 4, 4)
    assert relative(torch.compile(pool, fullgraph=True, backend="eager")(x), pool(x)) < 1e-6
    with pytest.raises(GCPError, match="no form without an eigensolver"):
        pool_eigenfree(x.flatten(2), "mine")


def test_a_vector_of_its_own():
    """No function of the covariance: the largest value of every channel."""
    register_method(
        Method(
            name="peak", forward="maximum", backward="autograd", reference="none", dtype=torch.float32,
            of_features=lambda x: x.amax(-1), of_sigma=None, output_width=lambda channels: channels,
        )
    )  # fmt: skip
    x = torch.randn(2, 5, 3, 4)
    pool = GlobalCovariancePool(5, "peak", reduce=None)
    assert pool.out_features == 5
    torch.testing.assert_close(pool(x), x.amax((-2, -1)))
    with pytest.raises(GCPError, match="no function of the covariance"):
        timm_gcp.covariance_sqrt(x.flatten(2), "peak")


@pytest.mark.parametrize("name", ["", "my_root", "my.root", "Mine", "2nd", "my root", "mine\n", "größe"])
def test_names_that_cannot_be_a_suffix(name):
    with pytest.raises(GCPError, match="lower-case letters and digits"):
        powers(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [("svdpade", "There is a method 'svdpade' already"), ("gn", "which end in _gn"), ("gcp", "'gcp' means")],
)
def test_names_that_are_taken(name, message):
    before = dict(METHODS)
    with pytest.raises(GCPError, match=message):
        register_method(powers(name))
    assert dict(METHODS) == before


@pytest.mark.parametrize(
    ("name", "kind", "default", "message"),
    [
        ("unit", float, 1.0, "cannot be the name"),
        ("my power", float, 1.0, "cannot be the name"),
        ("alpha", float, 0.0, "is a number above 0, not 0"),
        ("steps", int, 0.5, "is a whole number of at least 1, not 0.5"),
        ("steps", int, True, "is a whole number of at least 1, not True"),
    ],
)
def test_arguments_that_are_refused(name, kind, default, message):
    with pytest.raises(GCPError, match=message):
        Argument(name, kind, default, "")


def test_what_is_no_row():
    alpha = Argument("alpha", float, 0.25, "")
    with pytest.raises(GCPError, match="two arguments of one name"):
        powers(arguments=(alpha, alpha))
    with pytest.raises(GCPError, match=r"takes a timm_gcp\.Method, not a function"):
        register_method(power)


def test_the_page_on_methods_runs():
    page = (ROOT / "docs" / "extend" / "method.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert names["pool"].method == names["other"].global_pool.method == "manyroots"
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    assert relative(timm_gcp.covariance_sqrt(x, "manyroots", times=1), timm_gcp.covariance_sqrt(x, "polar")) < 1e-12
