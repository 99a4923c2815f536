"""A model that a user grafts is saved by timm's functions and by ours, and loads again as the same network."""

import inspect
import os
import subprocess
import sys

import pytest
import timm
import torch
from timm.models import save_for_hf

import timm_gcp
from tests.support.loopback_hub import TOKEN, LoopbackHub
from timm_gcp import GCPError
from timm_gcp.models.folder import loading_code, save_folder

IMAGE = torch.randn(1, 3, 64, 64)
RECORDS_ARGUMENTS = "data_config" in inspect.signature(save_for_hf).parameters  # timm's savers do, since 1.0.29


def timms(model, folder):
    save_for_hf(model, str(folder), model_args=None if RECORDS_ARGUMENTS else dict(model.gcp_args))


GRAFTS = {
    "default head": ("test_resnet", {}, {}),
    "another head": ("test_resnet", {}, {"method": "polar", "reduce": 32, "last_stride": 2, "dtype": torch.float64}),
    "arguments of the method": ("test_resnet", {}, {"method": "isqrt", "method_args": {"iterations": 2}}),
    "one channel": ("test_resnet", {"in_chans": 1}, {}),
    "no registered name": ("test_efficientnet", {}, {"reduce": 0}),
}


@pytest.mark.parametrize("save", [timms, save_folder])
@pytest.mark.parametrize("kind", GRAFTS)
def test_a_graft_loads_again(kind, save, tmp_path):
    backbone, arguments, head = GRAFTS[kind]
    if save is timms and arguments and not RECORDS_ARGUMENTS:
        pytest.skip("this timm records no arguments of the backbone")
    model = timm_gcp.graft(timm.create_model(backbone, num_classes=3, **arguments), **head).eval()
    save(model, tmp_path / "m")
    again = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    assert again.pretrained_cfg["architecture"] == f"{backbone}_{head.get('method', 'svdpade')}"
    image = IMAGE.mean(1, keepdim=True) if arguments else IMAGE
    with torch.no_grad():
        assert torch.equal(again(image), model(image))


@pytest.mark.parametrize("save", [timms, save_folder])
def test_the_method_in_force_is_the_one_that_loads(save, tmp_path):
    if save is timms and not RECORDS_ARGUMENTS:
        pytest.skip("this timm's save_for_hf records the architecture that the model was made with, and no arguments")
    for model in (timm.create_model("test_resnet_svdpade"), timm_gcp.graft(timm.create_model("test_resnet"))):
        model.global_pool.method = "isqrt"
        save(model, tmp_path / "m")
        assert timm.create_model(f"local-dir:{tmp_path / 'm'}").global_pool.method == "isqrt"


def _set(model, method):
    model.global_pool.method = method


SWITCHES = {"pool": _set, "classifier": lambda model, method: model.reset_classifier(3, method)}


@pytest.mark.parametrize("save", [timms, save_folder])
@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
@pytest.mark.parametrize(
    ("method", "given", "later"),
    [
        ("svdtaylor", {"degree": 20}, ["isqrt"]),
        ("isqrt", {"iterations": 2}, ["polar"]),
        ("isqrt", {"iterations": 2}, ["svdpade", "isqrt"]),
    ],
)
def test_the_arguments_saved_are_those_of_the_method_in_force(method, given, later, switch, save, tmp_path):
    if save is timms and not RECORDS_ARGUMENTS:
        pytest.skip("this timm's save_for_hf records the architecture that the model was made with, and no arguments")
    created = timm.create_model(f"test_resnet_{method}", num_classes=3, method_args=given)
    grafted = timm_gcp.graft(timm.create_model("test_resnet", num_classes=3), method, method_args=given)
    for number, model in enumerate((created, grafted)):
        for name in later:
            switch(model, name)
        save(model.eval(), tmp_path / f"{number}")
        again = timm.create_model(f"local-dir:{tmp_path / f'{number}'}", pretrained=True).eval()
        assert (again.global_pool.method, again.global_pool.method_args) == (later[-1], model.global_pool.method_args)
        with torch.no_grad():
            assert torch.equal(again(IMAGE), model(IMAGE))


@pytest.mark.skipif(not RECORDS_ARGUMENTS, reason="this timm's save_for_hf records no arguments")
def test_timm_saves_the_stride_that_a_tag_brought(tmp_path):
    # A row of the manifest gives its arguments to the model, not to timm.create_model.
    model = timm.create_model("resnet50_svdpade.in1k", num_classes=2)
    assert model.gcp_args["last_stride"] == 2
    save_for_hf(model, str(tmp_path / "m"))
    assert timm.create_model(f"local-dir:{tmp_path / 'm'}").gcp_args == model.gcp_args


def test_the_plain_models_own_cfg_stays_as_it_is():
    plain = timm.create_model("test_resnet")
    cfg = plain.pretrained_cfg
    timm_gcp.graft(plain)
    assert cfg["architecture"] == "test_resnet"
    assert plain.pretrained_cfg["pool_size"] == (10, 10)


def test_what_has_no_name_is_refused_when_it_is_saved(tmp_path):
    model = timm.models.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), num_classes=3)
    timm_gcp.graft(model)
    with pytest.raises(GCPError, match="no registered name to save under"):
        save_folder(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


PUSH = """
import timm, timm_gcp, torch
model = timm_gcp.graft(timm.create_model("test_efficientnet", num_classes=3)).eval()
timm.models.push_to_hf_hub(model, "me/graft", token="{token}"{arguments})
again = timm.create_model("hf-hub:me/graft", pretrained=True).eval()
image = torch.randn(1, 3, 64, 64)
assert torch.equal(again(image), model(image))
"""


@pytest.mark.slow
def test_a_graft_pushed_to_the_hub_loads_again(tmp_path):
    hub = LoopbackHub()
    try:
        arguments = "" if RECORDS_ARGUMENTS else ", model_args=dict(model.gcp_args)"
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PUSH.format(token=TOKEN, arguments=arguments)],
            capture_output=True,
            text=True,
            env={**{key: value for key, value in os.environ.items() if not key.startswith("HF_")}, **environment},
        )
        assert done.returncode == 0, done.stderr
    finally:
        hub.close()


def test_code_that_loads_a_folder(tmp_path):
    """Backbones that importing the package does not register are registered first."""
    assert loading_code("resnet50_isqrt", "m") == "timm.create_model('local-dir:m', pretrained=True)"
    code = loading_code("mobilevitv2_100_isqrt", "m")
    assert code.startswith('timm_gcp.register_backbone("mobilevitv2_100"); timm.create_model(')
