"""Ronde as a backend of torch.distributed: `init_process_group("ronde")`; and training among processes that come and go: [`join`].

Newer versions of PyTorch find the backend by its entry point; for older ones `import torch_ronde` registers it.
"""

from __future__ import annotations

import ctypes
from datetime import timedelta
from typing import Any

import ronde
import torch
import torch.distributed as dist
from ronde import _library

from ._elastic import Step, World, join
from ._sampler import ElasticSampler
from ._shim import load
from ._state import State

__all__ = ["ElasticSampler", "State", "Step", "World", "join", "register"]
__version__ = ronde.__version__
# Of a key of the store, under the prefix that a group has for itself.
_ID = "ronde/id"


def register() -> None:
    """Tells torch.distributed of the backend; any number of times."""
    if "RONDE" not in dist.Backend._plugins:
        dist.Backend.register_backend("ronde", _create, extended_api=True, devices=["cpu"])


def _create(options: Any, _backend_options: Any, name: str = "ronde") -> Any:
    """The backend of a process group, which profilers know by `name`."""
    timeout = options.timeout if isinstance(options.timeout, timedelta) else timedelta(seconds=options.timeout)
    group, rank, size = options.process_group, options.group_rank, options.group_size
    if getattr(options, "enable_reconfigure", False):
        # It joins nothing: who is in it comes by reconfigure.
        load()
        torch.ops.torch_ronde.attach_later(group.boxed(), rank, size, _milliseconds(timeout), name)
    else:
        _serve(group, options.store, rank, size, timeout, name)
    return group._get_backend(torch.device("cpu"))


def _serve(group: Any, store: Any, rank: int, size: int, timeout: timedelta, name: str) -> None:
    """Gives a process group a backend. Its first rank hosts the job's coordinator, and hands the id to the others by the store."""
    load()
    if rank == 0:
        job = ronde.create_id(size=size)
        store.set(_ID, job)
    else:
        job = store.get(_ID)
    identity = torch.frombuffer(bytearray(job), dtype=torch.uint8)
    limit = _milliseconds(timeout)
    try:
        torch.ops.torch_ronde.attach(group.boxed(), identity, rank, size, limit, limit, name)
    finally:
        # All have read it once all have joined. The next group may have the same store, with the same prefix.
        if rank == 0:
            store.delete_key(_ID)


def _milliseconds(timeout: timedelta) -> int:
    return max(1, int(timeout.total_seconds() * 1000))


# The shim finds the library's functions among those of the process.
ctypes.CDLL(str(_library.path()), mode=ctypes.RTLD_GLOBAL)
register()
