"""Which errors of a request to the Hub are tried again."""

import errno
import os

import pytest

from timm_gcp.errors import GCPError
from timm_gcp.sharing import retry


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENOENT, errno.EACCES])
def test_a_file_of_this_machine_is_no_fault_of_the_hub(code, monkeypatch):
    calls = []
    monkeypatch.setattr(retry, "PAUSES", (0, 0, 0))

    def action():
        calls.append(1)
        raise RuntimeError("the transfer ended") from OSError(code, os.strerror(code))

    with pytest.raises(GCPError, match="A file of this machine stopped uploading") as caught:
        retry.attempt(action, "uploading to jane/birds")
    assert os.strerror(code) in str(caught.value)
    assert len(calls) == 1


def test_a_broken_connection_is_tried_again(monkeypatch):
    calls = []
    monkeypatch.setattr(retry, "PAUSES", (0, 0, 0))

    def action():
        calls.append(1)
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    with pytest.raises(GCPError, match="The Hub kept failing while uploading"):
        retry.attempt(action, "uploading to jane/birds")
    assert len(calls) == 4
