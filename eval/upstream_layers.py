"""The published layers, loaded from the user's checkouts of the two repositories."""

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
    """A published layer.

    Attributes:
        name: its name in tables.
        repository: name of the checkout's folder.
        file: name of the file in ``src/representation``, and of the class in it.
        arguments: arguments of the class, apart from ``input_dim``.
        ours: the methods of this project that are compared with it.
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
    """On a CPU, makes ``Tensor.cuda`` do nothing: the published files call it unconditionally."""
    if device != "cpu":
        yield
        return
    with mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor):
        yield


def load(folder: Path, device: str, channels: int) -> Iterator[tuple[Published, Callable[[Tensor], Tensor]]]:
    """Every published layer in a folder of checkouts, as a function of feature maps ``[B, C, H, W]``.

    The files are executed unchanged: they are the user's own checkouts.

    Args:
        folder: contains ``DifferentiableSVD``, ``fast-MPN-COV`` or both.
        device: 'cpu' or 'cuda'.
        channels: C.

    Yields:
        The layer's description and the layer.

    Raises:
        GCPError: the folder contains neither.
    """
    found = [layer for layer in LAYERS if (folder / layer.repository / "src/representation").is_dir()]
    if not found:
        raise GCPError(
            f"{folder} contains neither DifferentiableSVD nor fast-MPN-COV: clone them there (github.com/KingJamesSong/"
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
