"""What goes wrong around process groups: an exception, or nothing; never a hang and never a crash."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402
from conftest import free_port  # noqa: E402
from test_torch import begin, end  # noqa: E402


class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, at):
        return torch.tensor(float(at * at))


def workers(rank, size, coordinator):
    """Processes that are forked while a group is open load data."""
    # As a program of a user, which is no daemon.
    multiprocessing.current_process()._config["daemon"] = False
    store = begin(rank, size, coordinator)
    total = torch.zeros(1)
    for _ in range(3):
        for batch in torch.utils.data.DataLoader(
            Squares(), batch_size=10, num_workers=2, multiprocessing_context="fork"
        ):
            part = batch.sum().reshape(1)
            dist.all_reduce(part)
            total += part
    end(store)
    return total.item()


def test_forked_workers_load_data(ranks):
    assert ranks(2, workers) == [3.0 * 2 * sum(i * i for i in range(40))] * 2


def two_groups(rank, size, coordinator):
    store = begin(rank, size, coordinator)
    groups = [dist.new_group() for _ in range(2)]
    wrong = []

    def work(which):
        for turn in range(200):
            data = torch.full((100 + 900 * which,), float(rank + turn))
            dist.all_reduce(data, group=groups[which])
            if data[-1].item() != sum(r + turn for r in range(size)):
                wrong.append((which, turn, data[-1].item()))

    threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    end(store)
    return wrong


def test_two_groups_in_two_threads(ranks):
    assert ranks(2, two_groups) == [[], []]


def huge(rank, size, coordinator):
    store = begin(rank, size, coordinator)
    count = (1 << 31) + 5
    data = torch.full((count,), rank + 1, dtype=torch.uint8)
    dist.all_reduce(data)
    result = (int(data[0]), int(data[count // 2]), int(data[-1]), bool((data == 3).all()))
    end(store)
    return result


def test_more_elements_than_an_int_counts(ranks):
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 12 << 30:
        pytest.skip("two tensors of 2 GiB and what the calls need take 12 GB")
    assert ranks(2, huge) == [(3, 3, 3, True)] * 2


def destroyed(rank, size, coordinator):
    store = begin(rank, size, coordinator)
    # Rank 1 never makes this call.
    work = dist.all_reduce(torch.ones(1000), async_op=True) if rank == 0 else None
    dist.destroy_process_group()
    if work is not None:
        with pytest.raises(dist.DistBackendError):
            work.wait()
    store.set(f"done/{rank}", "")
    store.wait([f"done/{r}" for r in range(size)])
    return True


def test_a_group_is_destroyed_while_a_call_runs(ranks):
    assert ranks(2, destroyed) == [True] * 2


def again(rank, size, coordinator):
    """The same store, and the same names in it."""
    import torch_ronde  # noqa: F401

    host, port = coordinator.split(":")
    store = dist.TCPStore(host, int(port), size, rank == 0, timedelta(seconds=30))
    sums = []
    for turn in range(3):
        dist.init_process_group("ronde", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=20))
        data = torch.tensor([float(turn + rank)])
        dist.all_reduce(data)
        sums.append(data.item())
        dist.destroy_process_group()
    store.set(f"done/{rank}", "")
    store.wait([f"done/{r}" for r in range(size)])
    return sums


def test_groups_one_after_the_other_on_one_store(ranks):
    assert ranks(2, again) == [[1.0, 3.0, 5.0]] * 2


def dropped(rank, size, coordinator):
    store = begin(rank, size, coordinator)
    data = torch.full((1 << 18,), float(rank + 1))
    outputs = [torch.zeros(1 << 18) for _ in range(size)]
    with torch.inference_mode():
        inferred = [torch.zeros(1 << 18) for _ in range(size)]
        dist.all_gather(inferred, data, async_op=True)
    # Nobody keeps what could be waited for.
    dist.all_gather(outputs, data, async_op=True)
    # A callback that makes a call and waits for it.
    chained = dist.all_reduce(torch.ones(1 << 18), async_op=True).get_future()
    chained = chained.then(lambda f: dist.all_reduce(f.value()[0], async_op=True).get_future().wait()[0])
    total = chained.wait()[0].item()
    until = time.monotonic() + 20
    while any(o[-1].item() == 0 for o in outputs + inferred) and time.monotonic() < until:
        time.sleep(0.01)
    end(store)
    return total, [o[-1].item() for o in outputs + inferred]


def test_nobody_waits_and_callbacks_call(ranks):
    assert ranks(2, dropped) == [(4.0, [1.0, 2.0] * 2)] * 2


LEAVES = """
import sys, torch, torch.distributed as dist
dist.init_process_group("ronde")
rank = dist.get_rank()
x = torch.ones(100000)
dist.all_reduce(x)
if rank == 0:
    futures = [dist.all_reduce(torch.ones(1000), async_op=True).get_future(), dist.irecv(torch.ones(5), 1).get_future()]
    futures[0].then(lambda f: None)
print("left", rank)
"""


def test_the_interpreter_ends_with_calls_in_flight():
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LEAVES],
            env={**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(r), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(2)
    ]
    for rank, process in enumerate(processes):
        said, _ = process.communicate(timeout=60)
        assert (process.returncode, f"left {rank}" in said) == (0, True), said


def store_dies(rank, size, coordinator, server):
    import torch_ronde  # noqa: F401

    host, port = server.split(":")
    store = dist.TCPStore(host, int(port), None, False, timedelta(seconds=30), wait_for_workers=False)
    dist.init_process_group("ronde", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=30))
    data = torch.ones(3)
    dist.all_reduce(data)
    store.set(f"ready/{rank}", "")
    try:
        store.get("never")
    except Exception:
        pass
    # The store is gone: what was joined needs it no more.
    for _ in range(10):
        dist.all_reduce(data, op=dist.ReduceOp.AVG)
    return data.tolist()


SERVES = """
import sys, torch.distributed as dist
from datetime import timedelta
store = dist.TCPStore("127.0.0.1", int(sys.argv[1]), None, True, timedelta(seconds=60), wait_for_workers=False)
print("there", flush=True)
store.wait(["ready/0", "ready/1"])
import os; os._exit(0)
"""


def test_the_store_dies(ranks):
    port = free_port()
    server = subprocess.Popen([sys.executable, "-c", SERVES, str(port)], stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "there\n"
    assert ranks(2, store_dies, f"127.0.0.1:{port}") == [[2.0] * 3] * 2
    server.wait(30)
