"""Several processes, one training: every process works on its share of each global batch.

    torchrun --nproc-per-node 2 -m streamvla train …

Everything random is drawn for the global batch, in every process alike, and each keeps its own
rows; gradients are averaged (`DistributedDataParallel`). So n processes follow the curve of one
with the same global batch, and a training may be resumed with another number of processes.
"""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from streamvla.core.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """Process `rank` of `world`, and the rows of a global batch that are its own.

    >>> Share(1, 4).rows(8)
    slice(2, 4, None)
    """

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process reports and saves."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """This process's rows of a global batch."""
        if batch_size % self.world:
            raise ConfigError(
                f"batch size {batch_size} cannot be shared evenly by {self.world} processes; "
                f"use a multiple of {self.world}"
            )
        size = batch_size // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def own(self, drawn: Tensor) -> Tensor:
        """This process's rows of a tensor that was drawn for the global batch."""
        return drawn[self.rows(len(drawn))]

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` with gradients averaged over all processes after each backward pass."""
        return module if self.world == 1 else DistributedDataParallel(module)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value over all processes; each of them must ask."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value / self.world

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; each of them must ask."""
        return bool(self.mean(torch.tensor(float(flag))) > 0) if self.world > 1 else flag


@contextmanager
def joined_processes() -> Iterator[Share]:
    """Join the processes that `torchrun` started; `Share()` when it did not start this one.

    Drop every wrapped module before the end: the threads of the process group end with the last
    reference to it. A thread of gloo that is alive when the interpreter ends may be freeing its
    last tensor; it asks for the interpreter's lock, CPython before 3.14 ends a thread that does,
    and C++ answers with abort(): SIGABRT after a training that succeeded (pytorch issue 190489).
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Share()
        return
    # Making a DistributedDataParallel imports this module, whose functions have the process group
    # as a default argument. Imported before there is a group, they do not keep it alive.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Share(dist.get_rank(), world)
    finally:
        gc.collect()  # a DistributedDataParallel refers to itself
        dist.destroy_process_group()
