"""Two processes that want the same features: one writes them, the other waits and reads."""

import threading

import torch

from timm_gcp.probing.cache import write_cache
from timm_gcp.probing.directions import Directions
from timm_gcp.probing.features import Features


class Images(list):
    """Labels by index."""

    def filename(self, index):
        return str(index)


class Backbone:
    """Features that are numbers; counts the images, and waits before the second batch."""

    def __init__(self, go_on):
        self.key, self.go_on, self.count, self.began = {"weights": "x"}, go_on, 0, threading.Event()

    def batches(self, dataset, indices, mirror):
        for start in range(0, len(indices), 4):
            if start:
                self.began.set()
                assert self.go_on.wait(30)
            these = list(indices)[start : start + 4]
            self.count += len(these)
            maps = torch.tensor(these).view(-1, 1, 1) * torch.eye(3).expand(len(these), 3, 3)
            yield [Features(maps.float(), None)], torch.tensor([dataset[i] for i in these])


def test_the_second_waits_for_the_first(tmp_path, capsys):
    go_on = threading.Event()
    first, second = Backbone(go_on), Backbone(go_on)
    directions, images, found = Directions(torch.eye(3), 1.0, 1.0), Images(range(12)), {}

    def write(name, backbone):
        found[name] = write_cache(backbone, images, "digest", directions, tmp_path)

    one = threading.Thread(target=write, args=("first", first))
    one.start()
    assert first.began.wait(30)
    other = threading.Thread(target=write, args=("second", second))
    other.start()
    for _ in range(300):
        if "Waiting for another process" in capsys.readouterr().out:
            break
        other.join(0.1)
    else:
        raise AssertionError("the second did not wait")
    go_on.set()
    one.join(30)
    other.join(30)
    assert (first.count, second.count) == (12, 0)
    assert torch.equal(found["first"].maps(0, 12), found["second"].maps(0, 12))
    assert found["second"].labels().tolist() == list(range(12))
