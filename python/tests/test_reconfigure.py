"""c10d's reconfigure: who is in a process group changes while the program goes on."""

import os
import signal
import time
from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402

if not hasattr(dist.distributed_c10d, "_reconfigure"):
    pytest.skip("this PyTorch has no reconfigure", allow_module_level=True)


def begin(rank, size, coordinator, timeout=60):
    import torch_ronde  # noqa: F401

    torch.set_num_threads(1)
    host, port = coordinator.split(":")
    store = dist.TCPStore(host, int(port), None, rank == 0, timedelta(seconds=30), wait_for_workers=False)
    dist.init_process_group(
        "ronde", store=dist.PrefixStore(str(rank), store), rank=0, world_size=1,
        timeout=timedelta(seconds=timeout), enable_reconfigure=True,
    )  # fmt: skip
    return store


def meet(store, round, members, me, ordered=True):
    """Everybody tells everybody its handle; by position those of `members`."""
    store.set(f"{round}/{me}", dist.distributed_c10d._get_reconfigure_handle())
    handles = [store.get(f"{round}/{member}").decode() for member in members]
    return handles if ordered else set(handles)


def reconfigure(uuid, handles, seconds=30):
    dist.distributed_c10d._reconfigure(uuid, handles, timeout=timedelta(seconds=seconds)).wait()


def summed(value):
    data = torch.tensor([float(value)])
    dist.all_reduce(data)
    return data.item()


def over(store, me, members):
    """Process 0 has the store."""
    store.set(f"over/{me}", "")
    if me == 0:
        store.wait([f"over/{member}" for member in members])


def changes(me, size, coordinator):
    store = begin(me, size, coordinator)
    assert dist.distributed_c10d._supports_reconfigure()
    with pytest.raises(dist.DistBackendError, match="call reconfigure first"):
        summed(1)
    everybody = list(range(size))
    reconfigure(1, meet(store, 1, everybody, me))
    assert (dist.get_rank(), dist.get_world_size(), summed(me + 1)) == (me, size, sum(range(1, size + 1)))
    # The other way round.
    handles = meet(store, 2, everybody[::-1], me)
    with pytest.raises(ValueError, match="already used"):
        reconfigure(1, handles)
    reconfigure(2, handles)
    assert (dist.distributed_c10d._get_default_group().rank(), summed(me + 1)) == (size - 1 - me, sum(range(1, size + 1)))
    with pytest.raises(ValueError, match="a handle of its own"):
        reconfigure(3, handles)
    # In any order: ranks stay in theirs.
    reconfigure(4, meet(store, 4, everybody, me, ordered=False))
    assert dist.distributed_c10d._get_default_group().rank() == size - 1 - me
    # Without the last.
    if me < size - 1:
        reconfigure(5, meet(store, 5, everybody[:-1], me))
        assert summed(1) == size - 1
    else:
        store.get("5/done")
    # It comes back, after an abort of the others.
    if me == 0:
        dist.distributed_c10d._get_default_group().abort()
        store.set("5/done", "")
    elif me < size - 1:
        with pytest.raises(dist.DistBackendError):
            summed(1)
    reconfigure(6, meet(store, 6, everybody, me))
    assert summed(1) == size
    over(store, me, everybody)
    return True


def test_members_change(ranks):
    assert ranks(3, changes) == [True] * 3


def loses(me, size, coordinator):
    store = begin(me, size, coordinator)
    reconfigure(1, meet(store, 1, range(size), me))
    net = torch.nn.Linear(4, 2)
    ddp = torch.nn.parallel.DistributedDataParallel(net)

    def step(number):
        net.zero_grad()
        ddp(torch.full((2, 4), float(me + number))).sum().backward()
        return net.weight.grad[0].tolist()

    assert step(1) == [2 * sum(m + 1 for m in range(size)) / size] * 4
    if me == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(dist.DistBackendError, match="lost"):
        for number in range(1000):
            step(number)
    noticed = time.monotonic()
    left = [m for m in range(size) if m != 1]
    reconfigure(2, meet(store, 2, left, me))
    gone_on = time.monotonic()
    # It divides by the number of ranks that there were when it was made.
    ddp = torch.nn.parallel.DistributedDataParallel(net, init_sync=False)
    assert step(5) == [2 * sum(m + 5 for m in left) / len(left)] * 4
    over(store, me, left)
    return noticed - began, gone_on - noticed


def test_the_others_go_on_after_a_death(start):
    job = start(3, loses)
    for rank in (0, 2):
        noticed, gone_on = job.result(rank)
        assert noticed < 5 and gone_on < 5


def waits_in_vain(me, size, coordinator):
    store = begin(me, size, coordinator)
    # One that never comes, and whose handle is there: the first, then the last.
    for round, members in [(1, [2, 0, 1]), (2, [0, 1, 2])]:
        handles = meet(store, round, members, me)
        if me < 2:
            began = time.monotonic()
            with pytest.raises(dist.DistBackendError):
                reconfigure(round, handles, 2)
            assert 1 < time.monotonic() - began < 20
    if me == 2:
        store.get("done")
        return True
    reconfigure(3, meet(store, 3, [0, 1], me))
    assert summed(1) == 2
    store.set("done", "")
    over(store, me, range(size - 1))
    return True


def test_one_that_does_not_come_is_an_error_and_not_the_end(ranks):
    assert ranks(3, waits_in_vain) == [True] * 3
