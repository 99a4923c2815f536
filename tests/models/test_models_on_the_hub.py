"""What a command says of a model on the Hub that it cannot load: a mistyped name, a private one, no model of timm."""

import json

import pytest
from PIL import Image

from tests.support.loopback_hub import TOKEN, Fault, Repo
from tests.support.maintainer import Maintainer

LACKS = "is not a model of timm: it lacks config.json or weights; give another one."


@pytest.fixture(scope="module")
def _user(tmp_path_factory):
    made = Maintainer(tmp_path_factory.mktemp("user"))
    Image.new("RGB", (64, 64)).save(made.folder / "bird.jpg")
    files = {name: (made.run / "model" / name).read_bytes() for name in ("config.json", "model.safetensors")}
    config = json.loads(files["config.json"])
    contents = {
        "birds": files,
        "private": files,
        "text": {"README.md": b"no model"},
        "weightless": {"config.json": files["config.json"]},
        "transformers": {"config.json": json.dumps({"architectures": ["ViTModel"]}).encode()},
        "future": {**files, "config.json": json.dumps({**config, "architecture": "resnetxx"}).encode()},
        "misnamed": {**files, "config.json": json.dumps({**config, "label_names": ["a", "b"]}).encode()},
        "misfit": {**files, "config.json": json.dumps({**config, "num_classes": 5, "label_names": []}).encode()},
    }
    for name, content in contents.items():
        made.hub.repos[f"jane/{name}"] = Repo(private=name == "private")
        made.hub.repos[f"jane/{name}"].commit(content)
    yield made
    made.close()


@pytest.fixture
def user(_user):
    _user.hub.calm()
    return _user


def error_of(user, model, token=None):
    status, out, err = user.command(
        *("predict", user.folder / "bird.jpg", "--model", model, "--device", "cpu"), token=token, program="timm-gcp"
    )
    assert (status, out) == (2, ""), err
    assert err.count("\n") == 1
    return err.removeprefix("timm-gcp: error: ").strip()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "There is no model jane/none on the Hub, or your login may not read it; correct the name, or log in"),
        ("private", "There is no model jane/private on the Hub, or your login may not read it; correct the name, or"),
        ("birds@v2", "jane/birds on the Hub has no revision 'v2'; correct it, or leave it out."),
        ("text", f"jane/text on the Hub {LACKS}"),
        ("weightless", f"jane/weightless on the Hub {LACKS}"),
        ("transformers", "jane/transformers on the Hub is not a model of timm: its config.json lacks 'architecture'"),
        ("future", "hf-hub:jane/future has the architecture 'resnetxx', which timm "),
        ("misnamed", "config.json of jane/misnamed has 2 entries in 'label_names' for 3 classes; give a name"),
        ("misfit", "hf-hub:jane/misfit cannot be built: its weights do not fit its config.json, or the arguments that"),
    ],
)
def test_what_the_hub_does_not_give(name, message, user):
    assert error_of(user, f"hf-hub:jane/{name}").startswith(message)


def test_a_login_that_may_read_loads_the_private_model(user):
    argv = ("predict", user.folder / "bird.jpg", "--model", "hf-hub:jane/private", "--device", "cpu")
    status, out, err = user.command(*argv, token=TOKEN, program="timm-gcp")
    assert status == 0, err
    assert "coarse" in out


def test_terms_that_were_not_accepted(user):
    user.hub.faults = [Fault(method, "config.json", 403, 9, "GatedRepo") for method in ("HEAD", "GET")]
    message = error_of(user, "hf-hub:jane/gated")
    assert message.startswith("jane/gated is on the Hub under terms that your login has not accepted; accept them")


@pytest.mark.parametrize("name", ["jane", "jane/", "a/b/c", "", "jane/two words", "@v2", "jane--x/y"])
@pytest.mark.parametrize("source", ["hf-hub", "hf_hub"])
def test_what_is_no_id_is_refused_before_the_hub_is_asked(source, name, user):
    message = error_of(user, f"{source}:{name}")
    assert message.endswith(
        "is not the id of a model on the Hub; give user/name, such as hf-hub:timm/resnet18.a1_in1k."
    )
    assert user.hub.requests == []
