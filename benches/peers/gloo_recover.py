"""A job over Gloo (torch.distributed) in which one rank after another is killed: what its users have to do today, and how long it
takes, measured as `ronde bench recover` measures it.

usage: gloo_recover.py RANKS BYTES MOMENTS KILLS     prints a JSON object for each moment

This process plays the agent that a launcher has on each machine: it hosts the store, sees at once that a process has ended, says
who it was, and starts another in its place. That is more than Gloo's users get by default, and costs them nothing here.

When an all-reduce fails, the survivors leave the group, learn from the store who is gone, make a new group, agree whether the
operation has failed for any of them, and if so restore their input and do it again. A process that comes makes all leave the
group and make a new one once more.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist

CALM = 5  # operations before each death, to compare with
PERIOD = 127  # prime, so that pieces in a wrong place are noticed
PATIENCE = timedelta(seconds=30)
DEADLINE_S = 900


def pattern(count, weight):
    return ((torch.arange(count) % PERIOD) - PERIOD // 2).to(torch.float32) * weight


def weight_of(member):
    return 1 + member * 7 % 199


def agent(ranks, size, moments, kills):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}

    def start(member, founders):
        work = [str(part) for part in (store.port, member, founders, size, ",".join(map(str, moments)), kills)]
        return subprocess.Popen([sys.executable, __file__, "--member", *work], env=environment)

    members = {member: start(member, ranks) for member in range(ranks)}
    end = time.monotonic() + DEADLINE_S
    deaths = 0
    try:
        while members:
            for member, process in list(members.items()):
                if process.poll() is None:
                    continue
                del members[member]
                if process.returncode == -signal.SIGKILL:
                    store.set(f"dead/{deaths}", str(member))
                    deaths += 1
                    # Members have numbers in the order in which they are started.
                    members[ranks + deaths - 1] = start(ranks + deaths - 1, ranks)
                elif process.returncode != 0:
                    raise SystemExit(f"member {member} ended with {process.returncode}")
            if time.monotonic() > end:
                raise SystemExit(f"no end after {DEADLINE_S} s")
            time.sleep(0.0005)
    finally:
        for process in members.values():
            process.kill()
    rows = json.loads(store.get("kills"))
    for turn, moment in enumerate(moments):
        print(json.dumps(summary(rows[turn :: len(moments)], moment, ranks, size)))


def summary(kills, moment, ranks, size):
    row = {"collective": "all_reduce", "ranks": ranks, "size": size, "moment": moment, "kills": len(kills)}
    for name in ("detect_ms", "recover_ms", "total_ms", "fault_free_ms", "join_ms"):
        row[name] = statistics.median(kill[name] for kill in kills)
    row["detect_max_ms"] = max(kill["detect_ms"] for kill in kills)
    return row


class Member:
    def __init__(self, port, member, founders, size, moments, kills):
        self.store = dist.TCPStore("127.0.0.1", int(port), is_master=False, timeout=timedelta(seconds=DEADLINE_S))
        self.me, founders = int(member), int(founders)
        self.moments = [float(moment) for moment in moments.split(",")]
        self.kills = int(kills) * len(self.moments)
        self.count = max(1, int(size) // 4)
        self.input = pattern(self.count, weight_of(self.me))
        self.output = torch.empty(self.count)
        self.members, self.generation, self.done = list(range(founders)), 0, 0
        self.rows = []
        if self.me >= founders:
            self.come(founders)
        else:
            self.make_group()

    def make_group(self):
        prefix = dist.PrefixStore(f"group{self.generation}", self.store)
        rank, size = self.members.index(self.me), len(self.members)
        dist.init_process_group("gloo", store=prefix, rank=rank, world_size=size, timeout=PATIENCE)

    def change_group(self, members):
        dist.destroy_process_group()
        self.members, self.generation = members, self.generation + 1
        self.make_group()

    def come(self, founders):
        """Takes the place of one that was killed, once it is wanted."""
        self.done = self.me - founders + 1
        self.store.wait([f"vacancy/{self.done}"])
        asked = time.monotonic()
        self.store.set(f"comes/{self.done}", str(self.me))
        told = json.loads(self.store.get(f"group/{self.done}"))
        self.members, self.generation = told["members"], told["generation"]
        self.make_group()
        self.reduce_all()
        self.largest([(time.monotonic() - asked) * 1e3])
        self.check()

    def reduce_all(self):
        """Gloo works in place, and leaves anything there when it fails."""
        self.output.copy_(self.input)
        start = time.monotonic()
        dist.all_reduce(self.output)
        return (time.monotonic() - start) * 1e3

    def check(self):
        expected = pattern(self.count, sum(weight_of(member) for member in self.members))
        if not torch.equal(self.output, expected):
            raise SystemExit("the sum is wrong")
        self.output.fill_(float("nan"))

    @staticmethod
    def largest(figures):
        largest = torch.tensor(figures, dtype=torch.float64)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return largest.tolist()

    def calm(self):
        times = []
        for _ in range(CALM):
            dist.barrier()
            times.append(self.reduce_all())
            self.check()
        return self.largest([statistics.median(times)])[0]

    def play(self):
        while self.done < self.kills:
            kill = self.lose_one(self.moments[self.done % len(self.moments)])
            self.done += 1
            kill["join_ms"] = self.await_newcomer()
            self.rows = self.rows + [kill] if self.members.index(self.me) == 0 else []
        if self.members.index(self.me) == 0:
            self.store.set("kills", json.dumps(self.rows))
        dist.barrier()
        dist.destroy_process_group()

    def lose_one(self, moment):
        calm = self.calm()
        # The first has been there for longest and writes down what the others say; the next one dies.
        victim = self.members[1]
        fuse = threading.Event()
        if self.me == victim:
            threading.Thread(target=self.burn, args=(fuse, calm * moment / 1e3), daemon=True).start()
        dist.barrier()
        fuse.set()
        start = time.monotonic()
        failed = False
        try:
            self.reduce_all()
            total = (time.monotonic() - start) * 1e3
            self.check()
        except RuntimeError:
            failed = True
        if self.me == victim:
            time.sleep(DEADLINE_S)
        noticed = time.monotonic() if failed else self.await_failure()
        # Who it was, which Gloo does not say.
        gone = int(self.store.get(f"dead/{self.done}"))
        self.change_group([member for member in self.members if member != gone])
        recovered = time.monotonic()
        if self.largest([float(failed)])[0] > 0:
            self.reduce_all()
            total = (time.monotonic() - start) * 1e3
            self.check()
        death = float(self.store.get(f"death/{self.done}"))
        names = ("detect_ms", "recover_ms", "total_ms")
        figures = self.largest([(noticed - death) * 1e3, (recovered - noticed) * 1e3, total])
        return {**dict(zip(names, figures)), "fault_free_ms": calm}

    def burn(self, fuse, delay):
        # Connected before, so that it takes no time at the end.
        store = dist.TCPStore("127.0.0.1", self.store.port, is_master=False, timeout=PATIENCE)
        fuse.wait()
        until = time.monotonic() + delay
        while time.monotonic() < until:
            time.sleep(min(0.0002, max(0.0, until - time.monotonic())))
        store.set(f"death/{self.done}", repr(time.monotonic()))
        os.kill(os.getpid(), signal.SIGKILL)

    def await_failure(self):
        small = torch.ones(1)
        try:
            while True:
                dist.all_reduce(small)
        except RuntimeError:
            return time.monotonic()

    def await_newcomer(self):
        """Works, and looks after each operation whether somebody wants to come."""
        leads = self.members.index(self.me) == 0
        if leads:
            self.store.set(f"vacancy/{self.done}", "")
        while True:
            self.reduce_all()
            self.check()
            comes = float(leads and self.store.check([f"comes/{self.done}"]))
            if self.largest([comes])[0] > 0:
                break
        members = self.members + [int(self.store.get(f"comes/{self.done}"))]
        if leads:
            told = {"members": members, "generation": self.generation + 1}
            self.store.set(f"group/{self.done}", json.dumps(told))
        self.change_group(members)
        self.reduce_all()
        join_ms = self.largest([0.0])[0]
        self.check()
        return join_ms


def main():
    if sys.argv[1] == "--member":
        Member(*sys.argv[2:]).play()
        return
    ranks, size, moments, kills = sys.argv[1:]
    agent(int(ranks), int(size), [float(moment) for moment in moments.split(",")], int(kills))


if __name__ == "__main__":
    main()
