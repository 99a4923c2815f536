import pytest

from tests.support.loopback_hub import Fault
from tests.support.maintainer import NAME, ROW, Maintainer
from timm_gcp.weights.manifest import write_manifest


@pytest.fixture(scope="session")
def _maintainer(tmp_path_factory):
    made = Maintainer(tmp_path_factory.mktemp("maintainer"))
    yield made
    made.close()


@pytest.fixture
def maintainer(_maintainer):
    """The commands, and a Hub whose faults are off and whose list of requests is empty."""
    _maintainer.hub.calm()
    return _maintainer


@pytest.fixture
def manifest(tmp_path):
    """A manifest whose row is not on the Hub."""
    write_manifest({NAME: ROW}, tmp_path / "manifest.json")
    return tmp_path / "manifest.json"


@pytest.fixture(scope="session")
def published(_maintainer, tmp_path_factory):
    """Manifest and output of a publication during which the server failed twice."""
    path = tmp_path_factory.mktemp("published") / "manifest.json"
    write_manifest({NAME: ROW}, path)
    _maintainer.hub.calm()
    _maintainer.hub.faults = [Fault("PUT", "/lfs/", 500, 1), Fault("POST", "/commit/", 503, 1)]
    status, out, err = _maintainer.publish(path)
    assert status == 0, err
    return path, out, err
