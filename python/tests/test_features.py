"""What PyTorch builds on process groups gives on Ronde what it gives on Gloo."""

import tempfile
from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402
import torch.nn as nn  # noqa: E402

SIZE = 4


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8))


def data(rank):
    random = torch.Generator().manual_seed(7 + rank)
    return torch.randn(6, 16, generator=random), torch.randint(8, (6,), generator=random)


def train(model, rank, opt=None, steps=3):
    opt = opt or torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        x, y = data(rank)
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        opt.step()
    return model


def whole(parameters):
    return [getattr(p, "full_tensor", lambda p=p: p)().detach().reshape(-1)[:64].tolist() for p in parameters]


def ddp(rank, mesh):
    return whole(train(nn.parallel.DistributedDataParallel(net()), rank).parameters())


def zero(rank, mesh):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = nn.parallel.DistributedDataParallel(net())
    return whole(
        train(model, rank, ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.01)).parameters()
    )


def fsdp(rank, mesh):
    from torch.distributed.fsdp import fully_shard

    model = net()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh())
    model = fully_shard(model, mesh=mesh())
    opt = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, rank, opt)
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return whole(model.parameters()), norm.full_tensor().item()


def hsdp(rank, mesh):
    from torch.distributed.fsdp import fully_shard

    return whole(train(fully_shard(net(), mesh=mesh((2, 2), ("replicate", "shard"))), rank).parameters())


def tensor_parallel(rank, mesh):
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model = parallelize_module(net(), mesh(), {"0": ColwiseParallel(), "2": RowwiseParallel()})
    # All work on the same.
    return whole(train(model, 0).parameters())


def dtensors(rank, mesh):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    tensor = distribute_tensor(torch.arange(64.0).view(8, 8), mesh(), [Shard(0)])
    return [tensor.redistribute(placements=[to]).to_local().tolist() for to in (Shard(1), Replicate(), Shard(0))]


def functional(rank, mesh):
    import torch.distributed._functional_collectives as f

    mine, group = torch.arange(8.0) + rank, dist.group.WORLD
    return [
        f.all_reduce(mine, "sum", group).tolist(),
        f.all_gather_tensor(mine, 0, group).tolist(),
        f.reduce_scatter_tensor(mine, "sum", 0, group).tolist(),
        f.all_to_all_single(mine, None, None, group).tolist(),
        f.broadcast(mine, 2, group).tolist(),
    ]


def compiled(rank, mesh):
    import torch.distributed._functional_collectives as f

    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(x):
        return f.all_reduce(x * 2, "sum", dist.group.WORLD) + 1

    model = torch.compile(nn.parallel.DistributedDataParallel(net()), backend="aot_eager")
    return step(torch.arange(4.0) + rank).tolist(), whole(train(model, rank).parameters())


def objects(rank, mesh):
    every, here = [None] * SIZE, [None]
    dist.all_gather_object(every, {"rank": rank, "text": "x" * rank})
    sent = [("a", 1), None, [3.5]] if rank == 1 else [None] * 3
    dist.broadcast_object_list(sent, 1)
    dist.scatter_object_list(here, [[r] * r for r in range(SIZE)] if rank == 0 else None, 0)
    gathered = [None] * SIZE if rank == 2 else None
    dist.gather_object(rank * "y", gathered, 2)
    return every, sent, here, gathered


def checkpoint(rank, mesh):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.fsdp import fully_shard

    folder = [tempfile.mkdtemp() if rank == 0 else None]
    dist.broadcast_object_list(folder, 0)
    model = train(fully_shard(net(), mesh=mesh()), rank)
    dcp.save({"model": model.state_dict()}, checkpoint_id=folder[0])
    other = fully_shard(net(), mesh=mesh())
    state = other.state_dict()
    dcp.load({"model": state}, checkpoint_id=folder[0])
    other.load_state_dict(state)
    assert whole(other.parameters()) == whole(model.parameters())
    return whole(other.parameters())


def pipeline(rank, mesh):
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

    torch.manual_seed(5)
    stages = [nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(SIZE)]
    stage = PipelineStage(stages[rank], rank, SIZE, torch.device("cpu"))
    losses = []
    schedule = ScheduleGPipe(stage, 2, loss_fn=nn.functional.mse_loss)
    x = torch.arange(64.0).view(4, 16) / 64
    if rank == 0:
        schedule.step(x)
    elif rank == SIZE - 1:
        schedule.step(target=x.flip(0), losses=losses)
    else:
        schedule.step()
    return [float(loss.detach()) for loss in losses], whole([p.grad for p in stages[rank].parameters()])


FEATURES = [
    ddp, zero, fsdp, hsdp, tensor_parallel, dtensors, functional, compiled, objects, checkpoint, pipeline,
]  # fmt: skip


def run(rank, size, coordinator, backend):
    import torch_ronde  # noqa: F401
    from torch.distributed.device_mesh import init_device_mesh

    torch.set_num_threads(1)
    dist.distributed_c10d.Backend.default_device_backend_map["cpu"] = backend
    host, port = coordinator.split(":")
    store = dist.TCPStore(host, int(port), size, rank == 0, timedelta(seconds=60))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))

    def mesh(shape=(SIZE,), names=("all",)):
        return init_device_mesh("cpu", shape, mesh_dim_names=names)

    found = {feature.__name__: feature(rank, mesh) for feature in FEATURES}
    dist.barrier()
    dist.destroy_process_group()
    return found


@pytest.fixture(scope="module")
def results():
    from conftest import Job

    found = {}
    for backend in ("gloo", "ronde"):
        job = Job(SIZE, run, (backend,))
        found[backend] = [job.result(rank) for rank in range(SIZE)]
        job.end()
    return found


def same(one, other):
    if isinstance(one, float):
        return one == pytest.approx(other, rel=1e-4, abs=1e-5)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
    return one == other


@pytest.mark.parametrize("feature", [feature.__name__ for feature in FEATURES])
def test_as_on_gloo(results, feature):
    for rank in range(SIZE):
        gloo, ronde = (results[backend][rank][feature] for backend in ("gloo", "ronde"))
        assert same(ronde, gloo), (rank, ronde, gloo)
