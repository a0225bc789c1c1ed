"""Training among processes that come, go and die, against what one process alone computes."""

import os
import signal
import time

import pytest

torch = pytest.importorskip("torch")

FEATURES, CLASSES = 20, 4


def model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 33), torch.nn.Tanh(), torch.nn.Linear(33, 17), torch.nn.Tanh(), torch.nn.Linear(17, CLASSES)
    )


def batch(step, rank):
    random = torch.Generator().manual_seed(1000 * step + rank)
    x = torch.randn(8, FEATURES, generator=random)
    return x, (x[:, :CLASSES]).argmax(1)


def loss_of(net, x, y):
    return torch.nn.functional.cross_entropy(net(x), y)


def alone(steps, contributors, make=torch.optim.AdamW):
    """What the job is to come to: the average of the gradients of those who contribute to each step."""
    net = model()
    opt = make(net.parameters(), lr=0.01)
    for step in range(steps):
        opt.zero_grad()
        ranks = contributors(step)
        for rank in ranks:
            (loss_of(net, *batch(step, rank)) / len(ranks)).backward()
        opt.step()
    return net


def flat(net):
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


def bits(net):
    return flat(net).numpy().tobytes()


def begin(coordinator, **config):
    import torch_ronde

    torch.set_num_threads(1)
    return torch_ronde.join(coordinator, **{"connect_timeout": 60, "timeout": 60, **config})


def wrapped(world, net, kind):
    if kind == "bf16":
        return world.elastic(net, bucket_bytes=1000, wire=torch.bfloat16)
    if kind == "ddp":
        return world.elastic(torch.nn.parallel.DistributedDataParallel, net)
    return world.elastic(net, bucket_bytes=1000)


def close(one, other):
    assert torch.allclose(flat(one), flat(other), atol=1e-5), (flat(one) - flat(other)).abs().max()


def trains(rank, size, coordinator, kind, dies=None):
    with begin(coordinator, rank=rank, size=size) as world:
        # Each begins with a model of its own: the state of the lowest rank is that of all.
        net = model(rank)
        opt = torch.optim.AdamW(net.parameters(), lr=0.01)
        run = wrapped(world, net, kind)
        state = world.state(model=net, opt=opt)
        absent, sizes = [], []
        while state.step < 12:
            with world.step(state) as s:
                x, y = batch(state.step, s.rank)
                opt.zero_grad()
                loss = loss_of(run, x, y)
                if dies == (rank, state.step):
                    # In the middle of the backward pass: some buckets are on their way.
                    net[2].weight.register_hook(lambda _: os.kill(os.getpid(), signal.SIGKILL))
                loss.backward()
                s.commit(opt.step)
            absent.append(s.absent), sizes.append(s.size)
        assert world.size == size - (dies is not None)
    return bits(net), absent, sizes


def of_bits(data):
    net = model()
    torch.nn.utils.vector_to_parameters(torch.frombuffer(bytearray(data), dtype=torch.float32), net.parameters())
    return net


@pytest.mark.parametrize("kind", ["own", "ddp"])
def test_undisturbed(ranks, kind):
    results = ranks(3, trains, kind)
    assert len({data for data, *_ in results}) == 1
    close(of_bits(results[0][0]), alone(12, lambda _: [0, 1, 2]))


def test_gradients_of_16_bits_on_the_wire(ranks):
    results = ranks(3, trains, "bf16")
    assert len({data for data, *_ in results}) == 1
    exact = flat(alone(12, lambda _: [0, 1, 2]))
    off = (flat(of_bits(results[0][0])) - exact).abs()
    # AdamW makes steps of 0.01, in the direction that a gradient has of about 8 bits.
    assert 0 < off.mean() < 0.004 and off.max() < 12 * 0.02


@pytest.mark.parametrize("kind", ["own", "ddp"])
def test_a_death_in_backward_loses_no_step(start, kind):
    job = start(3, trains, kind, (2, 5))
    results = [job.result(rank) for rank in (0, 1)]
    assert len({data for data, *_ in results}) == 1
    data, absent, sizes = results[0]
    assert absent == [()] * 5 + [(2,)] + [()] * 6
    assert sizes == [3] * 6 + [2] * 6
    close(of_bits(data), alone(12, lambda step: [0, 1] if step >= 5 else [0, 1, 2]))


def hosts_and_dies(rank, size, coordinator):
    return trains(rank, size, coordinator, "own", (0, 5))


def test_the_one_that_hosts_the_coordinator_dies(start):
    job = start(3, hosts_and_dies)
    results = [job.result(rank) for rank in (1, 2)]
    assert len({data for data, *_ in results}) == 1
    assert results[0][1] == [()] * 5 + [(0,)] + [()] * 6


def grows(rank, size, coordinator):
    """The last one comes later, to a job that runs."""
    late = rank == size - 1
    config = {"newcomer": True} if late else {"rank": rank, "size": size - 1, "min_size": size - 1}
    with begin(coordinator, **config) as world:
        net = model(rank)
        opt = torch.optim.AdamW(net.parameters(), lr=0.01)
        world.elastic(net)
        import torch_ronde

        sampler = torch_ronde.ElasticSampler(100, 4)
        state = world.state(model=net, opt=opt, sampler=sampler)
        first, until = None, time.monotonic() + 30
        while first is None or state.step < first + 5:
            with world.step(state) as s:
                first = state.step if first is None and s.size == size else first
                assert time.monotonic() < until, "nobody came"
                sampler.take(s)
                opt.zero_grad()
                loss_of(net, *batch(state.step, s.rank)).backward()
                s.commit(opt.step)
    return bits(net), state.step, sampler.state_dict(), first


def test_a_newcomer_receives_the_state(ranks):
    results = ranks(3, grows)
    assert len({data for data, *_ in results}) == 1
    assert len({steps for _, steps, *_ in results}) == 1
    assert results[0][2] == results[1][2] == results[2][2]
    assert results[2][3] >= 1, "it came to a job that ran"


def resumes(rank, size, coordinator):
    with begin(coordinator, rank=rank, size=size) as world:
        net = model(rank)
        big = torch.nn.Parameter(torch.full((5, 1 << 20), float(rank)), requires_grad=False)
        holder = torch.nn.ParameterDict({"big": big, "t": torch.nn.Parameter(torch.arange(6.0).view(2, 3).t() + rank)})
        opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        state = world.state(model=net, holder=holder, opt=opt)
        if rank == 1:
            state.loaded(41)
        with world.step(state) as s:
            assert state.step == 41
            s.commit()
    return bits(net), float(big.sum()), holder["t"].detach().tolist(), state.step


def test_who_has_loaded_a_checkpoint_has_the_state(ranks):
    results = ranks(3, resumes)
    assert [r[0] for r in results] == [bits(model(1))] * 3
    assert [r[1] for r in results] == [5.0 * (1 << 20)] * 3
    assert [r[2] for r in results] == [(torch.arange(6.0).view(2, 3).t() + 1).tolist()] * 3
    assert [r[3] for r in results] == [42] * 3


def fails(rank, size, coordinator):
    world = begin(coordinator, rank=rank, size=size)
    net = model()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    world.elastic(net, bucket_bytes=500)
    state = world.state(model=net, opt=opt)
    while state.step < 6:
        try:
            with world.step(state) as s:
                opt.zero_grad()
                loss_of(net, *batch(state.step, s.rank)).backward()
                if (rank, state.step) == (1, 3):
                    raise KeyError("something of the user's")
                s.commit(opt.step)
        except KeyError:
            with pytest.raises(RuntimeError, match="has left the job: KeyError"):
                with world.step(state):
                    pass
            return "left"
    size = world.size
    world.close()
    return size


def test_who_fails_in_a_step_leaves_and_the_others_go_on(ranks):
    assert ranks(3, fails) == [2, "left", 2]


def accumulates(rank, size, coordinator):
    with begin(coordinator, rank=rank, size=size) as world:
        net = model()
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        world.elastic(net, bucket_bytes=500)
        state = world.state(model=net)
        with world.step(state) as s:
            with s.accumulate():
                loss_of(net, *batch(0, s.rank)).backward()
            loss_of(net, *batch(1, s.rank)).backward()
            with pytest.raises(RuntimeError, match="a second backward pass"):
                loss_of(net, *batch(2, s.rank)).backward()
            s.commit()
        return [p.grad.tolist() for p in net.parameters()]


def test_gradients_are_accumulated(ranks):
    for gradients in ranks(2, accumulates):
        net = model()
        for rank in range(2):
            for step in range(2):
                (loss_of(net, *batch(step, rank)) / 2).backward()
        for got, wanted in zip(gradients, net.parameters()):
            assert torch.allclose(torch.tensor(got), wanted.grad, atol=1e-6)


def shares(rank, size, coordinator, length, dies):
    import torch_ronde

    with begin(coordinator, rank=rank, size=size) as world:
        weight = torch.nn.Parameter(torch.zeros(length))
        holder = torch.nn.ParameterDict({"weight": weight})
        world.elastic(holder)
        sampler = torch_ronde.ElasticSampler(length, 4, seed=3)
        state = world.state(holder=holder, sampler=sampler)
        epochs, counted = [], torch.zeros(length)
        while sampler.epoch < 2:
            with world.step(state) as s:
                epoch = sampler.epoch
                samples = sampler.take(s)
                if dies == (rank, state.step):
                    os.kill(os.getpid(), signal.SIGKILL)
                weight.grad = None
                weight[samples].mean().backward()
                s.commit()
                # The average over all samples: each of them once.
                counted += weight.grad * s.outcome.weight
            if sampler.epoch > epoch:
                epochs.append(counted.round(decimals=3).tolist())
                counted = torch.zeros(length)
    return epochs


@pytest.mark.parametrize("length", [1, 2, 50])
def test_every_sample_once_per_epoch(ranks, length):
    for epochs in ranks(3, shares, length, None):
        assert epochs == [[1.0] * length] * 2


def test_samples_of_the_dead_come_again(start):
    job = start(3, shares, 50, (1, 2))
    for rank in (0, 2):
        assert job.result(rank) == [[1.0] * 50] * 2
