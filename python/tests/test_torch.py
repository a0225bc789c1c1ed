"""The backend of torch.distributed among real processes, against an oracle. PyTorch's own suite is in `full`."""

import os
import signal
import threading
import time
from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402

MOVED = [
    torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64, torch.float16,
    torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn,
    torch.float8_e5m2,
]  # fmt: skip
SUMMED = [dtype for dtype in MOVED if dtype not in (torch.bool, torch.float8_e4m3fn, torch.float8_e5m2)]


def begin(rank, size, coordinator, timeout=60, **options):
    import torch_ronde  # noqa: F401 - registers with an older PyTorch

    torch.set_num_threads(1)
    host, port = coordinator.split(":")
    store = dist.TCPStore(host, int(port), size, rank == 0, timedelta(seconds=60))
    dist.init_process_group("ronde", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout), **options)
    return store


def numbers(rank, dtype, *shape):
    data = torch.arange(int(torch.tensor(shape).prod()) if shape else 1) * 7 + rank * 3
    return (data % (2 if dtype is torch.bool else 4)).to(dtype).reshape(shape)


def same(got, wanted):
    assert got.dtype == wanted.dtype and got.shape == wanted.shape, (got, wanted)
    assert torch.equal(got.contiguous().view(-1).view(torch.uint8), wanted.contiguous().view(-1).view(torch.uint8)), (got, wanted)


def poisoned(like):
    return torch.full((like.numel() * like.element_size(),), 0x55, dtype=torch.uint8).view(like.dtype).reshape(like.shape)


def every_type(rank, size, coordinator):
    store = begin(rank, size, coordinator)
    for dtype in MOVED:
        for shape in [(), (0,), (1,), (5, 3), (1001,)]:
            inputs = [numbers(r, dtype, *shape) for r in range(size)]
            mine = inputs[rank]
            if dtype in SUMMED:
                data = mine.clone()
                dist.all_reduce(data)
                wanted = sum(i.to(torch.complex128 if dtype.is_complex else torch.int64) for i in inputs).to(dtype)
                same(data, wanted)
                data = mine.clone()
                dist.reduce(data, size - 1)
                if rank == size - 1:
                    same(data, wanted)
                if len(shape) == 1:
                    whole = [numbers(r, dtype, size * shape[0]) for r in range(size)]
                    output = poisoned(mine)
                    dist.reduce_scatter_tensor(output, whole[rank])
                    wanted = sum(w.to(torch.complex128 if dtype.is_complex else torch.int64) for w in whole).to(dtype)
                    same(output, wanted.view(size, -1)[rank])
            data = mine.clone()
            dist.broadcast(data, size - 1)
            same(data, inputs[-1])
            outputs = [poisoned(mine) for _ in range(size)]
            dist.all_gather(outputs, mine)
            for got, wanted in zip(outputs, inputs):
                same(got, wanted)
            outputs = [poisoned(mine) for _ in range(size)] if rank == 0 else None
            dist.gather(mine, outputs, 0)
            if rank == 0:
                for got, wanted in zip(outputs, inputs):
                    same(got, wanted)
            output = poisoned(mine)
            dist.scatter(output, inputs if rank == 1 else None, 1)
            same(output, mine)
            outputs = [poisoned(mine) for _ in range(size)]
            dist.all_to_all(outputs, [numbers(rank + 10 * r, dtype, *shape) for r in range(size)])
            for r, got in enumerate(outputs):
                same(got, numbers(r + 10 * rank, dtype, *shape))
            received = poisoned(mine)
            works = [dist.isend(mine, (rank + 1) % size), dist.irecv(received, (rank - 1) % size)]
            [work.wait() for work in works]
            same(received, inputs[rank - 1])
    end(store)
    return True


def end(store):
    """Rank 0 has the store, which others need to leave."""
    dist.barrier()
    dist.destroy_process_group()
    del store


def test_every_type(ranks):
    assert ranks(3, every_type) == [True] * 3


def shapes(rank, size, coordinator):
    store = begin(rank, size, coordinator)
    # Rows apart in memory, transposed, one element of many.
    for make in (lambda t: t[:, ::2], lambda t: t.t(), lambda t: t[1:3, 1], lambda t: t.expand(2, *t.shape)[0]):
        data = make(numbers(rank, torch.float32, 6, 8))
        wanted = sum(make(numbers(r, torch.float32, 6, 8)) for r in range(size))
        dist.all_reduce(data)
        same(data.contiguous(), wanted.contiguous())
        output = torch.full((8, 6), -1.0).t()
        dist.broadcast(output if rank else (output := numbers(0, torch.float32, 6, 8)), 0)
        same(output.contiguous(), numbers(0, torch.float32, 6, 8))
    # Rows of any number.
    sends = [[(i + 2 * j) % 4 for j in range(size)] for i in range(size)]
    receives = [sends[i][rank] for i in range(size)]
    given = [numbers(i, torch.float64, sum(sends[i]), 2) for i in range(size)]
    output = torch.full((sum(receives), 2), -1.0, dtype=torch.float64)
    dist.all_to_all_single(output, given[rank], receives, sends[rank])
    same(output, torch.cat([given[i].split(sends[i])[rank] for i in range(size)]))
    # Lists whose tensors differ.
    outputs = [torch.full((r + 1,), -1) for r in range(size)]
    dist.all_gather(outputs, torch.full((rank + 1,), rank))
    assert [o.tolist() for o in outputs] == [[r] * (r + 1) for r in range(size)]
    outputs = [torch.full((r + rank,), -1) for r in range(size)]
    dist.all_to_all(outputs, [torch.full((r + rank,), rank) for r in range(size)])
    assert [o.tolist() for o in outputs] == [[r] * (r + rank) for r in range(size)]
    sparse = torch.sparse_coo_tensor([[rank, 2]], [1.0, 1.0], (4,))
    dist.all_reduce(sparse)
    assert sparse.to_dense().tolist() == [1.0, 1.0, float(size + (size > 2)), 0.0]
    got = torch.zeros(1, dtype=torch.int64)
    if rank == 0:
        sources = set()
        for _ in range(size - 1):
            source = dist.recv(got)
            assert got.item() == 100 + source
            sources.add(source)
        assert sources == set(range(1, size))
    else:
        dist.send(torch.tensor([100 + rank]), 0)
    dist.monitored_barrier()
    objects = [None] * size
    dist.all_gather_object(objects, {"rank": rank})
    assert objects == [{"rank": r} for r in range(size)]
    part = dist.new_group([0, 1])
    if rank < 2:
        data = torch.tensor([rank + 1])
        dist.all_reduce(data, group=part)
        assert data.item() == 3
    future = dist.all_reduce(torch.ones(2), async_op=True).get_future().then(lambda f: f.value()[0] * 2)
    assert future.wait().tolist() == [2.0 * size] * 2
    end(store)
    return True


def test_shapes_messages_and_groups(ranks):
    assert ranks(3, shapes) == [True] * 3


def trained(rank, size, coordinator):
    from torch.nn.parallel import DistributedDataParallel

    store = begin(rank, size, coordinator)
    torch.manual_seed(rank)
    model = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    generator = torch.Generator().manual_seed(7)
    for _ in range(20):
        x, y = torch.randn(size * 16, 8, generator=generator), torch.randint(4, (size * 16,), generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rank::size]), y[rank::size]).backward()
        optimizer.step()
    weights = torch.cat([p.detach().view(-1) for p in model.parameters()])
    all_weights = [torch.empty_like(weights) for _ in range(size)]
    dist.all_gather(all_weights, weights)
    assert all(torch.equal(weights, other) for other in all_weights)
    end(store)
    return float(weights.abs().sum())


def test_ddp_keeps_models_the_same(ranks):
    sums = ranks(2, trained)
    assert sums[0] == sums[1] > 0


def loses_one(rank, size, coordinator):
    store = begin(rank, size, coordinator)
    dist.all_reduce(torch.ones(3))
    if rank == size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(dist.DistBackendError, match=f"peer {size - 1} .* was lost"):
        for _ in range(100):
            dist.all_reduce(torch.ones(3))
            time.sleep(0.01)
    assert time.monotonic() - began < 5
    del store
    return True


def test_a_death_is_an_error_on_all_that_live(start):
    job = start(3, loses_one)
    assert job.result(0) and job.result(1)


def too_late(rank, size, coordinator):
    store = begin(rank, size, coordinator, timeout=2)
    if rank == 0:
        work = dist.irecv(torch.zeros(1), 1)
        with pytest.raises(dist.DistBackendError, match="goes on"):
            work.wait(timedelta(milliseconds=200))
        with pytest.raises(dist.DistBackendError, match=" timeout "):
            dist.all_reduce(torch.ones(3))
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            try:
                dist.recv(torch.zeros(1), 1)
            except dist.DistBackendError:
                time.sleep(0.1)  # Python hears of it as soon as its code runs
        store.set("over", "1")
    else:
        store.get("over")
    return True


def test_what_takes_too_long(start):
    job = start(2, too_late)
    assert job.result(0)


def misuses(rank, size, coordinator):
    store = begin(rank, size, coordinator)
    x = torch.ones(4)
    cases = [
        (lambda: dist.all_gather([torch.ones(4)], x), "1 outputs, and there are 2 ranks"),
        (lambda: dist.all_gather_into_tensor(torch.ones(9), x), "9 elements, and should have 8"),
        (lambda: dist.reduce_scatter_tensor(torch.ones(4), torch.ones(9)), "9 elements, and should have 8"),
        (lambda: dist.all_to_all_single(torch.ones(4), torch.ones(4), [3, 3], [2, 2]), "splits of the output"),
        (lambda: dist.all_to_all_single(torch.ones(3), torch.ones(3)), "evenly"),
        (lambda: dist.all_reduce(torch.ones(2, dtype=torch.complex64), dist.ReduceOp.MAX), "complex|c64"),
        (lambda: dist.all_reduce(torch.ones(2), dist.ReduceOp.BAND), "f32|float"),
    ]
    for number, (call, text) in enumerate(cases):
        with pytest.raises((RuntimeError, ValueError, TypeError, NotImplementedError), match=text):
            call()
            raise AssertionError(f"case {number} is no error")
    # None of it has disturbed the group.
    dist.all_reduce(x)
    assert (x == size).all()
    end(store)
    return True


def test_misuse_is_an_exception(ranks):
    assert ranks(2, misuses) == [True] * 2
