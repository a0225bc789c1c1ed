"""Ronde for managers of torchft (https://github.com/pytorch/torchft): a process group for its `Manager(pg=…)`.

    from torch_ronde.torchft import ProcessGroupRonde

    manager = torchft.Manager(pg=ProcessGroupRonde(timeout=timedelta(seconds=30)), …)
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torchft.process_group import ProcessGroupWrapper

from . import _serve


class ProcessGroupRonde(ProcessGroupWrapper):
    """Made anew by torchft whenever the members of a quorum change; tensors of the CPU."""

    def _create_pg(self, store: dist.Store, rank: int, world_size: int) -> Any:
        group = dist.ProcessGroup(store, rank, world_size)
        group._set_default_backend(dist.ProcessGroup.BackendType.CUSTOM)
        _serve(group, store, rank, world_size, self._timeout, "ronde")
        return group

    def getBackendName(self) -> str:
        return "torchft-ronde"
