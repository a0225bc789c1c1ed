"""torchft's process group over Ronde: a quorum, then a smaller one."""

from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchft")
import torch.distributed as dist  # noqa: E402


def changes(me, size, coordinator):
    from torch_ronde.torchft import ProcessGroupRonde
    from torchft import process_group

    torch.set_num_threads(1)
    host, port = coordinator.split(":")
    store = dist.TCPStore(host, int(port), None, me == 0, timedelta(seconds=30), wait_for_workers=False)
    group = ProcessGroupRonde(timeout=timedelta(seconds=30))
    for quorum, members in enumerate([size, size - 1]):
        if me >= members:
            group.shutdown()
            break
        address = f"{coordinator}/quorum{quorum}"
        if hasattr(process_group, "reconfigure_with_store"):
            process_group.reconfigure_with_store(group, address, me, members)
        else:
            group.configure(address, me, members)
        data = torch.full((3,), float(me + 1))
        group.allreduce([data], dist.ReduceOp.SUM).wait()
        assert data.tolist() == [members * (members + 1) / 2] * 3
        assert group.size() == members and group.errored() is None
    store.set(f"over/{me}", "")
    if me == 0:
        store.wait([f"over/{member}" for member in range(size)])
    return True


def test_quorums(ranks):
    assert ranks(3, changes) == [True] * 3
