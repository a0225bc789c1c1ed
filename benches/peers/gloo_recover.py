"""A job over Gloo (torch.distributed) in which one rank after another is killed: what its users have to do today, and how long it
takes, measured as `ronde bench recover` measures it.

usage: gloo_recover.py RANKS BYTES MOMENTS KILLS     prints a JSON object for each moment
       gloo_recover.py --bare KILLS                  prints how many ms a socket takes to show that such a process was killed

This process plays the agent that a launcher has on each machine: it hosts the store, sees at once that a process has ended, says
who it was, and has another one ready to take its place. That is more than Gloo's users get by default, and costs them nothing here.

When an all-reduce fails, the survivors leave the group, learn from the store who is gone, make a new group, agree whether the
operation has failed for any of them, and if so restore their input and do it again. A process that comes makes all leave the
group and make a new one once more.
"""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

CALM = 5  # operations before each death, to compare with
PERIOD = 127  # prime, so that pieces in a wrong place are noticed
BLOCK = PERIOD << 10  # elements that are compared at a time
PATIENCE = timedelta(seconds=30)  # of Gloo
DEADLINE_S = 1100  # of a job: less than systems.py waits, so that the job itself says what has failed
SLEEP_ERROR_NS = 200_000  # sleeping ends late by less than this, mostly
FIGURES = ("detect_ms", "recover_ms", "total_ms", "fault_free_ms", "join_ms")


class Agent:
    def __init__(self, ranks, size, moments, kills, folder):
        # Its children's ends are waited for as signals: asking again and again would take time from the job.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        self.job = {"port": self.store.port, "founders": ranks, "size": size, "folder": folder}
        self.job |= {"moments": moments, "kills": kills * len(moments)}
        self.members, self.deaths, self.spares = {}, 0, 0

    def start(self, member):
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--member", json.dumps({**self.job, "member": member})]
        self.members[member] = subprocess.Popen(command, env=environment)

    def run(self):
        """Returns what has failed, if anything."""
        end = time.monotonic() + DEADLINE_S
        try:
            for member in range(self.job["founders"]):
                self.start(member)
            while self.members:
                failure = self.reap()
                if failure or time.monotonic() > end:
                    return failure or f"no end after {DEADLINE_S} s"
                self.start_spare()
                # A spare is wanted at times when nothing is measured, and nobody dies before it is there.
                signal.sigtimedwait({signal.SIGCHLD}, 0.001 if self.lacks_spare() else 1)
        finally:
            for process in self.members.values():
                process.kill()
                process.wait()
        return None

    def reap(self):
        for member, process in list(self.members.items()):
            if process.poll() is None:
                continue
            del self.members[member]
            at = self.moment_of_death() if process.returncode == -signal.SIGKILL else None
            if at is not None:
                self.store.set(f"dead/{self.deaths}", json.dumps({"member": member, "at": at}))
                self.deaths += 1
            elif process.returncode != 0:
                told = self.store.check(["failure"])
                return self.store.get("failure").decode() if told else f"member {member} ended with {process.returncode}"
        return None

    def moment_of_death(self):
        """None if it was another who killed the process, as the system does where memory is short."""
        note = death_note(self.job["folder"], self.deaths)
        return int(note.read_text()) if note.exists() and note.stat().st_size else None

    def lacks_spare(self):
        return self.spares == self.deaths and self.spares < self.job["kills"]

    def start_spare(self):
        if self.lacks_spare() and self.store.check([f"wanted/{self.spares}"]):
            # Members have numbers in the order in which they are started.
            self.start(self.job["founders"] + self.spares)
            self.spares += 1

    def kills(self):
        keys = [f"kill/{kill}" for kill in range(self.job["kills"])]
        return [json.loads(self.store.get(key)) if self.store.check([key]) else None for key in keys]


def death_note(folder, kill):
    """The dying leaves the moment here, which takes it less time than to tell the store."""
    return Path(folder) / f"death-{kill}"


def row(ranks, size, moment, kills, failure):
    """A row that lacks kills says why, instead of figures of some of them."""
    measured = [kill for kill in kills if kill]
    head = {"collective": "all_reduce", "ranks": ranks, "size": size, "moment": moment, "kills": len(measured)}
    if len(measured) < len(kills):
        return {**head, "failed": failure or "not all deaths were measured"}
    # As Ronde does: of an even number the lower one.
    medians = {name: statistics.median_low(kill[name] for kill in measured) for name in FIGURES}
    return {**head, **medians, "detect_max_ms": max(kill["detect_ms"] for kill in measured)}


def pattern(count, weight):
    """Small whole numbers of both signs: their sums are exact."""
    return ((torch.arange(count) % PERIOD) - PERIOD // 2).to(torch.float32) * weight


def weight_of(member):
    return 1 + member * 7 % 199


def ms_since(start_ns):
    return (time.monotonic_ns() - start_ns) / 1e6


class Vectors:
    def __init__(self, count, weight):
        # Both written once, so that no operation is the first to touch their memory.
        self.input, self.output = pattern(count, weight), torch.full((count,), float("nan"))

    def load(self):
        """Gloo works in place, and leaves anything there when it fails."""
        self.output.copy_(self.input)

    def check(self, members):
        expected = pattern(min(BLOCK, len(self.output)), sum(weight_of(member) for member in members))
        for part in self.output.split(BLOCK):
            if not torch.equal(part, expected[: len(part)]):
                raise ValueError("the sum is wrong")


class Fuse:
    """A thread that kills this process at a moment that it is told later. It is there before, so that small operations are not
    over by the time it runs."""

    def __init__(self, note):
        self.note, self.at, self.lit = open(note, "wb", buffering=0), 0, threading.Event()
        threading.Thread(target=self.burn, daemon=True).start()

    def light(self, at):
        self.at = at
        self.lit.set()

    def burn(self):
        self.lit.wait()
        time.sleep(max(0, self.at - time.monotonic_ns() - SLEEP_ERROR_NS) / 1e9)
        while time.monotonic_ns() < self.at:
            time.sleep(0)  # leaves the interpreter to the operation
        self.note.write(str(time.monotonic_ns()).encode())
        os.kill(os.getpid(), signal.SIGKILL)


class Member:
    def __init__(self, store, job):
        self.store, self.job, self.me = store, job, job["member"]
        self.members, self.generation, self.done = list(range(job["founders"])), 0, 0
        torch.set_num_threads(1)

    def take_part(self):
        if self.me < self.job["founders"]:
            self.vectors = self.make_vectors()
            self.make_group()
        else:
            self.come()
        while self.done < self.job["kills"]:
            kill = self.lose_one(self.job["moments"][self.done % len(self.job["moments"])])
            self.done += 1
            kill["join_ms"] = self.await_newcomer()
            if self.leads():
                self.store.set(f"kill/{self.done - 1}", json.dumps(kill))
        dist.barrier()
        dist.destroy_process_group()

    def leads(self):
        """The first has been there for longest."""
        return self.members[0] == self.me

    def make_vectors(self):
        return Vectors(max(1, self.job["size"] // 4), weight_of(self.me))

    def make_group(self):
        prefix = dist.PrefixStore(f"group{self.generation}", self.store)
        rank, size = self.members.index(self.me), len(self.members)
        dist.init_process_group("gloo", store=prefix, rank=rank, world_size=size, timeout=PATIENCE)

    def change_group(self, members):
        dist.destroy_process_group()
        self.members, self.generation = members, self.generation + 1
        self.make_group()

    def come(self):
        """Takes the place of one that was killed, once it is wanted. It takes memory and time from nobody before."""
        self.store.set(f"ready/{self.me}", "")
        self.done = self.me - self.job["founders"] + 1
        self.store.wait([f"vacancy/{self.done}"])
        self.vectors = self.make_vectors()
        self.vectors.load()
        asked = time.monotonic_ns()
        self.store.set(f"comes/{self.done}", str(self.me))
        told = json.loads(self.store.get(f"group/{self.done}"))
        self.members, self.generation = told["members"], told["generation"]
        self.make_group()
        self.reduce()
        self.largest([ms_since(asked)])
        self.vectors.check(self.members)

    def reduce(self):
        dist.all_reduce(self.vectors.output)

    @staticmethod
    def largest(figures):
        largest = torch.tensor(figures, dtype=torch.float64)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return largest.tolist()

    def calm(self):
        times = []
        for _ in range(CALM):
            self.vectors.load()
            dist.barrier()
            start = time.monotonic_ns()
            self.reduce()
            times.append(ms_since(start))
            self.vectors.check(self.members)
        return self.largest([statistics.median(times)])[0]

    def await_spare(self):
        """Whoever will come has started before one dies: to load torch takes seconds of a processor."""
        if self.leads():
            self.store.set(f"wanted/{self.done}", "")
        self.store.wait([f"ready/{self.job['founders'] + self.done}"])

    def lose_one(self, moment):
        """An operation in which one dies. Returns what it cost, but for the joining of another."""
        self.await_spare()
        calm = self.calm()
        # Not the first, who writes down what the others say.
        dies = self.me == self.members[1]
        fuse = Fuse(death_note(self.job["folder"], self.done)) if dies else None
        self.vectors.load()
        dist.barrier()
        if fuse:
            fuse.light(time.monotonic_ns() + int(calm * moment * 1e6))
        start = time.monotonic_ns()
        failed = self.fails(self.reduce)
        total = ms_since(start)
        while fuse:
            time.sleep(1)
        noticed = self.await_failure(failed)
        # Who it was, which Gloo does not say.
        dead = json.loads(self.store.get(f"dead/{self.done}"))
        contributors = self.members
        self.change_group([member for member in self.members if member != dead["member"]])
        recovered = time.monotonic_ns()
        if self.largest([float(failed)])[0] > 0:
            contributors = self.members
            self.vectors.load()
            self.reduce()
            total = ms_since(start)
        self.vectors.check(contributors)
        mine = [(noticed - dead["at"]) / 1e6, (recovered - noticed) / 1e6, total]
        return {**dict(zip(FIGURES, self.largest(mine))), "fault_free_ms": calm}

    @staticmethod
    def fails(operate):
        try:
            operate()
            return False
        except RuntimeError:
            return True

    def await_failure(self, failed):
        """When the loss was noticed. If the operation was over in time for the dead, small ones follow at once until one fails."""
        small = torch.ones(1)
        while not failed:
            failed = self.fails(lambda: dist.all_reduce(small))
        return time.monotonic_ns()

    def await_newcomer(self):
        """Works, and looks after each operation whether somebody wants to come. Returns how long its joining took."""
        if self.leads():
            self.store.set(f"vacancy/{self.done}", "")
        comes = 0
        self.vectors.load()
        while comes == 0:
            self.reduce()
            self.vectors.check(self.members)
            self.vectors.load()
            comes = self.largest([float(self.leads() and self.store.check([f"comes/{self.done}"]))])[0]
        members = self.members + [int(self.store.get(f"comes/{self.done}"))]
        if self.leads():
            told = {"members": members, "generation": self.generation + 1}
            self.store.set(f"group/{self.done}", json.dumps(told))
        self.change_group(members)
        self.reduce()
        join_ms = self.largest([0.0])[0]
        self.vectors.check(self.members)
        return join_ms


def be_member(job):
    store = dist.TCPStore("127.0.0.1", job["port"], is_master=False, timeout=timedelta(seconds=DEADLINE_S))
    try:
        Member(store, job).take_part()
    except Exception as error:
        # The first word counts: what fails later fails because of it.
        store.compare_set("failure", "", f"member {job['member']}: {error}")
        raise


def bare_end_ms():
    """From the death of a process that has loaded torch and done nothing until a socket shows it: no library hears of it before,
    since the system takes the memory of the process apart first."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([sys.executable, __file__, "--idle", str(theirs.fileno())], pass_fds=[theirs.fileno()])
    with ours:
        ours.settimeout(PATIENCE.total_seconds())
        ours.recv(1)
        start = time.monotonic_ns()
        process.kill()
        ours.recv(1)
        took_ms = ms_since(start)
    process.wait()
    return took_ms


def idle(descriptor):
    os.write(descriptor, b"!")
    time.sleep(PATIENCE.total_seconds())


def main():
    if sys.argv[1] == "--bare":
        return print(statistics.median_low(bare_end_ms() for _ in range(int(sys.argv[2]))))
    if sys.argv[1] == "--idle":
        return idle(int(sys.argv[2]))
    if sys.argv[1] == "--member":
        return be_member(json.loads(sys.argv[2]))
    ranks, size, kills = (int(sys.argv[at]) for at in (1, 2, 4))
    moments = [float(moment) for moment in sys.argv[3].split(",")]
    with tempfile.TemporaryDirectory() as folder:
        agent = Agent(ranks, size, moments, kills, folder)
        failure = agent.run()
        for turn, moment in enumerate(moments):
            print(json.dumps(row(ranks, size, moment, agent.kills()[turn :: len(moments)], failure)))


if __name__ == "__main__":
    main()
