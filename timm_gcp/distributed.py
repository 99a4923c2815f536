"""Helpers for several training processes; no-ops in a single process."""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from timm.utils import init_distributed_device
from timm.utils.distributed import is_distributed_env
from torch import Tensor

from .errors import GCPError

__all__ = ["any_of", "by_first", "from_first", "join_processes", "process_count", "summed"]


def join_processes(args: argparse.Namespace) -> torch.device:
    """Joins the processes that torchrun or Slurm started, as timm does; adds ``rank``, ``world_size``, ... to `args`.

    Returns:
        The device of this process.

    Raises:
        GCPError: several processes are announced, and nothing says where they meet.
    """
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if is_distributed_env() and missing:
        if "SLURM_NTASKS" in os.environ:
            raise GCPError(
                f"Slurm announces {os.environ['SLURM_NTASKS']} tasks, and {' and '.join(missing)} are not set, so they "
                "cannot find each other: start one task a node, with torchrun in it (srun --ntasks-per-node 1 torchrun "
                "--nproc-per-node N -m timm_gcp train ...), or set both in the job script. To train in one "
                "process, unset SLURM_NTASKS."
            )
        raise GCPError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {' and '.join(missing)} are not set: start with torchrun, "
            "or unset WORLD_SIZE to train in one process."
        )
    return init_distributed_device(args)


def process_count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(values: Tensor, device: torch.device) -> Tensor:
    """The sum over all processes, on the CPU."""
    if process_count() == 1:
        return values.cpu()
    values = values.to(device, copy=True)
    dist.all_reduce(values)
    return values.cpu()


def any_of(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """For each flag, whether any process has it set; all processes get the same answer."""
    if process_count() == 1:
        return list(flags)
    return [count > 0 for count in summed(torch.tensor(flags, dtype=torch.int32), device).tolist()]


def from_first(value: Any, device: torch.device) -> Any:
    """What the first process has here."""
    if process_count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=device)
    return box[0]


def by_first(work: Callable[[], Any], first: bool, device: torch.device) -> Any:
    """What the first process makes of some work that only it does; the others wait for it.

    Args:
        work: the work; its result can be pickled.
        first: whether this is the first process.
        device: of this process.

    Raises:
        GCPError: in every process, if the work raised it in the first.
    """
    result, refusal = None, ""
    if first:
        try:
            result = work()
        except GCPError as error:
            refusal = str(error)
    result, refusal = from_first((result, refusal), device)
    if refusal:
        raise GCPError(refusal)
    return result
