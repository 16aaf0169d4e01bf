"""A server under stress: clients order, cancel, read slowly and leave, while its processes are killed by SIGKILL at random.

    python benchmarks/soak.py --minutes 30

The first third of the time it kills the worker and the server, at least 20 times. The rest is calm, and how fast the memory of
both grows is measured in the last half of that. In the end every job that was accepted must have ended once, with its result.
"""

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from sotediffusion.serve.storage.database import Database  # noqa: E402
from sotediffusion.serve.storage.jobs import Job, JobState  # noqa: E402
from sotediffusion.serve.storage.retention import sweep  # noqa: E402
from sotediffusion.serve.storage.shelf import Shelf  # noqa: E402
from sotediffusion.serve.storage.store import JobStore  # noqa: E402

PATIENCE_S = 7200.0  # for one thing to come to pass on a busy machine
ENDED = ("succeeded", "failed", "cancelled", "expired")
AGAIN = (429, 502, 503)
HABITS = ("waits", "polls", "cancels", "reads slowly", "leaves", "waits", "waits")
SETTINGS = ("worker.threads=1", "limits.charges=1000000", "limits.queued=100000", "limits.queued_per_owner=100000")


class Server:
    """`sote serve` on one port and one folder, however often it is killed."""

    def __init__(self, folder: Path, model: str, settings: Sequence[str] = ()):
        folder.mkdir(exist_ok=True)
        self.log = folder / "log"
        self.port = free_port()
        sets = [word for setting in settings for word in ("-s", setting)]
        words = [sys.executable, "-m", "sotediffusion.cli.main", "serve", "--model", model, "--port", str(self.port)]
        self.words = [*words, "--data", str(folder), *sets]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it; it answers a while later."""
        known = {name: value for name, value in os.environ.items() if not name.startswith("SOTE_")}
        with open(self.log, "ab") as log:
            self.begun = log.tell()
            environment = known | {"OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(self.words, stdout=log, stderr=log, cwd=ROOT, env=environment)

    def stands(self) -> bool:
        """Whether it runs. One that found its port taken, as may be between two lives, tries again; none leaves otherwise."""
        code = self.process.poll()
        if code is not None:
            said = self.log.read_bytes()[self.begun :].decode(errors="replace")
            if code != 2 or "cannot be bound" not in said:
                raise RuntimeError(f"the server left by itself with {code}: {said[-2000:]}")
            self.start()
        return code is None

    def worker(self) -> int | None:
        """The worker's process id; None while there is none."""
        for tasks in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with suppress(OSError):
                for child in tasks.read_text().split():
                    if b"engine.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                        return int(child)
        return None

    def kill_worker(self) -> bool:
        """SIGKILL to the worker, if there is one."""
        child = self.worker()
        if child is not None:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
                return True
        return False

    def kill(self) -> bool:
        """SIGKILL to the server, which starts anew at once; its worker finds itself alone."""
        self.process.kill()
        self.process.wait()
        self.start()
        return True

    def stop(self) -> int:
        """End it in peace; its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()

    def memory(self) -> dict[str, float]:
        """MiB of each process."""
        ids = {"server": self.process.pid, "worker": self.worker()}
        return {name: size for name, id in ids.items() if id is not None and (size := resident(id))}


def free_port() -> int:
    """A port that nobody listens on, and below those that a system gives to whoever asks for any."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("none of a hundred ports from 20000 to 32000 is free")


def resident(id: int) -> float:
    """MiB that a process holds now; 0 where it is gone."""
    with suppress(OSError):
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{id}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


@dataclass
class Ledger:
    """What clients were promised and what they saw."""

    accepted: dict[str, str] = field(default_factory=dict)  # id: its client's habit
    cancelled: set[str] = field(default_factory=set)  # asked to be
    seen: dict[str, list[str]] = field(default_factory=dict)  # id: names of its pictures as a client was shown them
    given_up: list[str] = field(default_factory=list)  # why clients went before they were told to


class Client(threading.Thread):
    """Somebody who orders one thing after the other, each time with another habit, and asks until there is an answer."""

    def __init__(self, number: int, url: str, ledger: Ledger, over: threading.Event):
        super().__init__(name=f"client {number}", daemon=True)
        self.number, self.chance, self.ledger, self.over = number, random.Random(number), ledger, over
        self.http = httpx2.Client(base_url=url, timeout=20)

    def run(self) -> None:
        """Order until told to stop."""
        turns = count(self.number)
        try:
            while not self.over.is_set():
                self._order(HABITS[next(turns) % len(HABITS)])
        except Exception as error:
            self.ledger.given_up.append(f"{self.name}: {error!r}")
        finally:
            self.http.close()

    def _order(self, habit: str) -> None:
        id = self._submit()
        self.ledger.accepted[id] = habit
        if habit == "waits":
            self._wait(id)
        elif habit == "polls":
            self._poll(id)
        elif habit == "cancels":
            time.sleep(self.chance.uniform(0, 0.5))
            self.ledger.cancelled.add(id)
            self._call("POST", f"/api/v1/jobs/{id}/cancel", json={})
        elif habit == "reads slowly":
            self._dawdle(id)

    def _submit(self) -> str:
        key = f"{self.name.replace(' ', '-')}-{self.chance.getrandbits(64):x}"
        order = random_order(self.chance)
        return str(self._call("POST", "/api/v1/jobs", json=order, headers={"Idempotency-Key": key})["id"])

    def _poll(self, id: str) -> None:
        self._until(lambda: self._ended(self._call("GET", f"/api/v1/jobs/{id}")))

    def _wait(self, id: str) -> None:
        """Listen until the job has ended, again after each broken line."""

        def listened() -> bool:
            with self.http.stream("GET", f"/api/v1/jobs/{id}/events") as reply:
                lines = (line for line in reply.iter_lines() if line.startswith("data: "))
                return any(self._ended(json.loads(line[6:])) for line in lines)

        self._until(lambda: self._tried(listened))

    def _dawdle(self, id: str) -> None:
        """Read events a few bytes at a time and hang up in the middle."""

        def dawdled() -> bool:
            with self.http.stream("GET", f"/api/v1/jobs/{id}/events") as reply:
                for _, _ in zip(range(self.chance.randint(1, 20)), reply.iter_raw(64), strict=False):
                    time.sleep(0.2)
            return True

        self._tried(dawdled)

    def _ended(self, job: dict[str, Any]) -> bool:
        if job.get("state") in ENDED:
            self.ledger.seen[job["id"]] = [picture["name"] for picture in job["pictures"] or ()]
        return job.get("state") in ENDED

    def _call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """A good answer, asked for again while nobody is there."""
        found: list[httpx2.Response] = []

        def called() -> bool:
            found[:] = [self.http.request(method, path, **more)]
            return found[0].status_code not in AGAIN

        self._until(lambda: self._tried(called))
        assert found[0].is_success, f"{method} {path}: {found[0].status_code} {found[0].text}"
        said: dict[str, Any] = found[0].json()
        return said

    def _tried(self, call: Callable[[], bool]) -> bool:
        with suppress(httpx2.HTTPError, json.JSONDecodeError):
            return call()
        return False

    def _until(self, true: Callable[[], bool]) -> None:
        until(true, "an answer", pause=0.3)


def random_order(chance: random.Random) -> dict[str, Any]:
    """One of small pictures, no two alike."""
    return {
        "prompt": "1girl, cat ears",
        "width": 64,
        "height": chance.choice((64, 96)),
        "seed": chance.randrange(9**9),
        "steps": chance.randint(1, 8),
        "decoder_steps": chance.randint(1, 4),
        "guidance": chance.choice((1.0, 4.0)),
        "count": chance.choice((1, 1, 2)),
    }


def until(true: Callable[[], Any], what: str, pause: float = 0.05) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come in {PATIENCE_S / 60:.0f} minutes")
        time.sleep(pause)


def kill_at_random(server: Server, ledger: Ledger, seconds: float, kills: int, chance: random.Random) -> Counter[str]:
    """Kill for so long and so often at least; every third time only after something was finished, so that all goes on."""
    done: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end or done.total() < kills:
        if done.total() % 3 == 0:
            wait_for_one(server, ledger)
        time.sleep(chance.uniform(0, 2.0))
        name = "server" if chance.random() < 0.25 else "worker"
        done[name] += (server.kill if name == "server" else server.kill_worker)()
    return done


def wait_for_one(server: Server, ledger: Ledger) -> None:
    """Until somebody has seen the end of one more job."""
    before = len(ledger.seen)
    until(lambda: server.stands() and len(ledger.seen) > before, "a finished job")


def watch_memory(server: Server, seconds: float) -> dict[str, list[tuple[float, float]]]:
    """Minutes and MiB of each process, for so long without kills."""
    began, found = time.monotonic(), dict[str, list[tuple[float, float]]]()
    while (now := time.monotonic() - began) < seconds:
        for name, size in server.memory().items():
            found.setdefault(name, []).append((now / 60, size))
        time.sleep(min(1.0, seconds / 20))
    return found


def slope(points: list[tuple[float, float]]) -> float:
    """Growth in percent of the mean per ten minutes: the least-squares line through the last half."""
    late = points[len(points) // 2 :]
    minutes, sizes = [at for at, _ in late], [size for _, size in late]
    middle, mean = sum(minutes) / len(late), sum(sizes) / len(late)
    spread = sum((at - middle) ** 2 for at in minutes)
    rise = sum((at - middle) * (size - mean) for at, size in late) / spread if spread else 0.0
    return 1000 * rise / mean


def kept_files(folder: Path) -> set[str]:
    """What lies on the shelf when it has been swept of what killed workers left behind."""
    shelf = Shelf(folder / "pictures")
    with opened(folder) as store:
        sweep(store, shelf, grace_s=-60)
    return {name for id in shelf.jobs() for name in shelf.written(id)}


def faults(jobs: dict[str, Job], kept: set[str], ledger: Ledger) -> dict[str, list[str]]:
    """What is wrong, most of it with jobs, by what it is."""
    names = Counter(picture.name for job in jobs.values() for picture in job.pictures or ())
    shown = {id: [picture.name for picture in job.pictures or ()] for id, job in jobs.items()}
    return {
        "lost": [id for id in ledger.accepted if id not in jobs],
        "not ended": [id for id, job in jobs.items() if not job.state.ended],
        "ended wrongly": [id for id, job in jobs.items() if job.state.ended and not _ended_well(job, ledger)],
        "never ordered": [id for id in jobs if id not in ledger.accepted],
        "stored twice": [id for id, found in shown.items() if max(map(names.__getitem__, found), default=1) > 1],
        "changed after their end": [id for id, seen in ledger.seen.items() if shown.get(id) != seen],
        "without their files": [id for id, found in shown.items() if not kept.issuperset(found)],
        "files that no job knows": sorted(kept - names.keys()),
        "clients that gave up": ledger.given_up,
    }


def _ended_well(job: Job, ledger: Ledger) -> bool:
    if job.state == JobState.CANCELLED:
        return job.id in ledger.cancelled
    seeds = [picture.seed for picture in job.pictures or ()]
    order = job.request
    return job.state == JobState.SUCCEEDED and seeds == [order["seed"] + n for n in range(order["count"])]


@dataclass
class Outcome:
    """What a soak came to."""

    habits: Counter[str]  # of those who made the jobs that were accepted
    kills: Counter[str]
    again: int  # jobs that a killed process had begun
    faults: dict[str, list[str]]
    memory: dict[str, list[tuple[float, float]]]
    code: int  # the server's, when it was asked to end

    def __str__(self) -> str:
        wrong = ", ".join(f"{len(found)} {name}" for name, found in self.faults.items())
        lines = [f"{self.habits.total()} jobs accepted ({', '.join(f'{count} {habit}' for habit, count in self.habits.items())})",
                 f"kill -9: {', '.join(f'{count} {name}' for name, count in self.kills.items())}; {self.again} jobs begun again",
                 wrong, *(f"{name}: {', '.join(found[:5])}" for name, found in self.faults.items() if found)]  # fmt: skip
        for name, points in self.memory.items():
            if len(points) > 3:
                lines.append(f"{name}: {points[0][1]:.0f} to {points[-1][1]:.0f} MiB, {slope(points):+.2f} % in 10 minutes")
        return "\n".join(lines)


def soak(folder: Path, model: str, kill_s: float, calm_s: float, kills: int, clients: int = 6, seed: int = 0) -> Outcome:
    """Run it all in a folder that is empty."""
    server, ledger, over = Server(folder, model, SETTINGS), Ledger(), threading.Event()
    crowd = [Client(number, server.url, ledger, over) for number in range(clients)]
    try:
        for client in crowd:
            client.start()
        done = kill_at_random(server, ledger, kill_s, kills, random.Random(seed))
        wait_for_one(server, ledger)
        memory = watch_memory(server, calm_s)
        over.set()
        until(lambda: server.stands() and not any(client.is_alive() for client in crowd), "the clients' leaving", pause=0.2)
        with opened(folder) as store:
            until(lambda: server.stands() and not any(store.depth().values()), "the end of the last job", pause=0.5)
            jobs = {job.id: job for job in store.find(limit=10**6)}
        code = server.stop()
    finally:
        over.set()
        server.process.kill()
    again = sum(job.fence > 1 for job in jobs.values())
    habits = Counter(ledger.accepted.values())
    return Outcome(habits, done, again, faults(jobs, kept_files(folder), ledger), memory, code)


@contextmanager
def opened(folder: Path) -> Iterator[JobStore]:
    """The jobs of a server."""
    database = Database(folder / "jobs.sqlite")
    try:
        yield JobStore(database)
    finally:
        database.close()


def tiny_model(folder: Path) -> str:
    """A cascade so small that processes, not pictures, take the time."""
    from tiny import tiny_cascade

    from sotediffusion.weights.store import save_cascade

    save_cascade(tiny_cascade(), folder / "tiny")
    return str(folder / "tiny")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--kills", type=int, default=20, help="at least")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="a model to serve; a tiny one with random weights without it")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        model = arguments.model or tiny_model(Path(place))
        outcome = soak(folder, model, seconds / 3, seconds * 2 / 3, arguments.kills, arguments.clients, arguments.seed)
    print(outcome)
    sys.exit(any(outcome.faults.values()) or outcome.code != 0)


if __name__ == "__main__":
    main()
