"""The published layers, from the user's own checkouts of the two repositories, for a comparison in one process."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from timm_gcp import GCPError


@dataclass(frozen=True)
class Published:
    """A layer of a repository.

    Attributes:
        name: what the table calls it.
        repository: name of the checkout's folder.
        file: under ``src/representation``.
        arguments: of its class, which has the file's name; the input's width comes on top.
        ours: the method of this project that it is held against.
    """

    name: str
    repository: str
    file: str
    arguments: dict[str, Any]
    ours: tuple[str, ...]


LAYERS = (
    Published("SVD_Pade", "DifferentiableSVD", "SVD_Pade", {}, ("svdpade", "polar")),
    Published("SVD_Taylor", "DifferentiableSVD", "SVD_Taylor", {}, ("svdtaylor",)),
    Published("SVD_Trunc", "DifferentiableSVD", "SVD_Trunc", {}, ("svdtrunc",)),
    Published("SVD_Original", "DifferentiableSVD", "SVD_Original", {}, ("svd",)),
    Published("SVD_TopN", "DifferentiableSVD", "SVD_TopN", {}, ("svdtopn",)),
    Published("SEB", "DifferentiableSVD", "SEB", {}, ("seb",)),
    Published("MPNCOV", "fast-MPN-COV", "MPNCOV", {"iterNum": 5}, ("isqrt",)),
)


@contextlib.contextmanager
def _without_cuda(device: str) -> Iterator[None]:
    """The published files move tensors to a GPU by name; on a CPU they stay where they are."""
    if device != "cpu":
        yield
        return
    with mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor):
        yield


def load(folder: Path, device: str, channels: int) -> Iterator[tuple[Published, Callable[[Tensor], Tensor]]]:
    """Every published layer that the folder holds, as a function of maps ``[B, C, H, W]``.

    The files are run as they are: they are the user's own checkouts.

    Args:
        folder: holds ``DifferentiableSVD`` and ``fast-MPN-COV``, or one of them.
        device: 'cpu' or 'cuda'.
        channels: C.

    Raises:
        GCPError: the folder holds neither.
    """
    found = [layer for layer in LAYERS if (folder / layer.repository / "src/representation").is_dir()]
    if not found:
        raise GCPError(
            f"{folder} holds neither DifferentiableSVD nor fast-MPN-COV: clone them there (github.com/KingJamesSong/"
            "DifferentiableSVD, github.com/jiangtaoxie/fast-MPN-COV)."
        )
    for layer in found:
        path = folder / layer.repository / "src/representation" / f"{layer.file}.py"
        name = f"_published_{layer.repository.replace('-', '_')}_{layer.file}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        with _without_cuda(device):
            spec.loader.exec_module(module)
            pool: nn.Module = getattr(module, layer.file)(input_dim=channels, **layer.arguments).to(device)

        def run(x: Tensor, pool: nn.Module = pool) -> Tensor:
            with _without_cuda(device):
                return pool(x)

        yield layer, run
