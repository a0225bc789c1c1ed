"""Groups, ops in flight, and commits."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, overload

from . import _library as c
from ._library import library
from ._memory import Memory, memory_of
from ._outcome import Change, Outcome, byref, new_outcome
from .errors import InvalidArgument, check, last_error

_COLLECTIVES = {name.lower(): number for number, name in enumerate(c.COLLECTIVES)}
_REDUCTIONS = {name.lower(): number for number, name in enumerate(c.REDUCTIONS)}
_TOLERANCES = {"recover": 0, "none": 1, "per-window": 2}
# How long a wait stays in the library before Python may handle a signal, in milliseconds.
_SLICE = 100


class Reduction:
    """How to reduce, with a number of this rank's own."""

    def __init__(self, make: Any, *arguments: Any) -> None:
        number = ctypes.c_uint64()
        check(make(*arguments, byref(number)))
        self.number = number.value

    def __del__(self) -> None:
        if hasattr(self, "number"):
            library.ronde_reduction_free(self.number)


def weighted_avg(weight: float) -> Reduction:
    """The average of all inputs, each weighed by its rank's weight: over the weights of those who contributed."""
    return Reduction(library.ronde_reduction_weighted_avg, weight)


def premul_sum(scalar: Any) -> Reduction:
    """The sum of all inputs, each multiplied by its rank's scalar: an array of one element of the call's dtype."""
    memory = memory_of(scalar, name="the scalar")
    if memory.count != 1:
        raise ValueError(f"the scalar has {memory.count} elements: give one")
    return Reduction(library.ronde_reduction_premulsum, memory.dtype, memory.address)


class Op:
    """A call in flight. What it works on is kept alive until it has ended, also if this is dropped before."""

    def __init__(self, group: Group, handle: int, holds: Any) -> None:
        self._group = group
        self._handle = ctypes.c_void_p(handle)
        self._holds = holds
        self._result: Outcome | BaseException | None = None

    def wait(self, timeout: float | None = None) -> Outcome:
        """Waits for the end, at most for `timeout` seconds: TimeoutError then, and it goes on. Progress is made on this thread;
        Python's lock is not held, and signals (Ctrl-C) are handled."""
        left = float("inf") if timeout is None else timeout * 1000
        while self._result is None:
            step = min(left, _SLICE)
            self._try(lambda outcome: library.ronde_op_wait_for(self._handle, int(step), outcome))
            left -= step
            if self._result is None and left <= 0:
                raise TimeoutError(f"the call has not ended after {timeout} s; it goes on")
        return self._give()

    def test(self) -> Outcome | None:
        """The outcome if it has ended; makes progress."""
        if self._result is None:
            self._try(lambda outcome: library.ronde_op_test(self._handle, outcome))
        return None if self._result is None else self._give()

    def done(self) -> bool:
        """Whether it has ended, well or not; makes progress."""
        if self._result is None:
            self._try(lambda outcome: library.ronde_op_test(self._handle, outcome))
        return self._result is not None

    def cancel(self) -> bool:
        """Takes a receive back of which nothing has come yet. False, and nothing changes, for anything else."""
        return self._result is None and library.ronde_op_cancel(self._handle) == c.OK

    def fileno(self) -> int:
        """A descriptor that becomes readable when it ends, for select, poll and event loops. It is the op's."""
        if not self._handle:
            raise ValueError("the call has ended and its result was taken")
        number = ctypes.c_int()
        check(library.ronde_op_descriptor(self._handle, byref(number)))
        return number.value

    def _try(self, call: Any) -> None:
        outcome = new_outcome()
        status = call(byref(outcome))
        if status == c.IN_PROGRESS:
            return
        # Another thread may have been faster.
        with self._group._lock:
            if self._result is None:
                self._result = Outcome.of(outcome) if status == c.OK else last_error(status)
                self._holds = None

    def _give(self) -> Outcome:
        if isinstance(self._result, BaseException):
            raise self._result
        assert self._result is not None
        return self._result

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if not handle:
            return
        if self._result is None and library.ronde_op_test(handle, None) == c.IN_PROGRESS:
            return self._group._adopt(handle, self._holds)
        library.ronde_op_free(handle)


class Commit:
    """Calls that start at once and become final together: all have the same contributors, whoever is lost meanwhile. Made by
    [`Group.commit`]."""

    def __init__(self, group: Group, handle: int) -> None:
        self._group = group
        self._handle = ctypes.c_void_p(handle)
        self._holds: list[Any] = []
        self.outcome: Outcome | None = None

    def all_reduce(self, data: Any, output: Any = None, op: str | Reduction = "sum") -> None:
        """As [`Group.all_reduce`]."""
        self._start(self._group._all_reduce(data, output, op))

    def all_gather(self, data: Any, output: Any, counts: Sequence[int] | None = None) -> None:
        """As [`Group.all_gather`]."""
        self._start(self._group._all_gather(data, output, counts))

    def reduce_scatter(
        self, data: Any, output: Any, op: str | Reduction = "sum", counts: Sequence[int] | None = None
    ) -> None:
        """As [`Group.reduce_scatter`]."""
        self._start(self._group._reduce_scatter(data, output, op, counts))

    def _start(self, prepared: tuple[c.Call, Any]) -> None:
        call, holds = prepared
        if not self._handle:
            raise ValueError("this commit is sealed")
        check(library.ronde_commit_start(self._handle, byref(call)))
        self._holds.append(holds)

    def _seal(self) -> Op:
        place = ctypes.c_void_p()
        handle, self._handle = self._handle, ctypes.c_void_p()
        check(library.ronde_commit_seal(handle, byref(place)))
        return Op(self._group, place.value or 0, self._holds)


class Group:
    """The peers of a job, this process among them. Made by [`ronde.join`]; use it in a `with` block, which leaves in order.

    Arrays may be of any library that speaks DLPack or the buffer protocol, in the host's memory and contiguous. What receives is
    given by the caller; nothing is copied. All calls of one tag are made in the same order on every rank.

    Every collective has the keywords `algorithm` (a name of ronde.h), `tag`, `timeout` (seconds), `tolerance` ("recover", "none"
    or "per-window"), `strict` (a result that anybody returned holds for all), and `wait`: without it an [`Op`] comes at once.
    """

    def __init__(self, handle: int, parent: Group | None = None) -> None:
        self._handle = ctypes.c_void_p(handle)
        self._parent = parent
        self._lock = threading.Lock()
        self._adopted: list[tuple[ctypes.c_void_p, Any]] = []

    # ---------------------------------------------------------------------------------------------- Who is there

    @property
    def rank(self) -> int:
        """This process's rank; it changes in [`update`] only."""
        return library.ronde_rank(self._open())

    @property
    def size(self) -> int:
        """The number of ranks; it changes in [`update`] only."""
        return library.ronde_size(self._open())

    @property
    def generation(self) -> int:
        """The stretch of the job that this is: each [`update`] that changes something adds 1."""
        return library.ronde_generation(self._open())

    def host(self, rank: int) -> str:
        """Name of the machine of a rank; "" for this process and unknown ones."""
        return library.ronde_host(self._open(), rank).decode(errors="replace")

    def transport(self, rank: int) -> str:
        """"shm" or "tcp": what leads to a rank; "" for this process and unknown ones."""
        return library.ronde_transport(self._open(), rank).decode()

    def recent_calls(self) -> str:
        """What this process was doing: its last calls, one a line."""
        size = library.ronde_recent_calls(self._open(), None, 0)
        text = ctypes.create_string_buffer(size + 4096)
        library.ronde_recent_calls(self._handle, text, len(text))
        return text.value.decode(errors="replace")

    def failure(self) -> Exception | None:
        """What ended the group, if anything did."""
        status = library.ronde_failure(self._open())
        return last_error(status) if status else None

    def __repr__(self) -> str:
        return f"<ronde.Group rank {self.rank} of {self.size}>" if self._handle else "<ronde.Group, closed>"

    # --------------------------------------------------------------------------------------------- Coming, going

    def update(self) -> Change:
        """A safe point: newcomers come in, those that were lost or have left stop being holes. Every member calls it at the same
        place of its program."""
        change = c.Change()
        check(library.ronde_update(self._open(), byref(change)))
        return Change.of(change)

    def split(self, colour: int, key: int = 0) -> Group | None:
        """A group of the members with the same colour, ranked by key and then by rank; none for a negative colour. Every member
        calls it."""
        place = ctypes.c_void_p()
        check(library.ronde_split(self._open(), colour, key, byref(place)))
        return Group(place.value, self) if place.value else None

    def abort(self, reason: str) -> None:
        """Ends the job: ops on all ranks end with an error that carries the reason."""
        check(library.ronde_abort(self._open(), reason.encode()))

    def close(self) -> None:
        """Leaves in order. In the process that hosts the coordinator this returns when the others have left too."""
        if self._handle:
            status = library.ronde_close(self._handle)
            error = last_error(status) if status else None
            self._free()
            if error:
                raise error

    def __enter__(self) -> Group:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.close()
        except Exception:
            # What went wrong before says more.
            if kind is None:
                raise

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._free()

    def _free(self) -> None:
        handle, self._handle = self._handle, ctypes.c_void_p()
        with self._lock:
            adopted, self._adopted = self._adopted, []
        for op, _ in adopted:
            library.ronde_op_free(op)
        library.ronde_group_free(handle)

    def _open(self) -> ctypes.c_void_p:
        if not self._handle:
            raise _closed()
        return self._handle

    def _adopt(self, handle: ctypes.c_void_p, holds: Any) -> None:
        """Keeps what an op works on of which nobody wants to know any more."""
        with self._lock:
            ended = [op for op, _ in self._adopted if library.ronde_op_test(op, None) != c.IN_PROGRESS]
            self._adopted = [(op, held) for op, held in self._adopted if op not in ended]
            self._adopted.append((handle, holds))
        for op in ended:
            library.ronde_op_free(op)

    # ----------------------------------------------------------------------------------------------- Collectives

    # fmt: off
    @overload
    def all_reduce(self, data: Any, output: Any = None, op: str | Reduction = "sum", *, wait: Literal[True] = True, **options: Any) -> Outcome: ...
    @overload
    def all_reduce(self, data: Any, output: Any = None, op: str | Reduction = "sum", *, wait: Literal[False], **options: Any) -> Op: ...
    # fmt: on

    def all_reduce(self, data: Any, output: Any = None, op: str | Reduction = "sum", *, wait: bool = True, **options: Any) -> Outcome | Op:
        """Every rank gets the reduction of what all give, in `output`, or in place without one. `op`: "sum", "prod", "min", "max",
        "avg", "band", "bor", "bxor", or a [`Reduction`]."""
        return self._run(self._all_reduce(data, output, op), wait, options)

    def reduce(self, data: Any, output: Any = None, op: str | Reduction = "sum", root: int = 0, *, wait: bool = True, **options: Any) -> Outcome | Op:
        """As all_reduce, but only the root receives: others give no output."""
        here = self.rank == root
        send = memory_of(data, here and output is None, "the input")
        recv = self._output(send, output, 1) if here else None
        return self._run(self._call("reduce", send, recv, send.count, op, root), wait, options)

    def broadcast(self, data: Any, root: int = 0, *, wait: bool = True, **options: Any) -> Outcome | Op:
        """What the root has becomes what all have."""
        memory = memory_of(data, self.rank != root)
        return self._run(self._call("broadcast", memory, memory, memory.count, "sum", root), wait, options)

    def all_gather(self, data: Any, output: Any, counts: Sequence[int] | None = None, *, wait: bool = True, **options: Any) -> Outcome | Op:
        """`output` gets the data of all ranks, one after another. With `counts` each rank gives so many elements, the same numbers
        on every rank."""
        return self._run(self._all_gather(data, output, counts), wait, options)

    def reduce_scatter(self, data: Any, output: Any, op: str | Reduction = "sum", counts: Sequence[int] | None = None, *, wait: bool = True, **options: Any) -> Outcome | Op:
        """`data` has a block for each rank, and rank r receives the reduction of all blocks r. With `counts` block r has so many
        elements, the same numbers on every rank."""
        return self._run(self._reduce_scatter(data, output, op, counts), wait, options)

    def all_to_all(self, data: Any, output: Any, send_counts: Sequence[int] | None = None, recv_counts: Sequence[int] | None = None, *, wait: bool = True, **options: Any) -> Outcome | Op:
        """Block i of `data` goes to rank i, and block i of `output` comes from it. With counts the blocks have so many elements:
        what i sends to j must be as long as what j receives from i."""
        send, recv = memory_of(data, name="the input"), memory_of(output, True, "the output")
        if (send_counts is None) != (recv_counts is None):
            raise ValueError("give both counts, or none")
        if send_counts is None or recv_counts is None:
            return self._run(self._call("all_to_all", send, recv, self._block(send, "the input")), wait, options)
        prepared = self._call("all_to_all_v", send, recv, 0)
        prepared[0].send_counts = self._counts(send_counts, send, "send_counts", prepared)
        prepared[0].recv_counts = self._counts(recv_counts, recv, "recv_counts", prepared)
        return self._run(prepared, wait, options)

    def gather(self, data: Any, output: Any = None, root: int = 0, counts: Sequence[int] | None = None, *, wait: bool = True, **options: Any) -> Outcome | Op:
        """The root's `output` gets the data of all ranks, one after another. Either every rank gives as many elements, or every
        rank says `counts`, which count at the root."""
        send, here = memory_of(data, name="the input"), self.rank == root
        recv = memory_of(self._wanted(output, "the root's output"), True, "the output") if here else None
        prepared = self._call("gather" if counts is None else "gather_v", send, recv, send.count, "sum", root)
        if recv is not None and counts is not None:
            prepared[0].recv_counts = self._counts(counts, recv, "counts", prepared)
        elif recv is not None and recv.count != send.count * self.size:
            raise _wrong_length("the output", recv.count, send.count * self.size)
        return self._run(prepared, wait, options)

    def scatter(self, data: Any, output: Any, root: int = 0, counts: Sequence[int] | None = None, *, wait: bool = True, **options: Any) -> Outcome | Op:
        """The root's `data` has a block for each rank, which goes there; others give None. Either all blocks have as many elements,
        or every rank says `counts`, which count at the root."""
        recv, here = memory_of(output, True, "the output"), self.rank == root
        send = memory_of(self._wanted(data, "the root's input"), name="the input") if here else None
        prepared = self._call("scatter" if counts is None else "scatter_v", send, recv, recv.count, "sum", root)
        if send is not None and counts is not None:
            prepared[0].send_counts = self._counts(counts, send, "counts", prepared)
        elif send is not None and send.count != recv.count * self.size:
            raise _wrong_length("the input", send.count, recv.count * self.size)
        return self._run(prepared, wait, options)

    def barrier(self, *, wait: bool = True, **options: Any) -> Outcome | Op:
        """Returns when every rank has called it."""
        return self._run(self._call("barrier", None, None, 0), wait, options)

    def send(self, data: Any, to: int, *, wait: bool = True, **options: Any) -> Outcome | Op:
        """A message to another rank: messages of one tag arrive in the order in which they were sent."""
        memory = memory_of(data)
        return self._run(self._call("send", memory, None, memory.count, "sum", to), wait, options)

    def recv(self, data: Any, source: int, *, wait: bool = True, **options: Any) -> Outcome | Op:
        """A message from another rank, of as many elements of the same type as it sends."""
        memory = memory_of(data, True)
        return self._run(self._call("recv", None, memory, memory.count, "sum", source), wait, options)

    def agree(self, flag: bool) -> tuple[bool, Outcome]:
        """Whether every rank that is there says yes. Everybody gets the same answer, whoever dies meanwhile."""
        answer, outcome = ctypes.c_int32(), new_outcome()
        check(library.ronde_agree(self._open(), bool(flag), byref(answer), byref(outcome)))
        return bool(answer.value), Outcome.of(outcome)

    def share(self, state: Any, has_it: bool) -> Outcome:
        """Gives everybody the state of those who have it, after an [`update`] that let newcomers in. All give as many bytes."""
        memory, outcome = memory_of(state, not has_it), new_outcome()
        check(library.ronde_share(self._open(), memory.address, memory.bytes, bool(has_it), byref(outcome)))
        return Outcome.of(outcome)

    @contextmanager
    def commit(self, *, most_kept: int = 0, tag: int = 0, timeout: float | None = None) -> Iterator[Commit]:
        """Calls that become final together, when the block ends: then `outcome` of what it gave is that of all. Every rank makes
        the same calls in it. Of what calls in place overwrite a copy is kept, of `most_kept` bytes at most (0: 4 GiB)."""
        options, place = _options(tag=tag, timeout=timeout), ctypes.c_void_p()
        check(library.ronde_commit_begin(self._open(), byref(options), most_kept, byref(place)))
        commit = Commit(self, place.value or 0)
        try:
            yield commit
        finally:
            # The others wait for the seal of everybody, whatever happened here.
            commit.outcome = commit._seal().wait()

    # ----------------------------------------------------------------------------------------------------- Calls

    def _all_reduce(self, data: Any, output: Any, op: str | Reduction) -> tuple[c.Call, list[Any]]:
        send = memory_of(data, output is None, "the input")
        return self._call("all_reduce", send, self._output(send, output, 1), send.count, op)

    def _all_gather(self, data: Any, output: Any, counts: Sequence[int] | None) -> tuple[c.Call, list[Any]]:
        send = memory_of(data, name="the input")
        if counts is None:
            return self._call("all_gather", send, self._output(send, output, self.size), send.count)
        recv = memory_of(output, True, "the output")
        prepared = self._call("all_gather_v", send, recv, 0)
        prepared[0].recv_counts = self._counts(counts, recv, "counts", prepared)
        self._is_own(counts, send, "the input")
        return prepared

    def _reduce_scatter(
        self, data: Any, output: Any, op: str | Reduction, counts: Sequence[int] | None
    ) -> tuple[c.Call, list[Any]]:
        send, recv = memory_of(data, name="the input"), memory_of(output, True, "the output")
        if counts is None:
            if send.count != recv.count * self.size:
                raise _wrong_length("the input", send.count, recv.count * self.size)
            return self._call("reduce_scatter", send, recv, recv.count, op)
        prepared = self._call("reduce_scatter_v", send, recv, 0, op)
        prepared[0].send_counts = self._counts(counts, send, "counts", prepared)
        self._is_own(counts, recv, "the output")
        return prepared

    def _call(
        self, collective: str, send: Memory | None, recv: Memory | None, count: int, op: str | Reduction = "sum", peer: int = 0
    ) -> tuple[c.Call, list[Any]]:
        call = c.Call(collective=_COLLECTIVES[collective], reduction=_reduction(op), count=count, peer=peer)
        if send is not None and recv is not None and send.dtype != recv.dtype:
            of = [c.DTYPES[memory.dtype].lower() for memory in (send, recv)]
            raise TypeError(f"the input has elements of {of[0]}, the output of {of[1]}")
        if send is not None:
            call.send, call.dtype = send.address, send.dtype
        if recv is not None:
            call.recv, call.dtype = recv.address, recv.dtype
        return call, [send, recv, op]

    def _output(self, send: Memory, output: Any, times: int) -> Memory:
        if output is None:
            return send
        recv = memory_of(output, True, "the output")
        if recv.count != send.count * times:
            raise _wrong_length("the output", recv.count, send.count * times)
        return recv

    def _block(self, memory: Memory, name: str) -> int:
        count, rest = divmod(memory.count, self.size)
        if rest:
            raise ValueError(f"{name} has {memory.count} elements, which {self.size} ranks cannot share evenly: give counts")
        return count

    def _counts(self, counts: Sequence[int], memory: Memory, name: str, prepared: tuple[c.Call, list[Any]]) -> Any:
        if len(counts) != self.size:
            raise ValueError(f"{name} has {len(counts)} entries, and there are {self.size} ranks")
        if any(count < 0 for count in counts) or sum(counts) != memory.count:
            raise ValueError(f"{name} is {list(counts)}, {sum(counts)} in all, of an array of {memory.count}")
        array = (ctypes.c_size_t * len(counts))(*counts)
        prepared[1].append(array)
        return array

    def _is_own(self, counts: Sequence[int], memory: Memory, name: str) -> None:
        if counts[self.rank] != memory.count:
            raise _wrong_length(name, memory.count, counts[self.rank])

    @staticmethod
    def _wanted(array: Any, name: str) -> Any:
        if array is None:
            raise ValueError(f"{name} is missing")
        return array

    def _run(self, prepared: tuple[c.Call, list[Any]], wait: bool, options: dict[str, Any]) -> Outcome | Op:
        call, holds = prepared
        if options:
            given = _options(**options)
            call.options = ctypes.pointer(given)
        place = ctypes.c_void_p()
        check(library.ronde_start(self._open(), byref(call), byref(place)))
        op = Op(self, place.value or 0, holds)
        return op.wait() if wait else op


def _options(
    algorithm: str | None = None,
    tag: int = 0,
    timeout: float | None = None,
    tolerance: str = "recover",
    strict: bool = False,
) -> c.Options:
    if tolerance not in _TOLERANCES:
        raise InvalidArgument(f"no tolerance {tolerance!r}: there are {', '.join(_TOLERANCES)}")
    return c.Options(
        timeout_ms=_milliseconds(timeout),
        algorithm=algorithm.encode() if algorithm else None,
        tag=tag,
        tolerance=_TOLERANCES[tolerance],
        strict_commit=strict,
    )


def _milliseconds(seconds: float | None) -> int:
    """0 for none; what is shorter than one is one."""
    return 0 if seconds is None else max(1, int(seconds * 1000))


def _reduction(op: str | Reduction) -> int:
    if isinstance(op, Reduction):
        return op.number
    number = _REDUCTIONS.get(op)
    if number is None:
        raise InvalidArgument(f"no reduction {op!r}: there are {', '.join(_REDUCTIONS)}, weighted_avg and premul_sum")
    return number


def _wrong_length(name: str, is_now: int, wanted: int) -> ValueError:
    return ValueError(f"{name} has {is_now} elements, and should have {wanted}")


def _closed() -> Exception:
    from .errors import Closed

    return Closed("the group is closed")


def _config(
    coordinator: str | None = None,
    rank: int | None = None,
    size: int | None = None,
    min_peers: int | None = None,
    max_peers: int | None = None,
    newcomer: bool = False,
    shrink_only: bool = False,
    job: str | None = None,
    token: str | None = None,
    advertise: str | None = None,
    transports: str | None = None,
    interfaces: str | None = None,
    preset: str | None = None,
    insecure: bool = False,
    streams: int | None = None,
    timeout: float | None = None,
    connect_timeout: float | None = None,
) -> c.Config:
    presets = {None: 0, "lan": 1, "wan": 2}
    if preset not in presets:
        raise InvalidArgument(f"no preset {preset!r}: there are lan and wan")

    def text(value: str | None) -> bytes | None:
        return None if value is None else value.encode()

    return c.Config(
        coordinator=text(coordinator),
        token=text(token),
        advertise=text(advertise),
        transports=text(transports),
        interfaces=text(interfaces),
        timeout_ms=_milliseconds(timeout),
        connect_timeout_ms=_milliseconds(connect_timeout),
        rank=-1 if rank is None else rank,
        ranks=size or 0,
        preset=presets[preset],
        insecure=insecure,
        streams=streams or 0,
        min_peers=min_peers or 0,
        max_peers=max_peers or 0,
        shrink_only=shrink_only,
        newcomer=newcomer,
        job=text(job),
    )


def join(coordinator: str | None = None, *, id: bytes | None = None, **config: Any) -> Group:
    """Joins a job, and returns when all ranks have, or `min_peers`. What is not said comes from the environment (RONDE_*, else
    what torchrun, Open MPI or Slurm say); without any of it this is a group of one.

    Keywords: `id` (of [`create_id`], instead of an address), `rank`, `size`, `min_peers`, `max_peers`, `newcomer`, `shrink_only`,
    `job`, `token`, `advertise`, `transports`, `interfaces`, `preset` ("lan" or "wan"), `insecure`, `streams`, `timeout` and
    `connect_timeout` (seconds). They are those of ronde_config in ronde.h."""
    given, place = _config(coordinator, **config), ctypes.c_void_p()
    if id is not None:
        where = c.Id.from_buffer_copy(id)
        given.id = ctypes.addressof(where)
    check(library.ronde_join(byref(given), byref(place)))
    return Group(place.value or 0)


def create_id(**config: Any) -> bytes:
    """Starts the coordinator of a job in this process, and gives what the others need to join: where it is, and a random token.
    Keep it secret. This process joins with it too. Keywords as of [`join`]."""
    given, made = _config(None, **config), c.Id()
    check(library.ronde_id_create(byref(given), byref(made)))
    return bytes(made.bytes)
