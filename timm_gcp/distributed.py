"""Helpers for distributed training; no-ops in a single process."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from timm.utils.distributed import init_distributed_device_so, is_distributed_env
from torch import Tensor

from .errors import GCPError

__all__ = ["Processes", "any_of", "from_first", "gathered", "join_processes", "process_count", "summed"]

_PATIENCE = timedelta(days=7)
"""How long the other processes wait for the work of the first, such as a download."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        device: of this process.
        rank: number of this process, from 0.
        world_size: number of processes.
        distributed: whether they were started together, by torchrun or Slurm.
        waiting: the group in which the others wait for the work of the first; None for the default group, whose time
            limit may be 10 minutes.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    distributed: bool = False
    waiting: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def by_first(self, work: Callable[[], Any]) -> Any:
        """Does some work in the first process only; the others wait for its result.

        Args:
            work: the work; its result can be pickled.

        Returns:
            Its result, in every process.

        Raises:
            GCPError: in every process, if the work raised it in the first.
        """
        result, refusal = None, ""
        if self.first:
            try:
                result = work()
            except GCPError as error:
                refusal = str(error)
        result, refusal = from_first((result, refusal), self.device, self.waiting)
        if refusal:
            raise GCPError(refusal)
        return result

    def leave(self) -> None:
        """Waits for the other processes and ends the process group."""
        if self.distributed:
            dist.barrier()
            dist.destroy_process_group()


def join_processes(device: str) -> Processes:
    """Joins the processes that torchrun or Slurm started, as timm does.

    Args:
        device: name of the device; each of several processes takes a CUDA device of its own.

    Raises:
        GCPError: several processes are announced, and nothing says where they meet.
    """
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if is_distributed_env() and missing:
        if "SLURM_NTASKS" in os.environ:
            raise GCPError(
                f"Slurm announces {os.environ['SLURM_NTASKS']} tasks, and {' and '.join(missing)} are not set, so they "
                "cannot find each other: start one task per node, with torchrun in it (srun --ntasks-per-node 1 "
                "torchrun --nproc-per-node N -m timm_gcp train ...), or set both in the job script. To train in one "
                "process, unset SLURM_NTASKS."
            )
        raise GCPError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {' and '.join(missing)} are not set: start with torchrun, "
            "or unset WORLD_SIZE to train in one process."
        )
    joined = init_distributed_device_so(device=device)
    distributed = bool(joined["distributed"])
    waiting = dist.new_group(backend="gloo", timeout=_PATIENCE) if distributed else None
    return Processes(torch.device(joined["device"]), joined["global_rank"], joined["world_size"], distributed, waiting)


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


def gathered(rows: Tensor, device: torch.device) -> Tensor:
    """The rows of all processes, those of the first process first, on the CPU.

    Args:
        rows: ``[n, ...]``; n may differ between processes.
        device: of this process.
    """
    world = process_count()
    if world == 1:
        return rows.cpu()
    counts = torch.zeros(world, dtype=torch.int64)
    counts[dist.get_rank()] = len(rows)
    counts = summed(counts, device)
    padded = rows.new_zeros(int(counts.max()), *rows.shape[1:], device=device)
    padded[: len(rows)] = rows.to(device)
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)]).cpu()


def any_of(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """For each flag, whether any process has it set; all processes get the same answer."""
    if process_count() == 1:
        return list(flags)
    return [count > 0 for count in summed(torch.tensor(flags, dtype=torch.int32), device).tolist()]


def from_first(value: Any, device: torch.device, group: Any = None) -> Any:
    """What the first process has here.

    Args:
        value: can be pickled.
        device: of this process.
        group: a gloo group of all processes, which waits as long as its time limit; None for the default group.
    """
    if process_count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=group, device=device if group is None else torch.device("cpu"))
    return box[0]
