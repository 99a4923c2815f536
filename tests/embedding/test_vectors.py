"""Short vectors, neighbours, near-duplicates and label errors, against direct computations."""

import json

import numpy as np
import pytest
import torch

from timm_gcp import GCPError, covariance_sqrt
from timm_gcp.embedding import EmbeddingOptions, neighbours, vector_file
from timm_gcp.embedding.compact import compact_vectors
from timm_gcp.embedding.embed import Embedding
from timm_gcp.embedding.label_errors import label_errors
from timm_gcp.embedding.neighbours import Neighbours, near_duplicates, nearest
from timm_gcp.probing.directions import Directions
from timm_gcp.probing.features import FeatureArrays, Features


def features_of(maps, labels=None):
    found = FeatureArrays(Directions(torch.eye(maps.shape[1]), 1.0))
    found.add(Features(maps, None), torch.zeros(len(maps)) if labels is None else labels)
    return found


def cosines_of_roots(maps, method):
    roots = covariance_sqrt(maps.double(), method).flatten(1)
    roots = torch.nn.functional.normalize(roots - roots.mean(0), dim=1)
    return roots @ roots.T


@pytest.mark.parametrize("method", ["isqrt", "svdlyap"])
@pytest.mark.parametrize(("compact", "size"), [("sketch", 21), ("pca", 8), ("pca", None)])
def test_at_full_length_the_cosines_are_those_of_the_roots(compact, size, method):
    maps = torch.randn(9, 6, 12)
    vectors = compact_vectors(features_of(maps), method, compact, size)
    assert vectors.shape == (9, size or 8)
    torch.testing.assert_close(vectors @ vectors.T, cosines_of_roots(maps, method).float(), rtol=1e-4, atol=1e-4)


def test_a_sketch_is_close_and_components_are_the_best():
    maps = torch.randn(40, 16, 12) * torch.linspace(1, 3, 16)[:, None]
    exact = cosines_of_roots(maps, "isqrt")
    error = {}
    for compact in ("sketch", "pca"):
        vectors = compact_vectors(features_of(maps), "isqrt", compact, 32).double()
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(40, dtype=torch.float64))
        error[compact] = float((vectors @ vectors.T - exact).square().mean().sqrt())
    assert error["pca"] < error["sketch"] < 2 / 32**0.5


def test_equal_images_and_impossible_lengths():
    same = compact_vectors(features_of(torch.randn(1, 4, 5).repeat(3, 1, 1)), "isqrt", "sketch")
    assert same.shape == (3, 10)
    assert same.isfinite().all()
    same = compact_vectors(features_of(torch.randn(1, 4, 5).repeat(3, 1, 1)), "isqrt", "pca")
    assert same.isfinite().all()
    for compact, most in (("sketch", "at most 10"), ("pca", "at most 2")):
        with pytest.raises(GCPError, match=most):
            compact_vectors(features_of(torch.randn(3, 4, 5)), "isqrt", compact, 11)
    with pytest.raises(GCPError, match="one image only"):
        compact_vectors(features_of(torch.randn(1, 4, 5)), "isqrt", "sketch")
    with pytest.raises(GCPError, match="Unknown way 'tsne'"):
        EmbeddingOptions(compact="tsne")


def test_nearest_neighbours_in_chunks(monkeypatch):
    monkeypatch.setattr(neighbours, "_ROWS", 3)
    vectors = torch.nn.functional.normalize(torch.randn(10, 4), dim=1)
    cosines = (vectors @ vectors.T).fill_diagonal_(-2)
    expected = cosines.sort(1, descending=True)
    found = nearest(vectors, 4)
    torch.testing.assert_close(found.similarity, expected.values[:, :4])
    assert torch.equal(found.index, expected.indices[:, :4])
    assert nearest(vectors, 50).index.shape == (10, 9)
    with pytest.raises(GCPError, match="not finite"):
        nearest(vectors * torch.nan)


def test_near_duplicates_are_connected_groups():
    index = torch.tensor([[3, 1], [2, 0], [1, 3], [0, 2], [0, 1]])
    similarity = torch.tensor([[0.95, 0.1], [0.99, 0.1], [0.99, 0.91], [0.95, 0.91], [0.3, 0.2]])
    found = near_duplicates(Neighbours(index, similarity), 0.9)
    assert [group.images for group in found] == [[0, 1, 2, 3]]
    assert [pair[:2] for pair in found[0].pairs] == [(1, 2), (0, 3), (2, 3)]
    assert [group.images for group in near_duplicates(Neighbours(index, similarity), 0.94)] == [[1, 2], [0, 3]]
    assert near_duplicates(Neighbours(index, similarity), 0.999) == []


def test_an_image_alone_in_its_class_is_no_label_error():
    torch.manual_seed(0)
    maps, labels = torch.randn(7, 6, 12), torch.tensor([0, 0, 0, 1, 1, 1, 2])
    assert all(each.label != 2 for each in label_errors(features_of(maps, labels), 3, "isqrt", "mean"))
    assert label_errors(features_of(maps, torch.arange(7)), 7, "isqrt", "mean") == []


def test_planted_label_errors_come_first():
    labels = torch.arange(60) % 3
    scale = torch.ones(60, 6, 1)
    scale[torch.arange(60), labels] = 3.0  # each class has one channel of large variance
    maps = torch.randn(60, 6, 30) * scale
    given = labels.clone()
    given[[7, 20]] = (labels[[7, 20]] + 1) % 3
    found = label_errors(features_of(maps, given), 3, "isqrt", "mean")
    assert {each.image for each in found[:2]} == {7, 20}
    for each in found[:2]:
        assert (each.label, each.suggested) == (int(given[each.image]), int(labels[each.image]))
        assert each.suggested_probability > each.probability
    margins = [each.suggested_probability - each.probability for each in found]
    assert margins == sorted(margins, reverse=True)


def embedding_of(labels=None, class_names=None):
    vectors = torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
    files = ["a.jpg", "b/ü.jpg", "c.jpg", "d.jpg"]
    return Embedding(vectors, files, labels, class_names, {"method": "isqrt"}, None, None)


@pytest.mark.parametrize("class_names", [["x", "y"], None])
def test_npz_files(tmp_path, class_names):
    found = embedding_of(torch.tensor([0, 1, 1, 0]), class_names)
    vector_file.save_vectors(found, tmp_path / "v.npz")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as stored:
        assert np.array_equal(stored["vectors"], found.vectors.numpy())
        assert stored["files"].tolist() == found.files
        assert stored["class_names"].tolist() == (class_names or ["0", "1"])
        assert json.loads(str(stored["settings"])) == found.settings
    vector_file.save_vectors(embedding_of(), tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz", allow_pickle=False) as stored:
        assert sorted(stored) == ["files", "settings", "vectors"]


def test_parquet_files(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = embedding_of(torch.tensor([0, 1, 1, 0]), ["x", "y"])
    vector_file.save_vectors(found, tmp_path / "v.parquet")
    table = parquet.read_table(tmp_path / "v.parquet")
    assert table["file"].to_pylist() == found.files
    assert table["label"].to_pylist() == ["x", "y", "y", "x"]
    assert np.array_equal(np.array(table["vector"].to_pylist(), dtype=np.float32), found.vectors.numpy())
    assert json.loads(table.schema.metadata[b"timm_gcp"]) == found.settings
    vector_file.save_vectors(embedding_of(), tmp_path / "w.parquet")
    assert parquet.read_table(tmp_path / "w.parquet")["label"].to_pylist() == [None] * 4


def test_endings_and_a_missing_package(tmp_path, monkeypatch):
    with pytest.raises(GCPError, match=r"--out .*v.csv: vectors are written as .npz or .parquet"):
        vector_file.check_vector_file(str(tmp_path / "v.csv"), "--out")
    monkeypatch.setattr(vector_file.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(GCPError, match="needs the package pyarrow, which is not installed: pip install pyarrow"):
        vector_file.check_vector_file(str(tmp_path / "v.parquet"), "--out")
