"""The processes that train one trial together: who they are, and what they tell each other.

Rank ``data * k + chunk`` of k x d is chunk number ``chunk`` of each string, and number ``data`` of
the d groups that share each batch.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ldru_study.spec.trial import TrainConfig
from ldru_study.training.batches import Batch

# a peer that is this late is gone; ranks wait for each other while one of them validates
_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """One process among those that train a trial.

    Args:
        rank: which one it is.
        mesh: of d x k processes with dimensions ``data`` and ``sequence``; None for one process.
    """

    rank: int = 0
    mesh: DeviceMesh | None = None

    @property
    def size(self) -> int:
        """How many processes there are."""
        return 1 if self.mesh is None else self.mesh.size()

    @property
    def data(self) -> int:
        """Which part of each batch this process trains on."""
        return 0 if self.mesh is None else self.mesh.get_local_rank("data")

    @property
    def sequence_group(self) -> dist.ProcessGroup | None:
        """The processes that share each string; None when this one has whole strings."""
        if self.mesh is None or self.mesh["sequence"].size() == 1:
            return None
        return self.mesh.get_group("sequence")

    def part(self, batch: Batch) -> Batch:
        """Return this process's share of a batch: all parts are of one size."""
        num_parts = 1 if self.mesh is None else self.mesh["data"].size()
        size = len(batch.labels) // num_parts
        return batch.part(self.data * size, (self.data + 1) * size)

    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors, of one dtype, by their means over all processes, in one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        means = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view_as(tensor))


ALONE = Ranks()


@dataclass(frozen=True)
class Meeting:
    """Where processes find each other: a host's address and a port that is free there."""

    host: str
    port: int


def open_meeting(host: str) -> Meeting:
    """Return a place on this machine, reachable as ``host``, for `join`."""
    with socket.create_server((host, 0)) as listener:
        return Meeting(host, listener.getsockname()[1])


def join(rank: int, size: int, meeting: Meeting, device: torch.device) -> None:
    """Become one of ``size`` processes that can talk to each other: gloo on CPUs, NCCL on GPUs.

    Returns when all have joined.
    """
    # DeepSpeed looks for these even where the process group is there already
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": "0",
        "MASTER_ADDR": meeting.host,
        "MASTER_PORT": str(meeting.port),
    }
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"tcp://{meeting.host}:{meeting.port}",
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )


def arrange(train: TrainConfig, device: torch.device) -> Ranks:
    """Arrange the processes that have joined in the d x k grid of a training.

    All of them must arrange the same trainings in the same order.

    Raises:
        ValueError: there are more or fewer of them than the training has workers.
    """
    num_joined = dist.get_world_size() if dist.is_initialized() else 1
    if num_joined != train.workers:
        raise ValueError(
            f"{num_joined} processes joined, but train.sequence_parallel {train.sequence_parallel} "
            f"x train.data_parallel {train.data_parallel} makes {train.workers} workers."
        )
    if train.workers == 1:
        return ALONE
    shape = (train.data_parallel, train.sequence_parallel)
    if shape not in _MESHES:
        _MESHES[shape] = init_device_mesh(device.type, shape, mesh_dim_names=("data", "sequence"))
    return Ranks(dist.get_rank(), _MESHES[shape])


# groups are made once in a process: they are never freed
_MESHES: dict[tuple[int, int], DeviceMesh] = {}
