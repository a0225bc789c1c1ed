"""Training whose processes come, go and die: no step is lost, and nothing starts again.

    world = torch_ronde.join("head:29500", min_size=2)
    world.elastic(model)                               # its gradients are averaged over those who are there
    state = world.state(model=model, opt=opt)          # what newcomers receive

    while state.step < 1000:
        with world.step(state) as s:                   # newcomers come in here
            x, y = batch(state.step, s.rank, s.size)
            opt.zero_grad()
            loss(model(x), y).backward()               # a death in here costs nothing but the work of the dead
            s.commit(opt.step)                         # once all gradients are final, with the same contributors everywhere
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ronde
import torch
import torch.distributed as dist

from ._gradients import BUCKET, Gradients
from ._state import State, local, synchronize

if TYPE_CHECKING:
    from ._sampler import ElasticSampler

_log = logging.getLogger("torch_ronde")


def join(coordinator: str | None = None, *, min_size: int | None = None, max_size: int | None = None, **config: Any) -> World:
    """Joins an elastic job, or starts it: then it waits for `min_size` processes, without it for as many as `size` or the environment
    says. Whoever comes later comes in at a safe point of the others.

    `coordinator`: "host:port", where rank 0 hosts the coordinator unless one runs there (`ronde coordinator`); without it the
    environment says where (RONDE_*, torchrun, Open MPI, Slurm). More keywords are those of [`ronde.join`]: `rank`, `newcomer`,
    `token`, `timeout` and so on."""
    if coordinator is not None:
        coordinator = coordinator.removeprefix("tcp://")
    return World(ronde.join(coordinator, min_peers=min_size, max_peers=max_size, **config))


class World:
    """The members of an elastic job. Use it in a `with` block, or call [`close`]: that leaves in order."""

    def __init__(self, group: ronde.Group) -> None:
        self.group = group
        self._current: Step | None = None
        self._gradients: list[Gradients] = []
        # Those who come first and those who come later meet in the state, before anything else.
        self._first = True
        self._failed: str | None = None

    @property
    def rank(self) -> int:
        """This process's rank until the next step begins."""
        return self.group.rank

    @property
    def size(self) -> int:
        """The number of members until the next step begins."""
        return self.group.size

    def state(self, **parts: Any) -> State:
        """What all members have alike, by names that are the same everywhere: the model, the optimizer, a schedule, a sampler."""
        return State(parts)

    def elastic(
        self,
        module: Any,
        *arguments: Any,
        bucket_bytes: int = BUCKET,
        wire: torch.dtype | None = None,
        **keywords: Any,
    ) -> Any:
        """Averages the gradients of a module over the members, as the backward pass brings them. Gives it back. `wire`: what they are
        on their way, such as torch.bfloat16, which halves what travels of float32; sums are made in float32 on up to 32 members.

        `elastic(DistributedDataParallel, module, …)` has PyTorch's own class do it. All parameters have to be used by all
        members in a step there."""
        if isinstance(module, type):
            return self._elastic_ddp(module, *arguments, **keywords)
        self._gradients.append(Gradients(self, module, bucket_bytes, wire))
        return module

    def _elastic_ddp(self, kind: type, module: torch.nn.Module, **keywords: Any) -> Any:
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        alone = dist.group.WORLD if dist.get_world_size() == 1 else dist.new_group([dist.get_rank()], use_local_synchronization=True)
        # Buckets that are made anew after the first step would differ from those of newcomers.
        wrapped = kind(module, process_group=alone, **{"find_unused_parameters": True, **keywords})
        wrapped.register_comm_hook(self, _average_bucket)
        return wrapped

    @contextmanager
    def step(self, state: State) -> Iterator[Step]:
        """One step. All members begin it together: those who wait to come in do, and receive the state. The block ends with
        [`Step.commit`]. If it raises something, this process leaves the job, and the others go on without it."""
        if self._failed:
            raise RuntimeError(f"this process has left the job: {self._failed}")
        if self._current is not None:
            raise RuntimeError("a step is going on: they cannot be nested")
        try:
            self._begin(state)
            step = self._current = Step(self, state)
            for gradients in self._gradients:
                gradients.begin()
            yield step
            if not step.outcome:
                raise RuntimeError("the block of world.step ends without s.commit(…)")
        except BaseException as error:
            self._leave_at_once(f"{type(error).__name__}: {error}")
            raise
        finally:
            self._current = None

    def _begin(self, state: State) -> None:
        if not self._first:
            change = self.group.update()
            if change.changed:
                _log.info("rank %d of %d: %d came, %d went", change.rank, change.size, len(change.joined), len(change.gone))
            if not change.joined:
                return
        synchronize(self.group, state)
        self._first = False

    def _leave_at_once(self, why: str) -> None:
        self._failed = why
        self.group._free()
        if self._current is not None:
            self._current._drop()

    def close(self) -> None:
        """Leaves in order. Where the coordinator is in this process it returns when the others have left too."""
        self.group.close()

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.group.__exit__(kind, error, trace)


class Step:
    """One step, on this member."""

    def __init__(self, world: World, state: State) -> None:
        self.rank, self.size = world.rank, world.size
        # What the average counts this member's gradients for; the same kind on every member: a number, or None for all alike.
        self.weight: float | None = None
        # Of all calls of the step, once it is committed.
        self.outcome: ronde.Outcome | None = None
        self._world, self._state = world, state
        self._context: Any = None
        self._commit: ronde.Commit | None = None
        self._samplers: list[ElasticSampler] = []
        self._accumulates = False
        self._futures: list[tuple[torch.futures.Future[torch.Tensor], torch.Tensor]] = []

    @property
    def absent(self) -> tuple[int, ...]:
        """Ranks that were lost, and are not in this step's averages."""
        return self.outcome.absent if self.outcome else ()

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """Backward passes whose gradients are added up here, and averaged with those of the last one, which is outside."""
        self._accumulates = True
        try:
            yield
        finally:
            self._accumulates = False

    def average(self, tensors: torch.Tensor | Iterable[torch.Tensor]) -> None:
        """Averages tensors in place over the members, as part of the step: they are final once that is committed, and not to be
        touched before. For gradients that [`World.elastic`] does not know of."""
        if self.outcome:
            raise RuntimeError("this step is committed")
        if self._commit is None:
            self._context = self._world.group.commit()
            self._commit = self._context.__enter__()
        op = "avg" if self.weight is None else ronde.weighted_avg(self.weight)
        for tensor in [tensors] if isinstance(tensors, torch.Tensor) else tensors:
            self._commit.all_reduce(local(tensor.detach()), op=op)

    def commit(self, apply: Callable[[], Any] | None = None) -> Any:
        """Waits until all averages are final, with the same contributors on every member, then calls `apply`, such as `opt.step`,
        and counts the step. Gives what it gives."""
        for gradients in self._world._gradients:
            gradients.finish(self)
        self._seal()
        assert self.outcome
        for gradients in self._world._gradients:
            gradients.hand_out()
        for sampler in self._samplers:
            sampler._commit(self.outcome.absent)
        result = apply() if apply else None
        self._state.step += 1
        return result

    def _seal(self) -> None:
        if self.outcome:
            return
        if self._commit is None:
            self.outcome = self._world.group.agree(True)[1]
            return
        self._context.__exit__(None, None, None)
        self.outcome = self._commit.outcome
        for future, tensor in self._futures:
            future.set_result(tensor)
        self._futures.clear()

    def _drop(self) -> None:
        for sampler in self._samplers:
            sampler._drop()
        if self._commit is not None and self._commit.outcome is None:
            # The group has ended: no call uses its memory from here on.
            try:
                self._context.__exit__(None, None, None)
            except ronde.RondeError:
                pass
        for future, _ in self._futures:
            future.set_exception(RuntimeError("the step has failed"))
        self._futures.clear()


def _average_bucket(world: World, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DDP's hook: all buckets of a step become final together, when the last one has been started."""
    step = world._current
    if step is None:
        raise RuntimeError("a backward pass outside of `with world.step(state):`")
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    data = bucket.buffer()
    step.average(data)
    step._futures.append((future, data))
    if bucket.is_last():
        step._seal()
    return future


# DDP looks at these, and takes no names for them.
_average_bucket.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[torch.Tensor]}
