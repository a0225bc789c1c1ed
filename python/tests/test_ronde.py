"""The package `ronde` among real processes, against an oracle of NumPy."""

import array
import os
import signal
import threading
import time

import ml_dtypes
import numpy as np
import pytest
import ronde

# Every dtype of the library, as NumPy knows it; fp8 only travels.
NUMBERS = [
    np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float16, ml_dtypes.bfloat16,
    np.float32, np.float64, np.bool_, np.complex64, np.complex128, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
]  # fmt: skip
COUNTS = [0, 1, 7, 1000, 100_003]


def data_of(rank, dtype, count, seed=0):
    """Small whole numbers, so that sums are exact in every type."""
    numbers = np.random.default_rng([seed, rank, count]).integers(0, 2 if dtype is np.bool_ else 4, count)
    return numbers.astype(dtype)


def poisoned(dtype, count):
    return np.full(count, 0x55, np.uint8).repeat(np.dtype(dtype).itemsize).view(dtype)


def same(got, wanted):
    assert got.dtype == wanted.dtype and np.array_equal(got.view(np.uint8), np.ascontiguousarray(wanted).view(np.uint8))


def every_collective(rank, size, coordinator):
    with ronde.join(coordinator, rank=rank, size=size) as group:
        assert (group.rank, group.size, group.generation, group.failure()) == (rank, size, 0, None)
        for dtype in NUMBERS:
            for count in COUNTS:
                inputs = [data_of(r, dtype, count) for r in range(size)]
                one = inputs[rank]
                if np.dtype(dtype).itemsize > 1 or dtype not in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
                    wanted = np.logical_or.reduce(inputs) if dtype is np.bool_ else sum(inputs).astype(dtype)
                    output = poisoned(dtype, count)
                    outcome = group.all_reduce(one, output)
                    assert (outcome.contributors, outcome.absent) == (size, ())
                    same(output, wanted)
                    same(one, inputs[rank])
                    place = one.copy()
                    group.all_reduce(place)
                    same(place, wanted)
                    root = size - 1
                    output = poisoned(dtype, count)
                    group.reduce(one, output if rank == root else None, root=root)
                    if rank == root:
                        same(output, wanted)
                all_of_it = np.concatenate(inputs)
                output = poisoned(dtype, count * size)
                group.all_gather(one, output)
                same(output, all_of_it)
                output = poisoned(dtype, count * size) if rank == 1 else None
                group.gather(one, output, root=1)
                if rank == 1:
                    same(output, all_of_it)
                output = poisoned(dtype, count)
                group.scatter(all_of_it if rank == 1 else None, output, root=1)
                same(output, one)
                place = one.copy()
                group.broadcast(place, root=1)
                same(place, inputs[1])
                blocks = [data_of(r, dtype, count * size, 5) for r in range(size)]
                output = poisoned(dtype, count * size)
                group.all_to_all(blocks[rank], output)
                same(output, np.concatenate([b.reshape(size, count)[rank] for b in blocks]))
        uneven(group)
        messages(group)
        assert "all_reduce" in group.recent_calls()
        return True


def uneven(group):
    rank, size = group.rank, group.size
    counts = [3 * r + (r == 2) for r in range(size)]
    inputs = [data_of(r, np.float32, counts[r]) for r in range(size)]
    output = poisoned(np.float32, sum(counts))
    group.all_gather(inputs[rank], output, counts)
    same(output, np.concatenate(inputs))
    output = poisoned(np.float32, sum(counts)) if rank == 0 else None
    group.gather(inputs[rank], output, 0, counts)
    if rank == 0:
        same(output, np.concatenate(inputs))
    output = poisoned(np.float32, counts[rank])
    group.scatter(np.concatenate(inputs) if rank == 0 else None, output, 0, counts)
    same(output, inputs[rank])
    whole = [data_of(r, np.int64, sum(counts), 3) for r in range(size)]
    output = poisoned(np.int64, counts[rank])
    group.reduce_scatter(whole[rank], output, counts=counts)
    same(output, np.split(sum(whole), np.cumsum(counts)[:-1])[rank])
    # i sends (i + 2 j) % 5 elements to j.
    sends = [[(i + 2 * j) % 5 for j in range(size)] for i in range(size)]
    given = [data_of(i, np.int16, sum(sends[i]), 4) for i in range(size)]
    receives = [sends[i][rank] for i in range(size)]
    output = poisoned(np.int16, sum(receives))
    group.all_to_all(given[rank], output, sends[rank], receives)
    same(output, np.concatenate([np.split(given[i], np.cumsum(sends[i])[:-1])[rank] for i in range(size)]))
    group.barrier()


def messages(group):
    rank, size = group.rank, group.size
    to, source = (rank + 1) % size, (rank - 1) % size
    got = bytearray(b"\x55" * 11)
    receive = group.recv(got, source, wait=False, tag=3)
    assert receive.test() is None and not receive.done()
    with pytest.raises(TimeoutError):
        receive.wait(0.05)
    group.barrier()
    group.send(b"from %6d" % rank, to, tag=3)
    assert receive.wait(30).bytes_received == 11
    assert receive.wait() is receive.test() and receive.done()
    assert got == b"from %6d" % source


@pytest.mark.parametrize("size", [2, 3])
def test_every_collective(ranks, size):
    assert ranks(size, every_collective) == [True] * size


def reductions(rank, size, coordinator):
    with ronde.join(coordinator, rank=rank, size=size, transports="tcp") as group:
        data = np.array([rank + 1.0, -rank, 0.5])
        inputs = np.array([[r + 1.0, -r, 0.5] for r in range(size)])
        for op, wanted in [("prod", inputs.prod(0)), ("min", inputs.min(0)), ("max", inputs.max(0)), ("avg", inputs.mean(0))]:
            place = data.copy()
            group.all_reduce(place, op=op)
            assert np.allclose(place, wanted), op
        bits = np.array([0b1010 >> rank, 1 << rank], np.uint16)
        all_bits = [np.array([0b1010 >> r, 1 << r], np.uint16) for r in range(size)]
        for op, function in [("band", np.bitwise_and), ("bor", np.bitwise_or), ("bxor", np.bitwise_xor)]:
            place = bits.copy()
            group.all_reduce(place, op=op)
            same(place, function.reduce(all_bits))
        place = data.copy()
        outcome = group.all_reduce(place, op=ronde.weighted_avg(rank + 2))
        weights = np.arange(size) + 2
        assert outcome.weight == weights.sum() and np.allclose(place, weights @ inputs / weights.sum())
        place = data.copy()
        group.all_reduce(place, op=ronde.premul_sum(np.array([2.0 * rank])))
        assert np.allclose(place, (2.0 * np.arange(size)) @ inputs)
        with group.commit() as step:
            buckets = [np.full(100, rank + i, np.float32) for i in range(4)]
            for bucket in buckets:
                step.all_reduce(bucket, op="avg")
        assert step.outcome.contributors == size
        for i, bucket in enumerate(buckets):
            assert (bucket == (size - 1) / 2 + i).all()
        assert group.agree(True)[0] and not group.agree(rank != 1)[0]
        part = group.split(rank % 2, -rank)
        assert part.size == (size + 1 - rank % 2) // 2
        place = np.array([rank])
        part.all_reduce(place)
        assert place[0] == sum(range(rank % 2, size, 2))
        assert group.split(-1) is None
        change = group.update()
        assert (change.changed, change.rank, change.size, change.joined, change.gone) == (False, rank, size, (), ())
        return group.transport((rank + 1) % size)


def test_reductions_commits_and_parts(ranks):
    assert ranks(3, reductions) == ["tcp"] * 3


def killed(rank, size, coordinator):
    group = ronde.join(coordinator, rank=rank, size=size)
    data = np.ones(1000, np.float32)
    step = 0
    while True:
        data[:] = rank + 1
        if rank == 1 and step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        outcome = group.all_reduce(data)
        here = [r for r in range(size) if r not in outcome.absent]
        assert (data == sum(r + 1 for r in here)).all() and outcome.contributors == len(here)
        step += 1
        if outcome.absent:
            break
    change = group.update()
    assert (change.gone, change.size, group.size) == ((1,), size - 1, size - 1)
    group.close()
    return step, outcome.absent


def test_the_others_go_on(start):
    job = start(3, killed)
    assert job.result(0) == job.result(2) == (6, (1,))


def comes_later(rank, size, coordinator):
    """The last one joins the job of the others when it runs."""
    is_late = rank == size - 1
    if is_late:
        time.sleep(1)
    group = ronde.join(coordinator, rank=None if is_late else rank, min_peers=size - 1, newcomer=is_late)
    model, is_new = np.full(1000, 0.0 if is_late else 7.5), is_late
    share = is_new
    assert (group.generation > 0) == is_late
    for _ in range(1_000_000):
        if share:
            group.share(model, not is_new)
            break
        share = bool(group.update().joined)
    assert group.size == size and (model == 7.5).all()
    group.close()
    return True


def test_a_newcomer_gets_the_state(ranks):
    assert ranks(3, comes_later) == [True] * 3


def misuses(rank, size, coordinator):
    with ronde.join(coordinator, rank=rank, size=size, timeout=30) as group:
        x, y = np.ones(4, np.float32), np.ones(5, np.float32)
        frozen = np.ones(4, np.float32)
        frozen.flags.writeable = False
        cases = [
            (lambda: group.all_reduce(x, y), ValueError, "5 elements, and should have 4"),
            (lambda: group.all_reduce(x, x.astype(int)), TypeError, "f32, the output of i64"),
            (lambda: group.all_reduce(frozen), ValueError, "read-only"),
            (lambda: group.all_reduce(bytes(4)), ValueError, "read-only"),
            (lambda: group.all_reduce(np.ones((4, 4))[:, 1]), ValueError, "contiguous"),
            (lambda: group.all_reduce(memoryview(bytearray(9))[::2]), ValueError, "contiguous"),
            (lambda: group.all_reduce([1, 2]), TypeError, "list"),
            (lambda: group.all_reduce(np.array(["a"])), TypeError, "<U1"),
            (lambda: group.all_reduce(np.ones(2, ">f4")), TypeError, ">f4"),
            (lambda: group.all_reduce(np.ones(2, np.longdouble)), TypeError, "float128"),
            (lambda: group.all_reduce(x, op="mean"), ronde.InvalidArgument, "avg"),
            (lambda: group.all_reduce(x, tolerance="some"), ronde.InvalidArgument, "per-window"),
            (lambda: group.all_reduce(x, algorithm="best"), ronde.InvalidArgument, "best"),
            (lambda: group.all_reduce(x, op=ronde.premul_sum(np.ones(1))), ronde.InvalidArgument, "f64"),
            (lambda: ronde.premul_sum(np.ones(2)), ValueError, "2 elements"),
            (lambda: ronde.weighted_avg(-1), ronde.InvalidArgument, "weight"),
            (lambda: group.all_gather(x, y), ValueError, "should have 8"),
            (lambda: group.all_gather(x, y, [2, 2]), ValueError, r"\[2, 2\], 4 in all, of an array of 5"),
            (lambda: group.all_gather(x, y, [2, 3]), ValueError, "4 elements, and should have"),
            (lambda: group.all_gather(x, y, [5]), ValueError, "1 entries, and there are 2 ranks"),
            (lambda: group.all_gather(x, y, [6, -1]), ValueError, "-1"),
            (lambda: group.all_to_all(y, y.copy()), ValueError, "evenly"),
            (lambda: group.all_to_all(x, y, [2, 2]), ValueError, "both counts"),
            (lambda: group.broadcast(x, root=2), ronde.InvalidArgument, "root"),
            (lambda: group.send(x, rank), ronde.InvalidArgument, "another rank"),
            (lambda: group.gather(x, None, root=rank), ValueError, "missing"),
            (lambda: ronde.join(preset="mars"), ronde.InvalidArgument, "wan"),
        ]
        for call, kind, text in cases:
            with pytest.raises(kind, match=text):
                call()
        # None of it has disturbed the group.
        group.all_reduce(x)
        assert (x == size).all()
    with pytest.raises(ronde.Closed):
        group.barrier()
    group.close()
    return repr(group)


def test_misuse_is_an_exception(ranks):
    assert ranks(2, misuses) == ["<ronde.Group, closed>"] * 2


def mismatch(rank, size, coordinator):
    with ronde.join(coordinator, rank=rank, size=size) as group:
        with pytest.raises(ronde.Mismatch, match="count") as raised:
            group.all_reduce(np.ones(4 + rank))
        assert raised.value.status == "MISMATCH"
        assert isinstance(group.failure(), ronde.Mismatch)
        return str(raised.value)


def test_a_mismatch_has_the_same_text_everywhere(ranks):
    texts = ranks(2, mismatch)
    assert texts[0] == texts[1]


def interrupted(rank, size, coordinator):
    """Ctrl-C while the others do not come."""
    with ronde.join(coordinator, rank=rank, size=size) as group:
        if rank == 0:
            got = np.zeros(3)
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            began = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                group.recv(got, 1)
            assert time.monotonic() - began < 5
            del got  # it is still received into
            group.barrier()
            for _ in range(1000):
                group.recv(np.zeros(3), 1, tag=2, wait=False)
        else:
            group.barrier()
            group.send(np.ones(3), 0)
            for _ in range(1000):
                group.send(np.ones(3), 0, tag=2, wait=False)
        group.barrier()
        assert len(group._adopted) < 1000
        return True


def test_a_wait_can_be_interrupted(ranks):
    assert ranks(2, interrupted) == [True] * 2


def lock_is_free(rank, size, coordinator):
    """While one thread waits, others of Python run."""
    with ronde.join(coordinator, rank=rank, size=size) as group:
        if rank == 0:
            turns, over = [0], threading.Event()

            def spin():
                while not over.is_set():
                    turns[0] += 1

            thread = threading.Thread(target=spin)
            thread.start()
            group.recv(np.zeros(1), 1)
            over.set()
            thread.join()
            return turns[0] > 1000
        time.sleep(0.5)
        group.send(np.zeros(1), 0)
        return True


def test_other_threads_run_meanwhile(ranks):
    assert ranks(2, lock_is_free) == [True] * 2


def others_arrays(rank, size, coordinator):
    with ronde.join(coordinator, rank=rank, size=size) as group:
        buffers = [array.array("d", [rank, 2.0]), memoryview(bytearray(16)).cast("d")]
        for buffer in buffers:
            group.all_reduce(buffer)
        assert list(buffers[0]) == [sum(range(size)), 2.0 * size]

        class OnlyDlpack:
            """As arrays of JAX are: no other protocol."""

            def __init__(self, values):
                self.values = values

            def __dlpack__(self, **options):
                return self.values.__dlpack__(**options)

            def __dlpack_device__(self):
                return self.values.__dlpack_device__()

        class Older(OnlyDlpack):
            def __dlpack__(self, stream=None):
                return self.values.__dlpack__()

        for kind in (OnlyDlpack, Older):
            values = np.arange(6, dtype=np.float32).reshape(2, 3) + rank
            group.all_reduce(kind(values))
            same(values, (np.arange(6, dtype=np.float32) * size + sum(range(size))).reshape(2, 3))
            turned = kind(np.ones((2, 3), np.float32).T)
            with pytest.raises(ValueError, match="contiguous"):
                group.all_reduce(turned)
        frozen = np.ones(3)
        frozen.flags.writeable = False
        with pytest.raises((ValueError, BufferError), match="read-?only"):
            group.all_reduce(OnlyDlpack(frozen))

        class Elsewhere(OnlyDlpack):
            def __dlpack_device__(self):
                return (2, 0)

        with pytest.raises(TypeError, match="device"):
            group.all_reduce(Elsewhere(np.ones(3)))
        group.barrier()
        return True


def test_arrays_of_others(ranks):
    assert ranks(2, others_arrays) == [True] * 2


def test_alone():
    """Without any environment: a group of one."""
    with ronde.join() as group:
        x = np.arange(5.0)
        assert group.all_reduce(x).contributors == 1 and (x == np.arange(5.0)).all()
        op = group.barrier(wait=False)
        assert op.fileno() >= 0 and op.wait().contributors == 1


def test_nobody_is_there():
    with pytest.raises(ronde.JoinFailed) as raised:
        ronde.join("127.0.0.1:1", rank=1, size=2, connect_timeout=0.3)
    assert "127.0.0.1:1" in str(raised.value)
