"""Features on disk that lost a file are written anew."""

import pytest
import torch

from timm_gcp.probing.cache import write_cache
from timm_gcp.probing.directions import Directions
from timm_gcp.probing.features import Features

COUNT = 12


class Images(list):
    """Labels by index."""

    def filename(self, index):
        return str(index)


class Backbone:
    """Features that are numbers; counts the images, and can stop before the second batch."""

    def __init__(self, stops=False):
        self.key, self.stops, self.count = {"weights": "x"}, stops, 0

    def batches(self, dataset, indices, mirror):
        for start in range(0, len(indices), 4):
            if start and self.stops:
                raise KeyboardInterrupt
            these = torch.tensor(list(indices)[start : start + 4])
            self.count += len(these)
            yield [Features(these.view(-1, 1, 1) * torch.eye(3), these[:, None].expand(-1, 3).float())], these


def write(folder, **options):
    backbone = Backbone(**options)
    return write_cache(backbone, Images(range(COUNT)), "digest", Directions(torch.eye(3), 1.0), folder), backbone.count


def contents(cache):
    return [cache.maps(0, COUNT), cache.first("mean"), cache.first("token"), cache.labels()]


@pytest.mark.parametrize("lost", ["maps.npy", "mean.npy", "token.npy", "labels.npy", "state.json"])
def test_a_cache_without_one_of_its_files_is_written_anew(lost, tmp_path):
    cache, _ = write(tmp_path)
    whole = [each.clone() for each in contents(cache)]
    assert whole[3].tolist() == list(range(COUNT))
    assert write(tmp_path)[1] == 0
    (cache.folder / lost).unlink()
    again, count = write(tmp_path)
    assert count == COUNT
    assert all(map(torch.equal, contents(again), whole))


@pytest.mark.parametrize("stage", ["before the first batch", "after it"])
def test_and_may_be_stopped_meanwhile(stage, tmp_path, monkeypatch):
    """What the state said of the lost files does not hold for the new ones."""
    cache, _ = write(tmp_path)
    whole = [each.clone() for each in contents(cache)]
    (cache.folder / "maps.npy").unlink()
    if stage == "before the first batch":
        monkeypatch.setattr(
            "timm_gcp.probing.cache._Writer.add", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt)
        )
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, stops=True)
    monkeypatch.undo()
    again, count = write(tmp_path)
    assert count == (COUNT if stage == "before the first batch" else COUNT - 4)
    assert all(map(torch.equal, contents(again), whole))


def test_a_cache_of_an_earlier_version_is_used(tmp_path):
    cache, _ = write(tmp_path)
    (cache.folder / "state.json").write_text('{"done": 12}')
    assert write(tmp_path)[1] == 0
