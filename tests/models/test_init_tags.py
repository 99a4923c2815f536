"""The tags ``init`` and ``init-<tag>``: the plain backbone's weights of every tag of timm, under a fresh head."""

import copy
import json
import os
import pickle
import subprocess
import sys

import pytest
import safetensors.torch
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import PretrainedCfg, get_arch_pretrained_cfgs, get_pretrained_cfg, is_model_pretrained

from tests.support.loopback_hub import LoopbackHub, Repo
from tests.support.tools import COMMON, timm_gcp_command
from timm_gcp import METHODS, GCPError
from timm_gcp.models import BACKBONES, registry
from timm_gcp.models.folder import save_folder
from timm_gcp.models.shared_cfg import SharedCfg
from timm_gcp.weights.init_tags import init_tag, is_init, plain_tag

PREPROCESSING = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation", "fixed_input_size")
SMALL, CLASSLESS = "convnextv2_atto", "fcmae"  # a tag that is not timm's default one, of weights without classes


def tags_of(name):
    return {full.partition(".")[2]: cfg for full, cfg in get_arch_pretrained_cfgs(name).items()}


def weights_of_timm(backbone, tag):
    """A state dict such as timm's file of a tag holds."""
    return timm.create_model(backbone, num_classes=get_pretrained_cfg(f"{backbone}.{tag}").num_classes).state_dict()


def has_backbone(model, weights, classifier="head"):
    own = model.state_dict()
    replaced = (classifier, "conv_head", "norm_head")
    kept = [key for key in weights if not key.startswith(replaced)]
    return len(kept) > 100 and all(torch.equal(own[key], weights[key]) for key in kept)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_tag_of_timm_has_a_name_with_its_own_preprocessing_and_licence(backbone):
    plain = {tag: cfg for tag, cfg in tags_of(backbone).items() if cfg.has_weights}
    for method in ("isqrt", list(METHODS)[-1]):
        name = f"{backbone}_{method}"
        own = tags_of(name)
        assert {tag for tag in own if is_init(tag)} == {*map(init_tag, plain), *(["init"] if plain else [])}
        for tag, cfg in plain.items():
            found = get_pretrained_cfg(f"{name}.{init_tag(tag)}")
            assert type(found) is PretrainedCfg
            assert (found.architecture, found.tag) == (name, init_tag(tag))
            for key in (*PREPROCESSING, "license", "hf_hub_id", "hf_hub_filename", "custom_load"):
                assert getattr(found, key) == getattr(cfg, key), key
            assert found.num_classes == 1000
        default = get_pretrained_cfg(name)
        assert not is_init(default.tag)
        assert is_model_pretrained(name) == bool(default.has_weights)
    if plain:
        first = get_pretrained_cfg(backbone)
        init = get_pretrained_cfg(f"{backbone}_isqrt.init")
        assert (init.hf_hub_id, init.input_size) == (first.hf_hub_id, first.input_size)


def test_timm_lists_the_tags():
    found = timm.list_pretrained("convnext_tiny_isqrt*")
    assert "convnext_tiny_isqrt.init" in found
    assert "convnext_tiny_isqrt.init-dinov3_lvd1689m" in found
    assert "convnext_tiny_isqrt" not in found
    assert timm.list_models("*_polar.init-openai", pretrained=True) == [
        f"{backbone}_polar.init-openai"
        for backbone in timm.list_models()
        if timm.is_model(f"{backbone}_polar") and "openai" in tags_of(backbone)
    ]


def test_a_backbone_that_timm_lacks_is_left_out(monkeypatch):
    monkeypatch.setattr(registry, "BACKBONES", ("vit_of_tomorrow", "resnet18"))
    registry.register_known()
    assert not timm.is_model("vit_of_tomorrow_isqrt")


@pytest.mark.parametrize(("tag", "init"), [("", "init"), ("a1_in1k", "init-a1_in1k")])
def test_names_of_tags(tag, init):
    assert init_tag(tag) == init
    assert plain_tag(init) == tag
    assert is_init(init)
    assert not is_init("initial")
    assert not is_init(None)


@pytest.mark.parametrize(
    ("backbone", "tag", "given", "classes"),
    [
        (SMALL, CLASSLESS, {}, 1000),
        (SMALL, CLASSLESS, {"num_classes": 0}, 0),
        (SMALL, CLASSLESS, {"num_classes": 5}, 5),
        (SMALL, CLASSLESS, {"num_classes": 5, "in_chans": 1}, 5),
        (SMALL, "fcmae_ft_in1k", {}, 1000),
        pytest.param("vit_small_patch14_dinov2", "lvd142m", {"img_size": 98}, 1000, marks=pytest.mark.slow),
        pytest.param("tiny_vit_5m_224", "dist_in22k", {}, 1000, marks=pytest.mark.slow),
        pytest.param("mobilenetv4_conv_small", "e3600_r256_in1k", {}, 1000, marks=pytest.mark.slow),
    ],
)
def test_the_weights_are_those_of_timm(backbone, tag, given, classes, tmp_path):
    weights = weights_of_timm(backbone, tag)
    torch.save(weights, tmp_path / "plain.pth")
    overlay = dict(file=str(tmp_path / "plain.pth"))
    known = get_pretrained_cfg(f"{backbone}.{tag}")
    model = timm.create_model(
        f"{backbone}_isqrt.{init_tag(tag)}", pretrained=True, pretrained_cfg_overlay=overlay, **given
    )
    plain = timm.create_model(f"{backbone}.{tag}", pretrained=True, pretrained_cfg_overlay=overlay, **given)
    assert has_backbone(model, plain.state_dict(), known.classifier.partition(".")[0])
    assert model.num_classes == classes
    assert (model.pretrained_cfg["tag"], model.pretrained_cfg["license"]) == (init_tag(tag), known.license)
    shown, expected = resolve_model_data_config(model), resolve_model_data_config(plain)
    assert shown == expected


def test_features_only_has_the_weights_of_the_tag(tmp_path):
    weights = weights_of_timm(SMALL, CLASSLESS)
    torch.save(weights, tmp_path / "plain.pth")
    net = timm.create_model(
        f"{SMALL}_isqrt.init-{CLASSLESS}",
        pretrained=True,
        features_only=True,
        pretrained_cfg_overlay=dict(file=str(tmp_path / "plain.pth")),
    )
    assert torch.equal(net.state_dict()["stem_0.weight"], weights["stem.0.weight"])


def test_a_saved_folder_of_a_tag_loads_with_its_preprocessing(tmp_path):
    name = "convnext_tiny_isqrt.init-in12k_ft_in1k_384"
    small = dict(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=3)
    model = timm.create_model(name, **small).eval()
    assert resolve_model_data_config(model)["input_size"] == (3, 384, 384)
    folder = save_folder(model, tmp_path / "m", model_args={"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)})
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    shown, expected = resolve_model_data_config(again), resolve_model_data_config(model)
    assert tuple(shown["input_size"]) == expected["input_size"]
    assert all(shown[key] == expected[key] for key in ("crop_pct", "crop_mode", "interpolation"))
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "convnext_tiny_isqrt"
    assert not {"tag", "license"} & config["pretrained_cfg"].keys()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(x), model(x))


def test_a_folder_that_timm_saved_with_the_tag_has_weights_of_its_own(tmp_path):
    model = timm.create_model(f"{SMALL}_isqrt.init-{CLASSLESS}", num_classes=3).eval()
    timm.models.save_for_hf(model, str(tmp_path / "m"), model_args=dict(model.gcp_args))
    assert json.loads((tmp_path / "m" / "config.json").read_text())["pretrained_cfg"]["tag"] == f"init-{CLASSLESS}"
    again = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    assert torch.equal(again.get_classifier().weight, model.get_classifier().weight)


@pytest.mark.parametrize(("built", "said"), [(224, 96), (96, 224), (96, 96), (224, 224)])
def test_a_folder_is_built_for_the_size_of_its_weights_whatever_its_tag_says(built, said, tmp_path):
    """A tag of another image size than the default one; timm would fit the position embedding to it."""
    model = timm.create_model(
        "vit_tiny_patch16_224_polar",
        pretrained_cfg_overlay=dict(input_size=(3, said, said)),
        img_size=built,
        num_classes=3,
        embed_dim=48,
        depth=1,
    )
    folder = save_folder(model, tmp_path / "m", model_args={"embed_dim": 48, "depth": 1})
    again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(again.pos_embed, model.pos_embed)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnext_tiny_isqrt.dinov3_lvd1689m", r"named convnext_tiny_isqrt\.init-dinov3_lvd1689m\."),
        ("convnext_tiny_isqrt.init-dinov3", "did you mean init-dinov3_lvd1689m"),
        ("convnext_tiny_isqrt.nowhere", r"it has init \(and init-<tag> for \d+ tags of the plain backbone\)"),
        ("resnet50_isqrt.in1", "it has in1k, in1k_2018, in1k_2020, init .*did you mean in1k"),
        ("alexnet_isqrt.init", "it has none"),
    ],
)
@pytest.mark.parametrize("pretrained", [False, True])
def test_a_wrong_tag(name, message, pretrained):
    with pytest.raises(GCPError, match=message):
        timm.create_model(name, pretrained=pretrained)


def test_shared_cfgs_copy_to_whole_ones():
    whole = PretrainedCfg(hf_hub_id="timm/a.b", input_size=(3, 96, 96), license="mit")
    shared = SharedCfg(whole, architecture="a_isqrt", tag="init-b")
    expected = PretrainedCfg(
        hf_hub_id="timm/a.b", input_size=(3, 96, 96), license="mit", architecture="a_isqrt", tag="init-b"
    )
    assert copy.deepcopy(shared) == expected
    assert shared.to_dict() == expected.to_dict()
    assert (shared.has_weights, shared.license) == ("timm/a.b", "mit")
    assert copy.copy(shared) == pickle.loads(pickle.dumps(shared)) == shared
    assert whole.tag is None
    with pytest.raises(AttributeError, match="colour"):
        _ = shared.colour


@pytest.fixture
def hub():
    """A Hub with the weights of one tag, and the environment that leads there."""
    server = LoopbackHub()
    weights = weights_of_timm(SMALL, CLASSLESS)
    server.repos[f"timm/{SMALL}.{CLASSLESS}"] = Repo()
    server.repos[f"timm/{SMALL}.{CLASSLESS}"].commit({"model.safetensors": safetensors.torch.save(weights)})
    yield server, weights
    server.close()


@pytest.mark.slow
def test_from_the_hub_to_a_trained_folder(hub, images, tmp_path):
    server, weights = hub
    env = {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    code = (
        f"import timm, timm_gcp; m = timm.create_model('{SMALL}_svdpade.init-{CLASSLESS}', pretrained=True)\n"
        "print(float(m.stem[0].weight.double().sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(float(weights["stem.0.weight"].double().sum()))
    assert any(path.endswith("model.safetensors") for _, path in server.requests)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {SMALL}_polar.init-{CLASSLESS}\npretrained: true\nmodel-kwargs:\n  reduce: 8\n")
    name = f"{SMALL}_polar.init-{CLASSLESS}"
    done = timm_gcp_command(
        *("train", "--config", recipe, "--data-dir", images, *COMMON, "--epochs", "3"),
        *("--output", tmp_path, "--experiment", "r"),
        env=env,
    )
    assert done.returncode == 0, done.stderr
    assert f"Weights: {name} (timm/{SMALL}.{CLASSLESS}); pool and classifier are new" in done.stdout
    config = json.loads((tmp_path / "r" / "model" / "config.json").read_text())
    assert config["training"]["started_from"]["name"] == name
    done = timm_gcp_command("validate", "--model", tmp_path / "r" / "model", "--data-dir", images, "--device", "cpu")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_probe_takes_the_plain_backbone_and_the_method(hub, images, tmp_path):
    server, weights = hub
    env = {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    for name, more in (
        (f"{SMALL}_polar.init-{CLASSLESS}", ()),
        (f"{SMALL}_isqrt.init-{CLASSLESS}", ("--method", "svd")),
    ):
        done = timm_gcp_command(
            *("probe", images, "--model", name, "--output", tmp_path / "p", "--img-size", "64", "--components", "4"),
            *("--device", "cpu", "-j", "0", *more),
            env=env,
        )
        assert done.returncode == 0, done.stderr
        method = more[1] if more else "polar"
        assert json.loads((tmp_path / "p" / "result.json").read_text())["method"] == method
    model = timm.create_model(f"local-dir:{tmp_path / 'p' / 'model'}", pretrained=True)
    assert torch.equal(model.stem[0].weight, weights["stem.0.weight"])
    assert model.pretrained_cfg["architecture"] == f"{SMALL}_svd"
