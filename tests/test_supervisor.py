"""Deaths: of workers at any moment, of the supervisor itself, of jobs that kill; nothing is lost and nothing is stored twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving import QUICK, SMALL, Place, serving, tiny
from test_engine import of_kind
from test_worker import LONG, check_pictures

from sotediffusion.config import plain
from sotediffusion.models.stage_c import StageC
from sotediffusion.serve.engine.supervisor import Patience, Supervisor
from sotediffusion.serve.storage.jobs import JobState, StoreDown
from sotediffusion.serve.storage.store import Limits
from sotediffusion.weights.store import save_cascade

POISON = "cat ears, pink hair, long hair, " * 24  # three chunks of 77 tokens, the only ones here


class Poisoned(StageC):
    """Ends the process when it is given a text of three chunks."""

    def forward(self, x: Any, r: Any, cond: Any) -> Any:
        if cond.keys[0].shape[2] > 200:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x, r, cond)


def test_twenty_kills_at_random_moments_lose_no_job_and_store_each_result_once(tmp_path: Path) -> None:
    chance = random.Random(5)
    requests = [replace(SMALL, seed=n, steps=chance.randint(1, 30), prompt=f"hat {n}") for n in range(24)]
    with serving(tmp_path, limits=Limits(charges=10**6)) as place:
        ids = [place.submit(request) for request in requests]
        kills = 0
        while kills < 20:
            place.watch(chance.expovariate(4))
            child = place.supervisor.child
            if child is not None and child.process.poll() is None:
                child.process.kill()
                kills += 1
            if all(place.job(id).state.ended for id in ids):
                ids.append(place.submit(requests[0]))
                requests.append(requests[0])
        for job, request in zip(place.until_ended(*ids), requests, strict=True):
            check_pictures(place, job, request)
        assert max(Counter(place.ended).values()) == 1 and set(place.ended) <= set(ids)


def test_a_job_that_kills_fails_with_its_reason_and_its_neighbours_finish_uncharged(tmp_path: Path) -> None:
    cascade = of_kind("stage_c", Poisoned)
    with serving(tmp_path, opener=lambda *where: cascade) as place:
        requests = [replace(SMALL, seed=n, steps=20) for n in range(3)]
        before = [place.submit(request) for request in requests]
        poison = place.submit(replace(SMALL, prompt=POISON))
        after = [place.submit(request) for request in requests]
        job, *_ = place.until_ended(poison, *before, *after)
        assert job.state == JobState.FAILED and job.attempts == 3 and job.pictures is None
        assert job.error and "signal 9 (SIGKILL)" in job.error.message
        for id, request in zip(before + after, requests * 2, strict=True):
            assert place.job(id).attempts == 0
            check_pictures(place, place.job(id), request)


def test_a_fault_in_the_worker_is_a_death_with_its_reason(tmp_path: Path) -> None:
    class Broken(StageC):
        def forward(self, x: Any, r: Any, cond: Any) -> Any:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    cascade = of_kind("stage_c", Broken)
    with serving(tmp_path, opener=lambda *where: cascade) as place:
        (job,) = place.until_ended(place.submit())
        assert job.state == JobState.FAILED and job.attempts == 3 and job.error
        assert job.error.message.endswith("ended with code 1: RuntimeError: CUDA error: an illegal memory access was encountered")


class Ends:
    """A process of nothing: what the supervisor sees of one, decided by the test."""

    def __init__(self, code: int | None):
        self.pid, self.code, self.signals = 0, code, list[int]()

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def kill(self) -> None:
        self.code = -signal.SIGKILL


def watched(
    place: Place, code: int | None, patience: Patience = Patience(), **settings: Any
) -> tuple[Supervisor, list[float], list[float]]:
    now, starts = [0.0], list[float]()

    def start(number: int) -> Any:
        starts.append(now[0])
        return Ends(code)

    told = replace(place.told, **settings)
    return Supervisor(told, place.store, patience, start, clock=lambda: now[0]), now, starts


def test_restarts_wait_twice_as_long_each_time_up_to_a_bound(tmp_path: Path) -> None:
    place = Place(tmp_path)
    supervisor, now, starts = watched(place, 3, Patience(first_s=1.0, most_s=8.0))
    while len(starts) < 7:
        supervisor.tick()
        now[0] += 0.25
    gaps = [round(later - earlier) for earlier, later in zip(starts, starts[1:], strict=False)]
    assert gaps == [1, 2, 4, 8, 8, 8]
    assert supervisor.trouble == "the worker that drew it ended with code 3" and not supervisor.ready


def test_a_worker_that_takes_no_step_is_ended_and_one_that_waits_for_work_is_not(tmp_path: Path) -> None:
    supervisor, now, starts = watched(Place(tmp_path), None, hung_s=10.0)
    supervisor.tick()
    child = supervisor.child
    assert child is not None
    for second in range(1, 30):
        now[0] = second
        supervisor._hear(child, {"say": "alive", "ticks": 5, "busy": second >= 15}, now[0])
        supervisor.tick()
        assert (supervisor.child is child) == (second <= 25)
    assert supervisor.trouble.endswith("SIGKILL): it took no step for 10 s")


def test_a_step_may_take_longer_on_a_cpu_unless_the_operator_says_how_long(tmp_path: Path) -> None:
    place = Place(tmp_path)
    settings: list[dict[str, Any]] = [{"device": "cpu"}, {"device": "cuda"}, {"device": "cpu", "hung_s": 60.0}]
    assert [watched(place, None, **said)[0].hung_s for said in settings] == [3600, 900, 60]


def test_a_death_is_told_to_the_store_as_soon_as_it_answers_again_and_before_the_next_start(tmp_path: Path) -> None:
    place = Place(tmp_path)
    told = []

    class Away(type(place.store)):  # type: ignore[misc]
        def suspects(self, worker: str, reason: str) -> list:
            told.append(worker)
            if len(told) < 4:
                raise StoreDown("made for the test")
            return super().suspects(worker, reason)

    supervisor, now, starts = watched(place, -11, QUICK)
    supervisor.store = Away(place.database)
    while len(starts) < 2:
        supervisor.tick()
        now[0] += 1
    assert len(told) >= 4 and len(set(told[:4])) == 1 and starts[1] - starts[0] >= 3


SUPERVISE = """
import sys, time
from pathlib import Path
from sotediffusion.config import build
import json
from sotediffusion.serve.engine.channel import WorkerSettings
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.serve.engine.supervisor import Supervisor
settings = build(WorkerSettings, json.loads(sys.stdin.read()))
supervisor = Supervisor(settings, JobStore(Database(settings.jobs)))
while True:
    supervisor.tick()
    if supervisor.child:
        print(supervisor.child.process.pid, flush=True)
    time.sleep(0.05)
"""


def over(process: int) -> bool:
    """Whether a process has ended; it stays a zombie where the first process of a container does not ask after it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True


def test_when_the_supervisor_is_killed_its_worker_gives_back_what_it_has_and_ends(tmp_path: Path) -> None:
    """Real processes throughout: a supervisor, and the worker it started, with weights from a folder."""
    save_cascade(tiny("", None, "cpu"), tmp_path / "model")
    place = Place(tmp_path)
    settings = replace(place.told, models={"tiny": str(tmp_path / "model")}, threads=1)
    running = place.submit(LONG)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", SUPERVISE], **pipes, text=True) as supervisor:
        assert supervisor.stdin and supervisor.stdout
        supervisor.stdin.write(json.dumps(plain(settings)))
        supervisor.stdin.close()
        worker = int(supervisor.stdout.readline())
        end = time.monotonic() + 300
        while not place.job(running).progress:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert str(tmp_path) not in Path(f"/proc/{worker}/cmdline").read_text()
        supervisor.kill()
    end = time.monotonic() + 300
    while not over(worker):
        assert time.monotonic() < end
        time.sleep(0.05)
    job = place.job(running)
    assert (job.state, job.attempts, job.alone) == (JobState.QUEUED, 0, False)
