"""Jobs of several processes, for the tests."""

from __future__ import annotations

import multiprocessing
import socket
import traceback
from collections.abc import Callable
from typing import Any

import pytest

# Of everything that a job does: what takes longer hangs.
PATIENCE = 60


def _run(function: Callable[..., Any], rank: int, size: int, port: int, arguments: tuple[Any, ...], to: Any) -> None:
    try:
        to.send((True, function(rank, size, f"127.0.0.1:{port}", *arguments)))
    except BaseException:  # noqa: B036 - everything is told to the parent
        to.send((False, traceback.format_exc()))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Job:
    """Processes that run a function of (rank, size, coordinator, *arguments)."""

    def __init__(self, size: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        port = free_port()
        self.pipes, self.processes = [], []
        for rank in range(size):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(function, rank, size, port, arguments, there), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def result(self, rank: int) -> Any:
        """What one gave; its error, if it failed."""
        pipe = self.pipes[rank]
        assert pipe.poll(PATIENCE), f"rank {rank} is not done after {PATIENCE} s"
        done, value = pipe.recv()
        assert done, f"rank {rank}:\n{value}"
        return value

    def end(self) -> None:
        for process in self.processes:
            process.join(5)
            if process.is_alive():
                process.kill()


@pytest.fixture
def start():
    """Starts jobs that end with the test."""
    jobs: list[Job] = []

    def begin(size: int, function: Callable[..., Any], *arguments: Any) -> Job:
        jobs.append(Job(size, function, arguments))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.end()


@pytest.fixture
def ranks(start):
    """Runs a function as all ranks of a job, and gives what they give."""

    def run(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        job = start(size, function, *arguments)
        return [job.result(rank) for rank in range(size)]

    return run
